"""Writes a model folder: the files of save_pretrained, a model card, the scores of each label, and
ftray.json, which is written last. Plain transformers can load the folder.
"""

from __future__ import annotations

import copy
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ftray.errors import StorageFault
from ftray.models.artifact.card import Scores, card
from ftray.models.artifact.manifest import CARD, LABEL_SCORES, ModelInfo
from ftray.models.pretrained import CONFIG
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import MODEL_MANIFEST
from ftray.tasks.per_label import LabelScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD = "2GB"
"""Largest size of a weights file. A service that loads a model has one such file in memory in
addition to the model that it serves."""


@contextmanager
def staged(model: PreTrainedModel, processor: Any, most_tokens: int) -> Iterator[Path]:
    """Save the model in a temporary folder, without a manifest, so that no lookup finds it yet.
    most_tokens: length to which transformers is to cut a text."""
    if hasattr(processor, "model_max_length"):
        processor = copy.copy(processor)  # others may use it
        processor.model_max_length = most_tokens
    with tempfile.TemporaryDirectory(prefix="ftray-model-") as temporary:
        folder = Path(temporary) / "model"
        try:
            model.save_pretrained(folder, max_shard_size=SHARD)
            processor.save_pretrained(folder)
            _name_fp32(folder / CONFIG)
        except (OSError, SafetensorError) as error:
            fix = (
                "free space there, or name another folder by TMPDIR; the same command then goes on"
            )
            raise StorageFault.of(temporary, None, f"cannot be written: {error}", fix) from None
        yield folder


def _name_fp32(file: Path) -> None:
    """Let transformers load all weights in fp32: frozen weights may be stored in fewer bits, and
    transformers would round the trained ones to the dtype of the first weight."""
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


def write_json(folder: Path, files: Mapping[str, Any]) -> None:
    """Write JSON files into a local folder. files: path below the folder -> content."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_info(folder: Path, info: ModelInfo, scores: Scores | None = None) -> None:
    """Write model card and manifest into a local folder."""
    (folder / CARD).write_text(card(info, scores or {}), encoding="utf-8")
    (folder / MODEL_MANIFEST).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_label_scores(folder: Path, splits: Mapping[str, Sequence[LabelScore]]) -> None:
    """Write the scores of each label into a local folder, one line for each split and label. Write
    no file where the model has no labels."""
    lines = [(split, *score) for split, scores in splits.items() for score in scores]
    if not lines:
        return
    with (folder / LABEL_SCORES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", *LabelScore._fields))
        writer.writerows(lines)


def place(staging: Path, info: ModelInfo, target: Location) -> ModelInfo:
    """Copy the model's files from `staging` to `target`, where no lookup finds them yet. Returns
    `info` with the checksums of the files."""
    names = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()]
    kept = sorted(set(names) - {CARD, MODEL_MANIFEST})
    target.upload_files({name: staging / name for name in kept})
    return info.model_copy(update={"files": checksum.of_files(staging, kept)})


def finish(info: ModelInfo, target: Location, scores: Scores | None = None) -> None:
    """Write the scores of each label, the card and, last, the manifest into `target`."""
    with tempfile.TemporaryDirectory(prefix="ftray-model-") as temporary:
        folder = Path(temporary)
        write_label_scores(folder, scores or {})
        own = checksum.of_files(folder, [path.name for path in folder.iterdir()])
        write_info(folder, info.model_copy(update={"files": info.files | own}), scores)
        target.upload(folder, last=MODEL_MANIFEST)
