"""Folders of runs as a training and a sweep leave them, without the training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from ftray.models.artifact.manifest import ModelInfo
from ftray.reports.samples import FILE as SAMPLES
from ftray.reports.samples import Samples
from ftray.reports.test_rows import FILE as TEST_ROWS
from ftray.reports.test_rows import TestRows
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.inputs import Inputs
from ftray.store.runs.status import Kind

LABELS = ("bad", "good", '<img src=x onerror="alert(1)">')
HOSTILE = "</script><script>alert(1)</script> \u202e $x_1$ & \x07"
BEGAN = 1_800_000_000.0


def spec(name: str = "reviews", **sections: Any) -> Spec:
    given = {"name": name, "model": {"name_or_path": "m"}, "data": {"train": "a.csv"}}
    return parse({**given, **sections})


def trained(
    root: Root,
    run_id: str,
    of: Spec,
    events: Sequence[dict[str, Any]],
    kind: Kind = "train",
    rows: TestRows | None = None,
    samples: Samples | None = None,
    info: ModelInfo | None = None,
) -> RunFolder:
    """A run that is done, with what its folder may hold."""
    run = RunFolder.create(root, of, run_id, kind, Inputs("d" * 16, {"train": 90}))
    for event in events:
        run.append_metrics(event)
    if rows is not None:
        rows.write(run.location / TEST_ROWS)
    if samples is not None:
        (run.location / SAMPLES).write_bytes(samples.model_dump_json().encode())
    if info is not None:
        (root.models(of.name) / run_id / MODEL_MANIFEST).write_text(info.model_dump_json())
    run.set_status(state="done", model=of.name, version=1)
    return run


def root_in(folder: Path) -> Root:
    return Root(locate(str(folder)))


def events(epochs: int = 2, steps: int = 30) -> Iterator[dict[str, Any]]:
    """The events of a training in two phases."""
    at = BEGAN
    yield {"kind": "stage", "name": "encoding the rows", "at": at}
    yield {"kind": "stage", "name": "loading the base model", "at": at + 2}
    parts = [["bert.embeddings", 900, 0], ["bert.encoder.layer.0", 90, 0], ["classifier", 10, 10]]
    size = {"trainable_parameters": 10, "total_parameters": 1000, "parts": parts}
    whole = {"trainable_parameters": 100, "total_parameters": 1000}
    yield {
        "kind": "start", "epoch": 0, "step": 0, "steps": epochs * steps, "workers": 2, "nodes": 1,
        "blocks": 1, "trunk": 1, "precision": "bf16", "at": at + 5, **size,
    }  # fmt: skip
    at += 5
    for epoch in range(epochs):
        if epoch == 1:
            yield {"kind": "phase", "epoch": 1, "step": steps, "at": at, **whole, "parts": parts}
        for step in range(epoch * steps + 1, (epoch + 1) * steps + 1):
            at += 0.1
            yield {
                "kind": "step", "step": step, "steps": epochs * steps, "epoch": epoch + 1,
                "loss": 1 / step if step % 7 else None, "learning_rate": 1e-4 / step, "rows": 32,
                "seconds": 0.1, "phases": {"data": 0.02, "forward": 0.03, "backward": 0.04},
                "mfu": 0.41, "memory": 2**30, "at": at,
            }  # fmt: skip
        at += 1
        yield {
            "kind": "epoch", "epoch": epoch + 1, "step": (epoch + 1) * steps, "accuracy": 0.7,
            "f1_macro": 0.6 + epoch / 10, "loss": 0.5, "train_loss": 0.4, "best": 0.7,
            "evaluation_seconds": 0.8, "at": at,
        }  # fmt: skip
    yield {"kind": "warning", "message": HOSTILE, "at": at}
    yield {"kind": "stage", "name": "exporting: writing the model", "at": at}


def outcomes(count: int = 120, seed: int = 0, skill: float = 2.0) -> TestRows:
    """The answers of a classifier, the better the higher its skill."""
    chance = np.random.default_rng(seed)
    truth = np.arange(count) % len(LABELS)
    logits = chance.normal(size=(count, len(LABELS)))
    logits[np.arange(count), truth] += skill
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = shares.argmax(1)
    scores = shares.max(1)
    return TestRows(
        rows=np.arange(count),
        lengths=chance.integers(3, 60, count),
        losses=-np.log(shares[np.arange(count), truth]),
        errors=np.where(found == truth, 0.0, scores),
        scores=scores,
        truth=[LABELS[place] for place in truth],
        predicted=[LABELS[place] for place in found],
        shares=shares,
        split_rows=count,
    )


def samples(rows: TestRows) -> Samples:
    return Samples(
        cleaning={
            "sources": {"train": {"read": 100, "dropped": {"duplicate": 7, "leaked": 3}}},
            "splits": {"train": dict.fromkeys(LABELS, 30), "test": dict.fromkeys(LABELS, 40)},
            "rows": {"train": 90, "test": 120},
            "notes": [HOSTILE],
        },
        lengths={"train": {"median": 9, "p90": 20, "longest": 60, "longer": 1}},
        quarantine=[
            {"where": "/data/a.csv:3", "kind": "leaked", "detail": "", "values": {"text": HOSTILE}}
        ],
        rows={int(row): {"text": f"{HOSTILE} {row}", "label": "bad"} for row in rows.rows},
    )


def info(of: Spec, run_id: str, **fields: Any) -> ModelInfo:
    """The manifest of the run's model."""
    return ModelInfo(
        name=of.name,
        run=run_id,
        task=of.task,
        labels=fields.pop("labels", LABELS),
        max_length=64,
        base=of.model,
        data_digest="d" * 16,
        spec=of.model_dump(mode="json"),
        metrics={"test": {"accuracy": 0.75, "f1_macro": 0.7, "loss": 0.6}},
        golden=(),
        ftray_version="0",
        **fields,
    )


