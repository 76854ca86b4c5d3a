// An input of kind text: an area to type in.

import { make } from "../../dom.js";

export const text = {
  isFile: false,
  holds: (value) => typeof value === "string",
  some: "some text",

  create(id) {
    const node = make("div"), label = make("label"), area = make("textarea");
    label.htmlFor = area.id = id;
    area.required = true;
    node.append(label, area);
    return {
      node,
      label,
      read: async () => area.value,
      write: (value) => { area.value = value; },
      sample: () => area.value,
      focus: () => area.focus(),
    };
  },

  thumbnail: (value) => make("span", value),
};
