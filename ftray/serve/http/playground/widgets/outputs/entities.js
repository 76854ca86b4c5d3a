// An answer of kind entities: parts of the text, marked there with their labels.

import { make, percent } from "../../dom.js";
import { predicted } from "./predicted.js";

function render(entities, values) {
  const [text] = Object.values(values);
  const line = make("p", undefined, "found"), count = entities.length;
  line.append(count ? make("strong", `${count} found`) : make("strong", "nothing found", "none"));
  const box = make("div", undefined, "context");
  box.tabIndex = 0; // so that keys can scroll it
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Text");
  // start and end count code points, of which some are two characters of a JavaScript string.
  const points = Array.from(text);
  let place = 0;
  for (const { entity_group, score, start, end } of entities) {
    const mark = make("mark", points.slice(start, end).join(""));
    mark.append(make("small", ` ${entity_group}`));
    mark.title = percent(score);
    box.append(points.slice(place, start).join(""), mark);
    place = end;
  }
  box.append(points.slice(place).join(""));
  return [line, box];
}

export const entities = predicted({
  render,
  columns: (found) => ({ entities: found.map((each) => `${each.entity_group}: ${each.word}`).join(", ") }),
});