def sweep(trials: int, epochs: int, error: str = "") -> Iterator[dict[str, Any]]:
    """The events of a sweep: trials of which most are stopped early; the last one fails."""
    chance = random.Random(0)
    yield {"kind": "stage", "name": "encoding the rows", "at": BEGAN}
    best: dict[str, float] = {}
    for number in range(trials):
        config = {
            "train.learning_rate": 10 ** chance.uniform(-5, -3),
            "train.unfreeze": chance.choice([0, 2, "all"]),
            "train.batch_size": chance.choice([16, 32]),
        }
        trial = {"kind": "trial", "id": str(number + 1), "config": config, "at": BEGAN + number}
        start = {**trial, "metrics": {}, "status": "running", "seconds": 0.0, "values": []}
        yield {**start, "elapsed": 5.0 * (number // 2)}
        top = 0.9 + math.log10(config["train.learning_rate"]) / 10
        lived = epochs if number % 4 == 0 else 1 + number % epochs
        curve = [top * (1 - 0.5 ** (epoch + 1)) for epoch in range(lived)]
        best[trial["id"]] = curve[-1]
        steps = [
            {"kind": "step", "step": step, "epoch": 1, "loss": 1 / step, "learning_rate": 1e-4}
            for step in range(1, 101)
        ]
        points = [
            {"kind": "epoch", "epoch": place + 1, "step": place, "f1_macro": value, "loss": 0.4}
            for place, value in enumerate(curve)
        ]
        status = "done" if lived == epochs else "stopped"
        ended = {
            **trial, "metrics": {"best": curve[-1], "memory": 1e9}, "status": status,
            "seconds": 4.5, "values": curve, "elapsed": 5.0 * (number // 2) + 4.5,
            "points": [*steps, *points],
        }  # fmt: skip
        if error and number == trials - 1:
            del best[trial["id"]]
            ended |= {"metrics": {}, "status": "failed", "error": error, "values": []}
        yield ended
    ranking = sorted(best, key=lambda name: -best[name])
    depth = {
        "unfreeze": 2, "name": "the top 2 blocks", "trials": 3, "metric": 0.6, "low": 0.5,
        "high": 0.7, "epoch_seconds": 2.0, "memory": 1e9, "worker_hours": 0.1, "pareto": True,
        "recommended": True, "beaten": False,
    }  # fmt: skip
    head = {**depth, "name": "the head alone", "epoch_seconds": 1.0, "recommended": False}
    yield {
        "kind": "searched", "ranking": ranking, "depths": [head, depth], "advice": "Train two.",
        "note": "Intervals.", "elapsed": 5.0 * trials, "spent": "", "at": BEGAN + trials,
    }  # fmt: skip


class Page(HTMLParser):
    """A page: its text, its plots, its scripts, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.plots, self.links, self.scripts = "", [], [], 0
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), given
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag == "svg" and "aria-label" in given:
            self.plots.append(given["aria-label"] or "")
        self.scripts += tag == "script"
        self.links += [given[name] or "" for name in ("src", "href") if name in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
