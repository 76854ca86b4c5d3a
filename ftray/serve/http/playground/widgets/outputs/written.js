// An answer of kind written: a text that comes whole.

import { make } from "../../dom.js";
import { predicted } from "./predicted.js";

export const written = predicted({
  render: ({ generated_text }) => [make("p", generated_text, "written")],
  columns: ({ generated_text }) => ({ text: generated_text }),
});
