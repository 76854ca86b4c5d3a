// Writes the request of the page for a shell and in Python.

const KEY = "FTRAY_KEY"; // the environment variable with the API key

const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function literal(value) {
  if (value === null) return "None";
  if (Array.isArray(value)) return "[" + value.map(literal).join(", ") + "]";
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).map(([name, part]) => JSON.stringify(name) + ": " + literal(part));
  return "{" + entries.join(", ") + "}";
}

// A request with `body` as JSON or, where `files` (input name -> name of a file) has some, as a form
// with `body` as its fields.
export function inShell(url, body, files, withKey) {
  const form = Object.keys(files).length > 0;
  const parts = form ? [
    ...Object.entries(body).map(([name, value]) => "--form-string " + quoted(`${name}=${value}`)),
    ...Object.entries(files).map(([name, file]) => "-F " + quoted(`${name}=@${file}`)),
  ] : ["-H 'content-type: application/json'", "-d " + quoted(JSON.stringify(body))];
  const key = withKey ? [`-H "authorization: Bearer $${KEY}"`] : [];
  return ["curl " + url, ...key, ...parts].join(" \\\n  ");
}

export function inPython(url, body, files, withKey) {
  const form = Object.keys(files).length > 0;
  const opened = Object.entries(files)
    .map(([name, file]) => `${JSON.stringify(name)}: open(${JSON.stringify(file)}, "rb")`);
  const sent = form ? [`data=${literal(body)}`, `files={${opened.join(", ")}}`] : [`json=${literal(body)}`];
  const key = withKey ? [`headers={"authorization": f"Bearer {os.environ['${KEY}']}"}`] : [];
  return [
    ...(withKey ? ["import os"] : []), "import requests", "",
    "answer = requests.post(",
    ...[JSON.stringify(url), ...sent, ...key].map((argument) => `    ${argument},`),
    ")",
    "print(answer.json())",
  ].join("\n");
}
