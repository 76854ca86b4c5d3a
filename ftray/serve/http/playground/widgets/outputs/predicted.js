// What the widgets of answers that come whole have in common: one request to a model's /predict.

import { ask, pathOf } from "../../api.js";
import { make } from "../../dom.js";

const pathTo = (card) => pathOf(card.id) + "/predict";

// render(output, values): the elements that show an output; columns(output): its cells in a table of
// many; options: fields of the page's request beside `inputs`; programOptions: of a program's.
export function predicted({ render, columns, options = {}, programOptions = options }) {
  return {
    button: "Predict",
    columns,
    program: (card, input) => [pathTo(card), { inputs: [input], ...programOptions }],
    async answer(card, input, values, page) {
      const started = performance.now();
      const found = await ask(pathTo(card), { inputs: [input], ...options });
      const time = `answered in ${(performance.now() - started).toFixed(0)} ms`;
      const version = found.version === null ? "" : `version ${found.version}, `;
      page.show(...render(found.outputs[0], values), make("p", version + time, "soft"));
    },
  };
}
