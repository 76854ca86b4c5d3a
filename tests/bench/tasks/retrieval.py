"""Embeddings and reranking on real data, each beside sentence-transformers' own trainer in the same
run, with the same model, rows, batches, rates and precision.

    python -m tests.bench.tasks.retrieval embeddings|rankings [--seeds 3] [--out FILE]

embeddings  German one-line descriptions of Debian's packages and their English ones, with MiniLM,
            which knows English: recall at 1 and mean reciprocal rank among 1,000
rankings    one-line descriptions as queries; of five long ones, four of packages with like names,
            one is right: NDCG at 10 and mean reciprocal rank of 300 queries
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ftray.store.files.location import locate
from ftray.tasks.text.retrieval.nearest import first_places, retrieval
from ftray.tasks.text.retrieval.rankings import ranked
from tests.bench.tasks.tasks import MINILM, Figures, compare, ftray, speed

Rows = list[dict[str, Any]]
_HELPER = "/usr/lib/apt/apt-helper"
_PAIRS = {"epochs": 3, "batch_size": 128, "learning_rate": 1e-4}
_QUERIES = {"epochs": 1, "batch_size": 32, "learning_rate": 5e-5}


@cache
def descriptions() -> dict[str, dict[str, tuple[str, str]]]:
    """Return language, de or en -> digest of the English description -> its one-line part and its
    long part. Reads Debian's package lists, which apt fetches into a folder of its own."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory(prefix="ftray-apt-") as folder:
        (Path(folder) / "partial").mkdir()
        options = ["-o", f"Dir::State::lists={folder}", "-o", "Acquire::Languages=de,en"]
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
        for language in ("de", "en"):
            told = found.setdefault(language, {})
            for file in sorted(Path(folder).glob(f"*_main_i18n_Translation-{language}*")):
                read = [_HELPER, "cat-file", str(file)]
                listed = subprocess.run(read, check=True, stdout=subprocess.PIPE).stdout
                for record in listed.decode("utf-8", "replace").split("\n\n"):
                    key = re.search(r"^Description-md5: (\w+)", record, re.MULTILINE)
                    text = re.search(rf"^Description-{language}: (.*)$", record, re.MULTILINE)
                    if key and text:
                        long = re.findall(r"^ (.+)$", record[text.end() :], re.MULTILINE)
                        rest = " ".join(line.strip() for line in long if line.strip() != ".")
                        told[key.group(1)] = text.group(1).strip(), rest
    return found


def _files(folder: Path, rows: Rows, sizes: dict[str, int]) -> dict[str, Rows]:
    """Write parts of the rows to PART.jsonl; returns them."""
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = rows[start : start + size]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in parts[name])
        (folder / f"{name}.jsonl").write_text("".join(lines))
        start += size
    return parts


def _tree(folder: Path, task: str, seed: int, max_length: int, **train: Any) -> dict[str, Any]:
    data = {part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}
    return {
        "name": "debian",
        "task": task,
        "seed": seed,
        "model": {"name_or_path": MINILM},
        "data": {**data, "max_length": max_length},
        "train": {"unfreeze": "all", "precision": "fp32", "deepspeed": {"stage": 0}, **train},
    }


def _theirs(folder: Path, settings: dict[str, Any], batch: int, seed: int) -> dict[str, Any]:
    """Return the training arguments of sentence-transformers for these settings."""
    return {
        "output_dir": str(folder / "theirs"),
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": batch,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "seed": seed,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def embeddings(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    told = descriptions()
    pairs = {told["de"][key][0]: told["en"][key][0] for key in told["de"] if key in told["en"]}
    once = {english: german for german, english in pairs.items() if german != english}
    rows = [{"text": german, "positive": english} for english, german in sorted(once.items())]
    random.Random(seed).shuffle(rows)
    parts = _files(folder, rows, {"train": 3_000, "validation": 300, "test": 1_000})
    tree = _tree(folder, "feature-extraction", seed, 48, **_PAIRS)
    result, events = ftray(folder, tree)
    names = ("recall_at_1", "mrr")
    before = result["metrics"]["base_model"]
    yield "MiniLM as it is", {name: before[name] for name in names}
    found = {name: result["metrics"]["test"][name] for name in names}
    yield "ftray", {**found, "samples/s": speed(events)}
    yield "sentence-transformers", _their_embeddings(folder, parts, seed)


def _their_embeddings(folder: Path, parts: dict[str, Rows], seed: int) -> Figures:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(locate(MINILM).path, device="cpu")
    model.max_seq_length = 48
    batch = _PAIRS["batch_size"] // 2
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**_theirs(folder, _PAIRS, int(batch), seed)),
        train_dataset=Dataset.from_list(parts["train"]),
        loss=MultipleNegativesRankingLoss(model),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    queries, texts = (
        np.asarray(model.encode([row[name] for row in parts["test"]], normalize_embeddings=True))
        for name in ("text", "positive")
    )
    own = np.eye(len(queries), dtype=bool)
    places = first_places(queries, texts, lambda part: (own[part], np.zeros_like(own[part])))
    found = retrieval(places)
    samples = 2 * _PAIRS["epochs"] * len(parts["train"])
    return {
        **{name: found[name] for name in ("recall_at_1", "mrr")},
        "samples/s": samples / seconds,
    }


def rankings(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    english = sorted(set(descriptions()["en"].values()))
    rows = []
    for place in range(2, len(english) - 2, 5):
        query, right = english[place]
        others = [english[place + step][1] for step in (-2, -1, 1, 2)]
        if right and all(others) and right not in others:
            scores = [1.0, *([0.0] * len(others))]
            passages = [text[:400] for text in (right, *others)]
            rows.append({"query": query, "passages": passages, "scores": scores})
    random.Random(seed).shuffle(rows)
    parts = _files(folder, rows, {"train": 600, "validation": 60, "test": 300})
    tree = _tree(folder, "text-ranking", seed, 96, **_QUERIES)
    tree["data"]["columns"] = {"passages": "passages"}
    result, events = ftray(folder, tree)
    names = ("ndcg_at_10", "mrr_at_10")
    before = result["metrics"]["base_model"]
    yield "MiniLM with a new head", {name: before[name] for name in names}
    found = {name: result["metrics"]["test"][name] for name in names}
    yield "ftray", {**found, "samples/s": speed(events)}
    yield "sentence-transformers", _their_rankings(folder, parts, seed)


def _their_rankings(folder: Path, parts: dict[str, Rows], seed: int) -> Figures:
    from datasets import Dataset
    from sentence_transformers import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    def flat(rows: Rows) -> Rows:
        return [
            {"query": row["query"], "passage": passage, "label": score}
            for row in rows
            for passage, score in zip(row["passages"], row["scores"], strict=True)
        ]

    model = CrossEncoder(locate(MINILM).path, num_labels=1, max_length=96, device="cpu")
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            **_theirs(folder, _QUERIES, int(_QUERIES["batch_size"]), seed)
        ),
        train_dataset=Dataset.from_list(flat(parts["train"])),
        loss=BinaryCrossEntropyLoss(model),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    test = flat(parts["test"])
    scores = np.asarray(model.predict([(row["query"], row["passage"]) for row in test]))
    truth = np.array([row["label"] for row in test])
    found = ranked(scores, truth, np.repeat(np.arange(len(parts["test"])), 5))
    samples = _QUERIES["epochs"] * len(flat(parts["train"]))
    told = {name: found[name] for name in ("ndcg_at_10", "mrr_at_10")}
    return {**told, "samples/s": samples / seconds}


if __name__ == "__main__":
    compare(__doc__, {"embeddings": embeddings, "rankings": rankings})
