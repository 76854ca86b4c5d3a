// Answers a file of rows, for models whose inputs are texts.

import { ask, pathOf } from "./api.js";
import { at, heading, make } from "./dom.js";

const SHOWN = 50, AT_ONCE = 64;

export function showFileRow(card, output) {
  const names = Object.keys(card.inputs), kinds = Object.values(card.inputs);
  const [one] = names, all = names.join(" and ");
  at("file-row").hidden = !output.columns || kinds.some((kind) => kind !== "text");
  at("file").accept = names.length === 1 ? ".txt,.jsonl,.csv" : ".jsonl,.csv";
  at("file").value = "";
  at("rows").replaceChildren();
  at("file-about").textContent = names.length === 1
    ? `A .txt with a text a line, .jsonl with a field ${one}, or .csv with a column ${one}.`
    : `A .jsonl with the fields ${all}, or a .csv with such columns.`;
}

export async function answerFile(card, output) {
  const [file] = at("file").files, names = Object.keys(card.inputs);
  if (!file) return;
  try {
    const asked = rowsOf(file.name.toLowerCase(), await file.text(), names), found = [];
    if (!asked.length) throw new Error("the file has no rows");
    for (let start = 0; start < asked.length; start += AT_ONCE) {
      at("rows").replaceChildren(make("p", `${start} of ${asked.length} rows answered`, "soft"));
      const some = asked.slice(start, start + AT_ONCE);
      const inputs = names.length === 1 ? some.map((row) => row[names[0]]) : some;
      const { outputs } = await ask(pathOf(card.id) + "/predict", { inputs });
      found.push(...outputs.map(output.columns));
    }
    const columns = Object.keys(found[0]);
    const scroll = make("div", undefined, "scroll");
    scroll.append(tableOf(asked, found, names, columns));
    at("rows").replaceChildren(linkTo(file, asked, found, names, columns), scroll);
  } catch (error) {
    at("rows").replaceChildren(make("p", error.message, "error"));
  }
}

function tableOf(asked, found, names, columns) {
  const table = make("table"), head = make("tr"), body = make("tbody");
  head.append(...[...names, ...columns].map((name) => make("th", heading(name))));
  found.slice(0, SHOWN).forEach((answer, place) => {
    const line = make("tr");
    line.append(...names.map((name) => make("td", asked[place][name])));
    line.append(...columns.map((name) => cellOf(answer[name])));
    body.append(line);
  });
  table.append(head, body);
  return table;
}

function cellOf(value) {
  if (typeof value !== "number") return make("td", value);
  return make("td", Number.isInteger(value) ? String(value) : value.toFixed(3), "number");
}

function linkTo(file, asked, found, names, columns) {
  const cell = (value) => '"' + String(value).replaceAll('"', '""') + '"';
  const lines = found.map((answer, place) => [
    ...names.map((name) => asked[place][name]), ...columns.map((name) => answer[name]),
  ].map(cell).join(","));
  const link = make("a", `All ${found.length} rows as CSV`);
  const content = [[...names, ...columns].join(","), ...lines].join("\n") + "\n";
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = file.name.replace(/\.\w+$/, "") + "-answers.csv";
  return link;
}

// Returns the rows of a file, each an object with a text for each name.
function rowsOf(fileName, content, names) {
  if (fileName.endsWith(".csv")) return csvRows(content, names);
  const lines = content.split(/\r?\n/).filter((line) => line.trim());
  if (fileName.endsWith(".jsonl")) return lines.map((line, place) => jsonRow(line, place + 1, names));
  if (names.length > 1) throw new Error("a .jsonl or a .csv is read, with " + names.join(" and "));
  return lines.map((line) => ({ [names[0]]: line }));
}

function jsonRow(line, number, names) {
  const row = JSON.parse(line);
  const missing = names.find((name) => typeof row?.[name] !== "string");
  if (missing !== undefined) throw new Error(`line ${number} has no field ${missing}`);
  return Object.fromEntries(names.map((name) => [name, row[name]]));
}

function csvRows(content, names) {
  const [head = [], ...rows] = cells(content);
  const missing = names.find((name) => !head.includes(name));
  if (missing !== undefined) throw new Error(`no column is called ${missing}: ${head.join(", ")}`);
  return rows.map((row) => Object.fromEntries(names.map((name) => [name, row[head.indexOf(name)] ?? ""])));
}

// Returns the cells of a CSV file, row by row.
function cells(text) {
  const rows = [[""]];
  let inside = false;
  for (let i = 0; i < text.length; i++) {
    const row = rows[rows.length - 1], c = text[i];
    if (inside) {
      if (c !== '"') row[row.length - 1] += c;
      else if (text[i + 1] === '"') { row[row.length - 1] += c; i++; } else inside = false;
    } else if (c === '"' && row[row.length - 1] === "") inside = true;
    else if (c === ",") row.push("");
    else if (c === "\n") rows.push([""]);
    else if (c !== "\r") row[row.length - 1] += c;
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}
