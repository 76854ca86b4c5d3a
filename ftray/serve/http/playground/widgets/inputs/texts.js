// An input of kind texts: an area with a text a line.

import { make } from "../../dom.js";

const linesOf = (area) => area.value.split(/\r?\n/).filter((line) => line.trim());

export const texts = {
  isFile: false,
  holds: (value) => Array.isArray(value) && value.every((text) => typeof text === "string"),
  some: ["some text", "another"],

  create(id) {
    const node = make("div"), label = make("label"), area = make("textarea");
    label.htmlFor = area.id = id;
    area.required = true;
    area.placeholder = "one a line";
    node.append(label, area);
    return {
      node,
      label,
      read: async () => linesOf(area),
      write: (value) => { area.value = [value].flat().map((text) => text.replace(/\s+/g, " ")).join("\n"); },
      sample: () => (area.value.trim() ? linesOf(area) : null),
      focus: () => area.focus(),
    };
  },

  thumbnail: (value) => make("span", value.join(" / ")),
};
