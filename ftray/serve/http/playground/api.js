// Sends requests to the service. Paths are relative to the page: the service may lie behind a prefix.

import { at } from "./dom.js";

export async function send(path, body, signal) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  if (at("key").value) headers.authorization = "Bearer " + at("key").value;
  const options = body === undefined ? { headers }
    : { headers, method: "POST", body: JSON.stringify(body), signal };
  const answer = await fetch(path, options);
  if (answer.status === 401) { at("key-row").hidden = false; at("key").focus(); }
  if (!answer.ok) throw new Error(await faultOf(answer));
  return answer;
}

export const ask = async (path, body) => (await send(path, body)).json();

export const pathOf = (id) => "v1/models/" + encodeURIComponent(id);

// A proxy in front of the service may answer with something else than the service's JSON.
async function faultOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return "the service answered with status " + answer.status;
  }
}

// Yields the server-sent events of an answer.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const content = part.replace(/^data: /, "");
      if (content === "[DONE]") return;
      const event = JSON.parse(content);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
