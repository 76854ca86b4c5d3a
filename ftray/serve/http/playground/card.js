// Shows what a model is: its name, its origin and its metrics.

import { at, make, row } from "./dom.js";

export function showCard(card) {
  const version = card.version === null ? "" : ", version " + card.version;
  document.title = card.model + " · ftray";
  at("name").textContent = card.model;
  at("about").textContent = card.task + version;
  at("facts").replaceChildren(...factsOf(card).map(([name, value]) => row(name, [value])));
  showMetrics(card.metrics);
  at("model").hidden = at("more").hidden = false;
}

function factsOf(card) {
  const facts = [["Base model", card.base], ["Run", card.run]];
  if (card.output === "text") facts.push(["Asked", card.chat ? "as a chat" : "to go on with a text"]);
  if (card.labels.length) facts.push(["Labels", card.labels.join(", ")]);
  if (card.output === "span") facts.push(["Reads", `a context in windows of ${card.max_length} tokens`]);
  else if (card.output !== "text" && Object.values(card.inputs).includes("text")) {
    facts.push(["Reads", `the first ${card.max_length} tokens of a text`]);
  }
  return facts;
}

function showMetrics(metrics) {
  const splits = Object.keys(metrics);
  const numeric = (split) => Object.keys(metrics[split]).filter((name) => isNumber(metrics[split][name]));
  const names = [...new Set(splits.flatMap(numeric))];
  at("splits").replaceChildren(make("th", ""), ...splits.map((split) => make("th", split.replace("_", " "))));
  at("metrics").replaceChildren(...names.map((name) => {
    const cells = splits.map((split) => (isNumber(metrics[split][name]) ? plain(metrics[split][name]) : ""));
    return row(name, cells, "number");
  }));
}

const isNumber = (value) => typeof value === "number";

const plain = (value) => (value > 1 && Number.isInteger(value) ? String(value) : value.toFixed(4));
