"""Models that generate, from training to answers over real HTTP."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from ftray.models.artifact.named import find_named
from ftray.models.generation.generator import Generator
from ftray.offline import predict as batch
from ftray.offline.evaluate import evaluate
from ftray.offline.resume import Parts, run_key
from ftray.serve.app import build
from ftray.spec.sections.compute import PLAIN
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from ftray.train.run import Trained
from tests.helpers.models.tiny_generator import make_base, make_generator, write_prompts
from tests.helpers.serving.served import free_port
from tests.helpers.training.small_runs import Events, losses, train_here, tree

PROMPTS = ["the film has", "a", "dull and", *(f"plot {n} of " + "the " * n for n in range(9))]
MOST, LIMIT = 24, 110
"""Tokens per request, and the most that the service allows."""


def spec(folder: Path, **sections: Any) -> dict[str, Any]:
    if not (folder / "prompts.jsonl").exists():
        make_base(folder / "base")
        write_prompts(folder / "prompts.jsonl", 300)
    whole = tree(
        folder,
        model={"name_or_path": str(folder / "base")},
        data={"train": str(folder / "prompts.jsonl"), "max_length": 48, "on_bad_row": "skip"},
        train={"learning_rate": 5e-3, "unfreeze": "all", "epochs": 2, "baselines": True},
        task="text-generation",
    )
    for name, values in sections.items():
        whole[name] = {**whole[name], **values}
    return whole


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def events() -> Events:
    return []


@pytest.fixture(scope="module")
def trained(ray_cluster: None, home: Path, events: Events) -> Trained:
    return train_here(spec(home), events)


def test_it_learns_what_follows(trained: Trained, events: Events) -> None:
    metrics = trained.info.metrics["test"]
    assert metrics["accuracy"] > 0.9, "labels that can be told from the words"
    assert metrics["perplexity"] < 2
    (before,) = (event for event in events if event["kind"] == "baseline")
    assert before["base"]["perplexity"] > 50 and before["rows"] == 30
    assert trained.info.metrics["base_model"]["tokens"] == metrics["tokens"]
    epochs = [event for event in events if event["kind"] == "epoch"]
    assert epochs[-1]["best"] == min(event["loss"] for event in epochs)
    assert trained.info.labels == () and trained.info.spec["train"]["metric"] == "loss"


@pytest.mark.slow
def test_workers_share_a_batch_by_its_tokens(trained: Trained, home: Path) -> None:
    """Ranks weight their losses by tokens, because a mean of the ranks' means would differ."""
    alone = train_here(spec(home, scale={"workers": 1}))
    two, one = losses(trained.run.location.path), losses(alone.run.location.path)
    assert len(one) == 30 and one == pytest.approx(two, rel=1e-3)


def test_it_is_evaluated_on_other_rows(trained: Trained, home: Path) -> None:
    rows = write_prompts(home / "others.jsonl", 40, seed=9)
    model = find_named(trained.version.folder.url, None)
    found = evaluate(model, str(rows), {}, None)
    assert found.metrics["accuracy"] > 0.9
    assert evaluate(model, None, {}, None).metrics == pytest.approx(trained.info.metrics["test"])


