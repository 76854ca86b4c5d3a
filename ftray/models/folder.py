"""A model folder: what save_pretrained writes, a model card, and ftray.json, which is written last.

The folder opens with plain transformers. ftray.json says what the model is (task, labels), where it
came from (base, spec, data digest, run), how good it is (metrics) and what it answers (golden
answers), so that whoever serves it can prove that it still answers as the trained model did.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from ftray.errors import ModelError, StorageFault
from ftray.models.worth import Worth
from ftray.spec.schema import ModelSpec
from ftray.store import checksum
from ftray.store.location import Location
from ftray.store.root import MODEL_MANIFEST
from ftray.tasks import TASKS
from ftray.tasks.per_label import LabelScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
CARD = "README.md"
LABEL_SCORES = "per_label.csv"
"""Beside the manifest: precision, recall and F1 of each label."""
_LABELS_SHOWN = 50


class Golden(BaseModel):
    """One input and the probability of each label, in the order of the labels; or, of a model that
    generates, the tokens that it went on with and the probability of each."""

    model_config = ConfigDict(frozen=True)
    input: str
    probabilities: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    """Places of the labels that the probabilities are of, where there are too many to keep all."""


class _Format(BaseModel):
    """What every version of ftray.json has, and what says how to read the rest."""

    format: int = FORMAT


class ModelInfo(_Format):
    """The content of ftray.json."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    name: str
    run: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    base: ModelSpec
    data_digest: str
    spec: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    golden: tuple[Golden, ...]
    trials: tuple[dict[str, Any], ...] = ()
    baselines: Worth | None = None
    """None where none were fitted before the training."""
    ftray_version: str
    files: dict[str, str] = {}
    """Name -> checksum of each file but the card, which people may edit; empty in the folder of an
    older ftray."""

    @property
    def learnt_chats(self) -> bool:
        """Whether the rows it was trained on were chats."""
        return bool(self.spec.get("data", {}).get("columns", {}).get("messages"))


def read_info(folder: Location) -> ModelInfo:
    """What ftray.json in `folder` says. Raises ModelError when the folder is not a model folder."""
    manifest = folder / MODEL_MANIFEST
    fix = "name a registered model, or a folder that `ftray train` wrote"
    if not manifest.is_file():
        what = "not an ftray model folder: it has no ftray.json"
        raise ModelError.of("model", folder.url, what if folder.exists() else "no such folder", fix)
    upgrade = "upgrade ftray to read it"
    try:
        written = _Format.model_validate_json(manifest.read_bytes()).format
        if written > FORMAT:
            raise ModelError.of(manifest.url, written, "written by a newer ftray", upgrade)
        info = ModelInfo.model_validate_json(manifest.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise ModelError.of(manifest.url, None, f"cannot be read: {problem}", fix) from None
    if info.task not in TASKS:
        raise ModelError.of(manifest.url, info.task, "a task that this ftray lacks", upgrade)
    return info


def check_files(local: Path, info: ModelInfo) -> None:
    """Raises ModelError where a file of the folder `local` is missing or not what was written."""
    try:
        damage = checksum.damage(local, info.files)
    except OSError as error:
        damage = f"cannot be read: {error}"
    if damage:
        fix = f"copy the folder again, or train again: it came from run {info.run}"
        raise ModelError.of("model", str(local), damage, fix)


@contextmanager
def staged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Path]:
    """The model saved in a temporary folder, without its manifest: nothing to be found yet."""
    with tempfile.TemporaryDirectory(prefix="ftray-model-") as temporary:
        folder = Path(temporary) / "model"
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            fix = (
                "free space there, or name another folder by TMPDIR; the same command then goes on"
            )
            raise StorageFault.of(temporary, None, f"cannot be written: {error}", fix) from None
        yield folder


def write_info(folder: Path, info: ModelInfo) -> None:
    """Write model card and manifest into a local folder."""
    (folder / CARD).write_text(_card(info), encoding="utf-8")
    (folder / MODEL_MANIFEST).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_label_scores(folder: Path, splits: Mapping[str, Sequence[LabelScore]]) -> None:
    """Write how the model does on each label into a local folder, a line a split and label; no
    file where the model has no labels."""
    lines = [(split, *score) for split, scores in splits.items() for score in scores]
    if not lines:
        return
    with (folder / LABEL_SCORES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", *LabelScore._fields))
        writer.writerows(lines)


def publish(staging: Path, info: ModelInfo, target: Location) -> ModelInfo:
    """Write card and manifest into `staging` and copy it to `target`, the manifest last; returns
    what the manifest says, the files' checksums among it."""
    names = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()]
    kept = sorted(set(names) - {CARD, MODEL_MANIFEST})
    whole = info.model_copy(update={"files": checksum.of_files(staging, kept)})
    write_info(staging, whole)
    target.upload(staging, last=MODEL_MANIFEST)
    return whole


def _card(info: ModelInfo) -> str:
    """A Hugging Face model card."""
    train = info.spec["train"]
    lora = train.get("lora")
    adapted = f", LoRA of rank {lora['rank']}" if lora else ""
    return f"""---
library_name: transformers
pipeline_tag: {info.task}
base_model: {info.base.name_or_path}
---
# {info.name}

{info.task}, fine-tuned by ftray {info.ftray_version} from `{info.base.name_or_path}`
(unfreeze: {train["unfreeze"]}{adapted}, {train["epochs"]} epochs, batch size
{train["batch_size"]}, learning rate {train["learning_rate"]:g}).{_labels(info.labels)}

{_table(info.metrics)}
{_worth(info.baselines)}
Run `{info.run}`, data digest `{info.data_digest}`. The whole spec is in `ftray.json`.

```python
from transformers import pipeline

model = pipeline("{info.task}", model="PATH OF THIS FOLDER")
```
"""


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    more = len(labels) - _LABELS_SHOWN
    rest = f" and {more:,} more, all in `ftray.json`" if more > 0 else ""
    return (
        f" Labels: {', '.join(labels[:_LABELS_SHOWN])}{rest}; `{LABEL_SCORES}` has each one's F1."
    )


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    names = [name for name, value in next(iter(metrics.values())).items() if _is_number(value)]
    lines = ["| split | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for split, values in metrics.items():
        lines.append(f"| {split} | " + " | ".join(_shown(values[name]) for name in names) + " |")
    return "\n".join(lines)


def _worth(baselines: Worth | None) -> str:
    return f"\n{baselines.card()}\n" if baselines else ""


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
