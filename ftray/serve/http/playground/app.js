// The page: lists the models, builds the form of the chosen one from the widgets of its inputs, and
// shows its answers with the widget of its kind of answer.

import { ask, pathOf } from "./api.js";
import { showCard } from "./card.js";
import { at, heading, make } from "./dom.js";
import { answerFile, showFileRow } from "./rows.js";
import { inPython, inShell } from "./snippets.js";
import { INPUTS, OUTPUTS } from "./widgets/registry.js";

let card = null, output = null;
let inputs = new Map(); // input name -> {kind, widget}
let loading = null; // of the chosen model's card; null where that failed

function load(what) {
  loading = what().catch((error) => { loading = null; throw error; });
  return loading;
}

const ready = () => loading ?? load(list);

async function list() {
  const { data } = await ask("v1/models");
  at("choice").replaceChildren(...data.map(({ id }) => make("option", id)));
  at("choice-row").hidden = data.length < 2;
  await describe();
}

async function describe() {
  const id = at("choice").value, found = await ask(pathOf(id));
  if (at("choice").value !== id) return; // meanwhile another model was chosen
  const kinds = [...Object.values(found.inputs).map((kind) => [INPUTS, kind]), [OUTPUTS, found.output]];
  const unknown = kinds.find(([widgets, kind]) => !Object.hasOwn(widgets, kind));
  output?.leave?.();
  at("result").replaceChildren();
  showCard(found);
  if (unknown) {
    card = output = null;
    at("inputs").replaceChildren();
    throw new Error("this page has no widget for the kind " + unknown[1]);
  }
  card = found;
  output = OUTPUTS[card.output];
  output.enter?.(card);
  placeInputs();
  showExamples();
  showFileRow(card, output);
  at("ask").textContent = output.button;
  at("hint").hidden = false;
  tell();
  if (document.activeElement === document.body) firstInput().focus();
}

// Places a widget for each input. One that the last model had, too, stays with what is in it.
function placeInputs() {
  inputs = new Map(Object.entries(card.inputs).map(([name, kind]) => {
    const last = inputs.get(name);
    return [name, last?.kind === kind ? last : { kind, widget: INPUTS[kind].create("input-" + name) }];
  }));
  for (const [name, { widget }] of inputs) {
    widget.label.textContent = output.label?.(card) ?? heading(name);
  }
  at("inputs").replaceChildren(...[...inputs.values()].map(({ widget }) => widget.node));
}

const firstInput = () => [...inputs.values()][0]?.widget;

// Whether an input is an object with fields, even where it has one.
const isRecord = () => [...inputs.values()].every(({ kind }) => INPUTS[kind].isField);

// Returns what is sent for values by input name: the value itself where a model has one input.
const inputOf = (values) => (inputs.size === 1 && !isRecord() ? Object.values(values)[0] : values);

// Returns values by input name of an example, or null where it is none for these inputs.
function valuesOf(example) {
  if (isRecord()) return typeof example === "object" ? example : null;
  const values = inputs.size === 1 ? { [[...inputs.keys()][0]]: example } : example;
  return [...inputs].every(([name, { kind }]) => INPUTS[kind].holds(values?.[name])) ? values : null;
}

function showExamples() {
  const examples = card.examples.map(valuesOf).filter(Boolean);
  at("examples").replaceChildren(...examples.map(exampleButton));
  at("examples").hidden = examples.length === 0;
}

function exampleButton(values, place) {
  const button = make("button", undefined, "second"), texts = [];
  button.type = "button";
  for (const [name, { kind }] of inputs) {
    if (texts.length) button.append(" · ");
    button.append(INPUTS[kind].thumbnail(values[name], `Example ${place + 1}`));
    if (!INPUTS[kind].isFile) texts.push(values[name]);
  }
  button.title = texts.join("\n");
  button.addEventListener("click", () => {
    for (const [name, { widget }] of inputs) widget.write(values[name]);
    tell();
    firstInput().focus();
  });
  return button;
}

// Writes the page's request as a program would send it.
function tell() {
  if (card === null) return;
  const example = card.examples.map(valuesOf).find(Boolean) ?? {}, texts = {}, files = {};
  for (const [name, { kind, widget }] of inputs) {
    if (INPUTS[kind].isFile) files[name] = widget.sample();
    else if (INPUTS[kind].isField) texts[name] = widget.sample() ?? example[name] ?? null;
    else texts[name] = widget.sample() || example[name] || INPUTS[kind].some;
  }
  const [path, body] = output.program(card, inputOf(texts));
  const { inputs: _, ...options } = body;
  const sent = Object.keys(files).length ? { ...texts, ...options } : body;
  const url = new URL(path, location.href).href, withKey = !at("key-row").hidden;
  at("curl").textContent = inShell(url, sent, files, withKey);
  at("python").textContent = inPython(url, sent, files, withKey);
}

function complain(error) {
  at("result").replaceChildren(make("p", error.message, "error"));
}

async function answer() {
  const values = {};
  for (const [name, { widget }] of inputs) values[name] = await widget.read();
  const asked = card;
  await output.answer(asked, inputOf(values), values, {
    show: (...nodes) => { if (card === asked) at("result").replaceChildren(...nodes); },
    clear: () => inputs.forEach(({ widget }) => widget.write("")),
  });
}

async function submit() {
  at("ask").disabled = true;
  try {
    const last = card;
    await ready();
    if (last === null) firstInput()?.focus();
    else if (card === last || at("form").reportValidity()) await answer();
  } catch (error) {
    complain(error);
  } finally {
    at("ask").disabled = false;
  }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
at("form").addEventListener("input", tell);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("key").addEventListener("change", () => { if (card === null) ready().catch(complain); });
at("file").addEventListener("change", () => answerFile(card, output));
at("choice").addEventListener("change", () => load(describe).catch(complain));
ready().catch(complain);
