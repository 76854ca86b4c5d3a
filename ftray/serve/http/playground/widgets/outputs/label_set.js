// An answer of kind label_set: a bar for each label that is given, or none.

import { make } from "../../dom.js";
import { bars } from "./labels.js";
import { predicted } from "./predicted.js";

function render(labels) {
  if (labels.length) return bars(labels);
  const line = make("p", undefined, "found");
  line.append(make("strong", "no label", "none"));
  return [line];
}

export const labelSet = predicted({
  render,
  columns: (labels) => ({ labels: labels.map(({ label }) => label).join(", ") }),
});
