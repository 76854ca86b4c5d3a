"""Runs clients from PyPI against a served model.

    python -m tests.bench.serving.clients [--examples 100]

schemathesis sends requests that the OpenAPI document allows and requests that it forbids.
tritonclient speaks the Open Inference Protocol, in JSON and in binary tensors. OpenAI's client
lists the models, completes texts and chats with a model, whole and streamed, and asks for the
vectors of texts. Each client is
installed into a folder of its own, which is deleted afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import make_embedder, make_model
from tests.helpers.serving.served import served

# A 413 refuses a request too, but schemathesis does not accept it by default.
_CHECKS = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 413, 415, 422]

# That a tensor's shape is that of its data, how many tokens a prompt has, or whether a text has any
# character that can be seen, no schema can say.
[[operations]]
include-path-regex = "/(infer|completions|embeddings|predict)$"
checks.positive_data_acceptance.enabled = false

# Schemathesis writes no JSON lines.
[[operations]]
include-path-regex = "/stream$"
enabled = false
"""
# The first configuration lets schemathesis make up model names; the second names a model that
# exists.
_CONFIGS = (_CHECKS, 'parameters = { "path.name" = "one", "path.version" = "1" }\n' + _CHECKS)
_TRITON = """
import sys
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("one")
metadata = client.get_model_metadata("one")
labels = metadata["parameters"]["labels"]
texts = np.array(["A wonderful film.", "naïve 🎬", "Dull."], dtype=object)
answers = []
for binary in (True, False):
    tensor = http.InferInput("text", [3], "BYTES")
    tensor.set_data_from_numpy(texts, binary_data=binary)
    wanted = [http.InferRequestedOutput(n, binary_data=False) for n in ("label", "probabilities")]
    answer = client.infer("one", [tensor], outputs=wanted)
    shares = answer.as_numpy("probabilities")
    assert shares.shape == (3, len(labels)) and np.allclose(shares.sum(1), 1, atol=1e-5)
    assert [labels[i] for i in shares.argmax(1)] == list(answer.as_numpy("label"))
    answers.append(shares)
assert np.array_equal(*answers)
print("tritonclient: metadata, readiness, JSON and binary tensors")
"""
_OPENAI = """
import asyncio
import sys
import openai
client = openai.OpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="none")
assert [m.id for m in client.models.list()] == ["one", "two", "writer", "vectors"]
assert client.models.retrieve("two").owned_by == "ftray"
told = dict(model="writer", max_tokens=20, temperature=0)
whole = client.completions.create(prompt=["the film has", "a"], stop=["<>"], **told)
assert [choice.index for choice in whole.choices] == [0, 1] and whole.usage.completion_tokens > 1
parts = client.completions.create(prompt="the film has", stream=True, **told)
assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
turns = [{"role": "system", "content": "kind"}, {"role": "user", "content": "the film?"}]
answer = client.chat.completions.create(messages=turns, **told)
turns += [answer.choices[0].message, {"role": "user", "content": "why?"}]
again = client.chat.completions.create(messages=turns, n=2, seed=3, model="writer", max_tokens=9)
assert len(again.choices) == 2 and again.choices[0].message.role == "assistant"
options = {"include_usage": True}
chunks = list(client.chat.completions.create(
    messages=turns[:2], stream=True, stream_options=options, **told))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == answer.choices[0].message.content and chunks[-1].usage == answer.usage
with client.chat.completions.stream(messages=turns[:2], **told) as stream:
    grown = "".join(event.delta for event in stream if event.type == "content.delta")
    assert grown == stream.current_completion_snapshot.choices[0].message.content == text
for wrong, error in (
    (dict(told, model="none", messages=turns[:2]), openai.NotFoundError),
    (dict(told, model="one", messages=turns[:2]), openai.NotFoundError),
    (dict(told, messages=[{"role": "user", "content": "x " * 999}]), openai.BadRequestError),
    (dict(told, messages=turns[:2], tools=[{"type": "function", "function": {"name": "f"}}]),
     openai.BadRequestError),
):
    try:
        client.chat.completions.create(**wrong)
    except error as refused:
        assert refused.body["message"] and refused.code != 200, refused
    else:
        raise AssertionError(wrong)
texts = ["a fine film", "dull", "a good movie"]
found = client.embeddings.create(model="vectors", input=texts)
plain = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
assert found.usage.prompt_tokens > 3 and [each.index for each in found.data] == [0, 1, 2]
for one, other in zip(found.data, plain.data):
    assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6
film, dull, movie = (each.embedding for each in plain.data)
near = [sum(a * b for a, b in zip(film, other)) for other in (film, movie, dull)]
assert abs(near[0] - 1) < 1e-5 and near == sorted(near, reverse=True), near
short = client.embeddings.create(model="vectors", input="dull", dimensions=64)
assert len(short.data[0].embedding) == 64
async def many():
    peer = openai.AsyncOpenAI(base_url=client.base_url, api_key="none")
    asked = [peer.completions.create(prompt="the film has", **told) for _ in range(32)]
    return {answer.choices[0].text for answer in await asyncio.gather(*asked)}
assert asyncio.run(many()) == {whole.choices[0].text}
print("openai: models, completions, chat.completions: whole, streamed, async, refused; embeddings")
"""


def main() -> None:
    options = _options()
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="clients-") as name:
        here = Path(name)
        folders = [str(make_model(here / model, model)) for model in ("one", "two")]
        folders.append(str(make_generator(here / "writer", "writer")))
        folders.append(str(make_embedder(here / "vectors", "vectors")))
        with served(folders[0], *folders[1:]) as (url, _):
            address = url.removeprefix("http://")
            _with(here / "triton", "tritonclient[http]==2.73.0", "-c", _TRITON, address)
            _with(here / "openai", "openai==3.54.0", "-c", _OPENAI, address)
            tool = ("-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--workers", "1")
            for config in _CONFIGS:
                (here / "schemathesis.toml").write_text(config)
                _with(here / "schemathesis", "schemathesis==4.32.5", *tool, f"-n{options.examples}")


def _with(folder: Path, package: str, *arguments: str) -> None:
    """Runs Python with a package that is not part of this environment."""
    if not folder.exists():
        install = ("-m", "pip", "install", "--quiet", "--target", str(folder), package)
        subprocess.run([sys.executable, *install], check=True, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder.parent, env=environment)
    if done.returncode:
        raise SystemExit(f"{package} is not content")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Other people's clients.")
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, an operation")
    return parser.parse_args()


if __name__ == "__main__":
    main()
