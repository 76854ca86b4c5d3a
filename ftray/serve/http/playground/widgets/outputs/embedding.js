// An answer of kind embedding: a vector, and its cosine with the vector of the text asked before.

import { make } from "../../dom.js";
import { predicted } from "./predicted.js";

const SHOWN = 8;
let before = null;

function render(vector, values) {
  const [text] = Object.values(values), nodes = [];
  if (before && before.vector.length === vector.length) {
    const cosine = vector.reduce((sum, number, place) => sum + number * before.vector[place], 0);
    const line = make("p", undefined, "found");
    line.append(make("strong", `${cosine.toFixed(3)} like the text before`), make("span", before.text, "share"));
    nodes.push(line);
  }
  before = { text, vector };
  const first = vector.slice(0, SHOWN).map((number) => number.toFixed(3)).join(", ");
  return [...nodes, make("p", `${vector.length} numbers: ${first}, …`)];
}

export const embedding = predicted({
  render,
  columns: (vector) => ({ embedding: vector.map((number) => number.toPrecision(6)).join(" ") }),
});
