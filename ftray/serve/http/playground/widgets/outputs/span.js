// An answer of kind span: a part of the context, marked there, or no answer.

import { make, percent } from "../../dom.js";
import { predicted } from "./predicted.js";

function render({ answer, start, end, score }, { context }) {
  const line = make("p", undefined, "found");
  line.append(make("strong", answer || "no answer", answer ? "" : "none"));
  line.append(make("span", percent(score), "share"));
  const box = make("div", undefined, "context");
  box.tabIndex = 0; // so that keys can scroll it
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Context");
  box.setAttribute("aria-live", "off"); // what is read out is the answer
  // start and end count code points, of which some are two characters of a JavaScript string.
  const points = Array.from(context);
  const part = (from, to) => points.slice(from, to).join("");
  const mark = make("mark", part(start, end));
  if (answer) box.append(part(0, start), mark, part(end));
  else box.append(context);
  // Once the box is in the page: of a long context, the part around the answer is to be seen.
  if (answer) queueMicrotask(() => { box.scrollTop = mark.offsetTop - box.offsetTop - box.clientHeight / 2; });
  return [line, box];
}

export const span = predicted({
  render,
  columns: ({ answer, score, start, end }) => ({ answer, score, start, end }),
});
