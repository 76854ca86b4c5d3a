// The widgets by kind. A new kind needs a file and a line here, and its path in routes.py.

import { category, date, note, number } from "./inputs/field.js";
import { image } from "./inputs/image.js";
import { text } from "./inputs/text.js";
import { texts } from "./inputs/texts.js";
import { embedding } from "./outputs/embedding.js";
import { entities } from "./outputs/entities.js";
import { fills } from "./outputs/fills.js";
import { labelSet as label_set } from "./outputs/label_set.js";
import { items as nextItems } from "./outputs/items.js";
import { labels } from "./outputs/labels.js";
import { numbers } from "./outputs/numbers.js";
import { ranking } from "./outputs/ranking.js";
import { span } from "./outputs/span.js";
import { text as generated } from "./outputs/text.js";
import { written } from "./outputs/written.js";

// Kind of an input -> {create, thumbnail, isFile, isField, holds, some}. isField: of an object.
// create(id): a new widget {node, label, read, write, sample, focus}. read: a promise of the value as
// it is sent; write(value): shows such a value; sample: for programs, the text, or the name of the
// file.
// holds(value): whether a value is one of this kind; some: a value for programs, but of a file.
// thumbnail(value, name): an element that shows a value in small; name: says which it is.
const items = { ...texts, isField: true };
export const INPUTS = { text, texts, image, number, category, date, note, items };

// Kind of an answer -> {button, program, answer}, and where they differ: {label, enter, leave,
// columns}.
// program(card, input): path and body of a request, as a program sends it.
// answer(card, input, values, page): asks the service and shows the answer by page.show(...nodes);
// page.clear() empties the inputs. values: input name -> value.
// label(card): the label of the only input. enter(card), leave(): called when a model is chosen, and
// when another one is. columns(output): the cells of an answer in a table of many, column -> value.
export const OUTPUTS = { labels, label_set, numbers, span, entities, fills, embedding, ranking, items: nextItems, text: generated, written };
