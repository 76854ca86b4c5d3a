// Finds and makes elements. Every text is set as textContent: names, labels and answers of a model
// may hold anything.

export const at = (id) => document.getElementById(id);

export function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

export function row(head, cells, kind) {
  const line = make("tr");
  line.append(make("th", head), ...cells.map((cell) => make("td", cell, kind)));
  return line;
}

// The name of an input or a column as a heading: text_pair becomes Text pair.
export const heading = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

export const percent = (share) => (100 * share).toFixed(1) + " %";
