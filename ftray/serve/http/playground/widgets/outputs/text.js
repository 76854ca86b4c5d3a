// An answer of kind text, shown while the model writes it: it continues a text, or takes its turn in
// a chat.

import { events, send } from "../../api.js";
import { at, make } from "../../dom.js";

let running = null, turns = [];

function begin() {
  running?.abort();
  turns = [];
  at("turns").replaceChildren();
  at("result").replaceChildren();
  at("anew").hidden = true;
}

function messages(text) {
  const system = at("system").value.trim();
  const first = system ? [{ role: "system", content: system }] : [];
  return [...first, ...turns, { role: "user", content: text }];
}

function program(card, text) {
  const limits = { max_tokens: Number(at("most").value), temperature: Number(at("heat").value) };
  return card.chat ? ["v1/chat/completions", { model: card.id, messages: messages(text), ...limits }]
    : ["v1/completions", { model: card.id, prompt: text, ...limits }];
}

async function answer(card, text, values, page) {
  const started = performance.now(), since = () => (performance.now() - started).toFixed(0) + " ms";
  const [path, asked] = program(card, text);
  const body = { ...asked, stream: true, stream_options: { include_usage: true } };
  const chat = turns; // a new chat has another list
  const written = make("div", "", card.chat ? "turn" : "written"), note = make("p", "…", "soft");
  if (card.chat) {
    chat.push({ role: "user", content: text });
    at("turns").append(make("div", text, "turn user"), written);
    page.clear();
    at("anew").hidden = false;
    page.show(note);
  } else page.show(written, note);
  const own = running = new AbortController();
  at("stop").hidden = false;
  let first = null, tokens = null, why = "";
  try {
    for await (const event of events(await send(path, body, own.signal))) {
      if (event.usage) tokens = event.usage.completion_tokens;
      for (const choice of event.choices) {
        const piece = card.chat ? choice.delta.content : choice.text;
        if (piece) { first = first || since(); written.append(piece); }
        if (choice.finish_reason === "length") why = ", cut off there";
      }
    }
    const version = card.version === null ? "" : `version ${card.version}, `;
    const wait = first ? ", the first text after " + first : "";
    note.textContent = `${version}${tokens} tokens in ${since()}${wait}${why}`;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    note.textContent = "stopped after " + since();
  } finally {
    at("stop").hidden = true;
    if (card.chat) chat.push({ role: "assistant", content: written.textContent });
  }
}

at("stop").addEventListener("click", () => running.abort());
at("anew").addEventListener("click", begin);

export const text = {
  button: "Generate",
  label: (card) => (card.chat ? "Your turn" : "Text"),
  program,
  answer,
  enter(card) {
    at("options").hidden = false;
    at("system-row").hidden = !card.chat;
  },
  leave() {
    begin();
    at("options").hidden = at("system-row").hidden = true;
  },
};
