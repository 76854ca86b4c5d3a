// An answer of kind items: a bar for each item that may come next, the likeliest first.

import { bars } from "./labels.js";
import { predicted } from "./predicted.js";

export const items = predicted({
  render: (found) => bars(found.map(({ item, score }) => ({ label: item, score }))),
  columns: (found) => ({ items: found.map(({ item }) => item).join(", ") }),
  programOptions: { top_k: 3 },
});