@pytest.mark.slow
def test_predictions_keep_their_rows(trained: Trained, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "ask.jsonl"
    words = ["wonderful", "awful", "gripping"]
    source.write_text("".join(json.dumps({"prompt": f"the {w} film:"}) + "\n" for w in words))
    model = find_named(trained.version.folder.url, None)
    rows = batch.read_rows(model, str(source), {}, None, ())
    parts = Parts(locate(str(tmp_path / "out.jsonl")), run_key(model.info, PLAIN, rows.questions))
    answers = batch.predict(model, rows, PLAIN, parts)
    predictions = [outcome["prediction"] for outcome in answers.outcomes]
    assert predictions == [" positive", " negative", " positive"]
    assert all(0.5 < outcome["score"] <= 1 for outcome in answers.outcomes)
    assert answers.cut == 0


@pytest.fixture(scope="module")
def served_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model that generates nonsense, the first of them in production."""
    root = tmp_path_factory.mktemp("served")
    opened = open_root(str(root))
    registry = Registry(opened)
    for number in (1, 2):
        folder = make_generator(root / "models" / "writer" / f"run-{number}", "writer", number)
        registry.register("writer", folder, f"run-{number}", {"loss": 1.0}, {})
    promote(registry, "writer:1", "production")
    return root


@pytest.fixture(scope="module")
def client(trained: Trained, served_root: Path) -> Iterator[httpx.Client]:
    port = free_port()
    settings = {
        "model": "writer@production",
        "storage": str(served_root),
        "max_tokens": LIMIT,
        "batch": {"max_size": 4, "max_waiting": 40},
    }
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        serve.run(build({**settings, "auth": False}), name="writer")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def expected(served_root: Path) -> dict[int, dict[str, str]]:
    """The completions of plain transformers, by version."""
    found = {}
    for number in (1, 2):
        made = Generator(locate(str(served_root / "models" / "writer" / f"run-{number}")))
        texts = {}
        for prompt in PROMPTS:
            inputs = made.batch([{"input_ids": made.prompt_ids(prompt)}]).inputs
            whole = made.model.generate(**inputs, do_sample=False, max_new_tokens=MOST)
            tokens = whole[0, inputs["input_ids"].shape[1] :]
            texts[prompt] = made.tokenizer.decode(tokens, skip_special_tokens=True)
        found[number] = texts
    assert found[1] != found[2]
    return found


def complete(client: httpx.Client, prompt: str, **options: Any) -> tuple[int, str]:
    """Version and text of an answer, streamed or whole."""
    body = {"model": "writer", "prompt": prompt, "temperature": 0, "max_tokens": MOST, **options}
    if not options.get("stream"):
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.headers["x-ftray-version"]), answer.json()["choices"][0]["text"]
    with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        pieces = [choice["text"] for line in lines for choice in json.loads(line)["choices"]]
        return int(answer.headers["x-ftray-version"]), "".join(pieces)


def test_many_at_once_get_what_each_would_get_alone(
    client: httpx.Client, expected: dict[int, dict[str, str]]
) -> None:
    asked = PROMPTS * 3
    random.Random(0).shuffle(asked)
    with ThreadPoolExecutor(12) as pool:
        found = list(
            pool.map(lambda nth: complete(client, nth[1], stream=nth[0] % 2 == 0), enumerate(asked))
        )
    assert found == [(1, expected[1][prompt]) for prompt in asked]


def test_the_other_protocols_answer_too(
    client: httpx.Client, expected: dict[int, dict[str, str]]
) -> None:
    texts = [expected[1][prompt] for prompt in PROMPTS]
    outputs = client.post("/v1/predict", json={"inputs": PROMPTS}).json()["outputs"]
    whole = [output["generated_text"] for output in outputs]
    assert all(text.startswith(part) for text, part in zip(whole, texts, strict=True))
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": PROMPTS[:2]}
    body = client.post("/v2/models/writer/infer", json={"inputs": [tensor]}).json()
    assert body["outputs"][0]["data"] == whole[:2]
    metadata = client.get("/v2/models/writer").json()
    assert [output["name"] for output in metadata["outputs"]] == ["generated_text"]
    lines = "".join(json.dumps(prompt) + "\n" for prompt in PROMPTS)
    stream = client.post("/v1/predict/stream", content=lines)
    told = [json.loads(line)["output"]["generated_text"] for line in stream.text.splitlines()]
    assert told == whole
    wrong = client.post("/v1/predict", json={"inputs": "a", "top_k": 2})
    assert wrong.status_code == 422 and wrong.json()["error"]["field"] == "top_k"


def test_a_chat_is_answered(client: httpx.Client) -> None:
    turns = [{"role": "system", "content": "kind"}, {"role": "user", "content": "the film?"}]
    body = {"model": "writer@production", "messages": turns, "temperature": 0, "max_tokens": 9}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert 1 <= answer["usage"]["completion_tokens"] <= 9
    again = client.post("/v1/chat/completions", json=body).json()
    assert again["choices"] == answer["choices"]


def test_a_seed_draws_the_same_again(client: httpx.Client) -> None:
    drawn = {complete(client, "a", temperature=1.5, seed=seed)[1] for seed in (7, 7, 7, 8, 9)}
    assert len(drawn) == 3


def test_a_prompt_without_room_is_refused(client: httpx.Client) -> None:
    body = {"model": "writer", "prompt": "naïve " * 100}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded" and "128" in error["message"]
    unknown = client.post("/v1/completions", json={"model": "writer", "prompt": [1, 5000]})
    assert unknown.status_code == 400 and "no token 5000" in unknown.json()["error"]["message"]


def tokens_written(client: httpx.Client) -> float:
    page = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in page for sample in family.samples)
    return sum(
        s.value for s in samples if s.name == "ftray_tokens_total" and s.labels["of"] == "answer"
    )


def test_who_goes_away_costs_no_more(client: httpx.Client) -> None:
    body = {"model": "writer", "prompt": "a", "n": 4, "max_tokens": LIMIT, "temperature": 1.9}
    before = tokens_written(client)
    assert client.post("/v1/completions", json=body).status_code == 200
    whole = tokens_written(client) - before
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        next(answer.iter_lines())
    complete(client, "the film has")
    time.sleep(1)
    assert tokens_written(client) - before - whole < 0.8 * whole + MOST


def test_too_much_is_refused_and_said_when_to_come_back(client: httpx.Client) -> None:
    body = {"model": "writer", "prompt": "a", "max_tokens": MOST, "n": 16, "temperature": 1}

    def ask(_: int) -> httpx.Response:
        return client.post("/v1/completions", json=body)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_a_promotion_costs_no_answer(
    client: httpx.Client, served_root: Path, expected: dict[int, dict[str, str]]
) -> None:
    registry = Registry(open_root(str(served_root)))
    seen: list[tuple[str, tuple[int, str]]] = []

    def ask(number: int) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and (not seen or seen[-1][1][0] == 1):
            prompt = PROMPTS[(number + len(seen)) % len(PROMPTS)]
            seen.append((prompt, complete(client, prompt, stream=number % 2 == 0)))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, number) for number in range(3)]
        promote(registry, "writer:2", "production")
        for one in asking:
            one.result()
    assert {version for _, (version, _) in seen} == {1, 2}
    assert all(text == expected[version][prompt] for prompt, (version, text) in seen)


def test_its_figures_are_told(client: httpx.Client) -> None:
    page = client.get("/metrics").text
    for name in ("ftray_tokens_total", "ftray_first_token_seconds_count"):
        assert f'{name}{{model="writer"' in page
    card = client.get("/v1/model").json()
    assert (card["task"], card["labels"], card["chat"]) == ("text-generation", [], False)
