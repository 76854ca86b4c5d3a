// An answer of kind fills: for each hidden token the likeliest ones, as bars.

import { make } from "../../dom.js";
import { bars } from "./labels.js";
import { predicted } from "./predicted.js";

const several = (found) => (Array.isArray(found[0]) ? found : [found]);
const asLabels = (ranked) => ranked.map(({ token_str, score }) => ({ label: token_str, score }));

function render(found) {
  return several(found).flatMap((ranked) => [make("p", ranked[0].sequence, "soft"), ...bars(asLabels(ranked))]);
}

export const fills = predicted({
  render,
  columns: (found) => ({ tokens: several(found).map((ranked) => ranked[0].token_str).join(", ") }),
});
