// An answer of kind ranking: a bar for each text, the best first.

import { bars } from "./labels.js";
import { predicted } from "./predicted.js";

export const ranking = predicted({
  render: (ranked) => bars(ranked.map(({ text, score }) => ({ label: text, score }))),
  columns: (ranked) => ({ best: ranked[0].text }),
});
