// Inputs of the kinds number, category, date and note: a field of a record, which may be left empty.

import { make } from "../../dom.js";

const field = (attributes, valueOf = (text) => text) => ({
  isFile: false,
  isField: true,

  create(id) {
    const node = make("div"), label = make("label"), input = make("input");
    Object.assign(input, attributes);
    label.htmlFor = input.id = id;
    node.append(label, input);
    const value = () => (input.value.trim() === "" ? null : valueOf(input.value));
    return {
      node,
      label,
      read: async () => value(),
      write: (given) => { input.value = given ?? ""; },
      sample: value,
      focus: () => input.focus(),
    };
  },

  thumbnail: (value) => make("span", value ?? "–"),
});

export const number = field({ type: "number", step: "any" }, Number);
export const category = field({ type: "text" });
export const date = field({ type: "text", placeholder: "2026-01-31" });
export const note = field({ type: "text" });
