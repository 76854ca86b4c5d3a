// An answer of kind labels: a bar for each label, the likeliest first.

import { make, percent } from "../../dom.js";
import { predicted } from "./predicted.js";

const MOST = 20;

export function bars(labels) {
  const grid = make("div", undefined, "answer");
  for (const { label, score } of labels.slice(0, MOST)) {
    const track = make("div", undefined, "track"), bar = make("div");
    bar.style.width = (100 * score).toFixed(1) + "%";
    track.append(bar);
    grid.append(make("span", label, "label"), track, make("span", percent(score), "share"));
  }
  return [grid];
}

export const labels = predicted({
  render: bars,
  columns: ({ label, score }) => ({ label, score }),
  options: { top_k: 1000 },
  programOptions: { top_k: 3 },
});
