// An answer of kind numbers: one number, or several in their order.

import { make } from "../../dom.js";
import { predicted } from "./predicted.js";

// To five digits, and never less than the whole number.
const rounded = (number) => String(Math.abs(number) < 1e5 ? Number(number.toPrecision(5)) : Math.round(number));

function render({ score }) {
  if (!Array.isArray(score)) return [make("p", rounded(score), "figure")];
  const list = make("ol", undefined, "figures");
  list.append(...score.map((number) => make("li", rounded(number))));
  return [list];
}

function columns({ score }) {
  if (!Array.isArray(score)) return { score };
  return Object.fromEntries(score.map((number, place) => [`score ${place + 1}`, number]));
}

export const numbers = predicted({ render, columns });
