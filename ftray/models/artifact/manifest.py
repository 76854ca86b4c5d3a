"""Defines, reads and checks ftray.json, the manifest of a model folder.

The manifest holds the model's task and labels, its origin (base, spec, data digest, run), its
metrics, and golden answers. With the golden answers a service can prove that the model still
answers as it did after training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ftray.errors import ModelError, shorten
from ftray.models.artifact.groups import GroupMetrics
from ftray.models.artifact.worth import Worth
from ftray.spec.messages import first_fault
from ftray.spec.schema import ModelSpec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import MODEL_MANIFEST
from ftray.tasks import TASKS, task_info
from ftray.tasks.decision import Decision
from ftray.tasks.info import Modality, TaskInfo
from ftray.tasks.schema import Scale, Schema
from ftray.tasks.tabular.columns import Column
from ftray.tasks.text.chat import as_chat

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CARD = "README.md"
LABEL_SCORES = "per_label.csv"
"""File beside the manifest with precision, recall and F1 of each label."""


class Golden(BaseModel):
    """A golden answer: the input of a request, and the numbers of the model's answer.

    A model that generates has the tokens of its continuation and a probability for each token; any
    other model has the numbers of `BaseTask.numbers`.
    """

    model_config = ConfigDict(frozen=True)
    input: Any
    numbers: tuple[float, ...] = Field(
        validation_alias=AliasChoices("numbers", "probabilities")  # the name in older folders
    )
    tokens: tuple[int, ...] = ()
    places: tuple[int, ...] = Field((), validation_alias=AliasChoices("places", "labels"))
    """Indices of `numbers` among all numbers of the answer, where not all are kept."""


class _Format(BaseModel):
    """The part of ftray.json that every version has: the format of the rest."""

    format: int = FORMAT


class ModelInfo(_Format):
    """The content of ftray.json."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    name: str
    run: str
    task: str
    labels: tuple[str, ...]
    scale: Scale | None = None
    thresholds: tuple[float, ...] = ()
    columns: tuple[Column, ...] = ()
    decision: Decision | None = None
    max_length: int
    embedding_size: int | None = None
    """Numbers of an embedding; None where the model gives none, or an older ftray wrote the
    folder."""
    base: ModelSpec
    base_id: str | None = None
    """The Hub id of the base model, where one is known."""
    license: str | None = None
    """The base model's, where its own card says one."""
    data_digest: str
    spec: dict[str, Any]
    rows: dict[str, int] = {}
    """Split -> rows; empty in the folder of an older ftray."""
    rows_by_label: Mapping[str, Mapping[str, int]] = {}
    """Split -> label -> rows, where rows have one label each."""
    cleaning: tuple[str, ...] = ()
    """A line for each source of the data: the rows read, and those left out."""
    metrics: dict[str, dict[str, Any]]
    groups: tuple[GroupMetrics, ...] = ()
    """The test metrics of the groups of data.group, the worst first."""
    golden: tuple[Golden, ...]
    trials: tuple[dict[str, Any], ...] = ()
    averaged: tuple[int, ...] = ()
    """Epochs whose weights were averaged; empty: the weights are those of the best epoch."""
    temperature: float | None = None
    """What the logits are divided by, within the weights of the head; None: not calibrated."""
    baselines: Worth | None = None
    """None where none were fitted before the training."""
    ftray_version: str
    files: dict[str, str] = {}
    """Name -> checksum of each file but the card, which people may edit; empty in the folder of an
    older ftray."""

    @property
    def kind(self) -> TaskInfo:
        """The `TaskInfo` of the model's task."""
        return task_info(self.task)

    @property
    def fitted(self) -> Schema:
        """The part of the model that is fitted and not trained."""
        return Schema(
            labels=self.labels,
            scale=self.scale,
            thresholds=self.thresholds,
            columns=self.columns,
            decision=self.decision,
        )

    @property
    def inputs(self) -> dict[str, Modality]:
        """Inputs of a request: name -> kind of its value."""
        columns = {n: c for n, c in self.spec.get("data", {}).get("columns", {}).items() if c}
        form = next(form for form in self.kind.forms if columns.keys() <= set(form))
        return self.kind.inputs(form, self.fitted.fields)

    @property
    def learnt_chats(self) -> bool:
        """Whether the training rows were chats: their columns or the golden questions tell."""
        if self.spec.get("data", {}).get("columns", {}).get("messages"):
            return True
        asked = [golden.input for golden in self.golden[:1]] if self.kind.generates else []
        return any(isinstance(text, str) and as_chat(text) for text in asked)


def read_info(folder: Location) -> ModelInfo:
    """Read ftray.json in `folder`. Raises ModelError when the folder is not a model folder."""
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
        problem = f"cannot be read: {first_fault(error)}"
        raise ModelError.of(manifest.url, None, problem, fix) from None
    if problem := _not_plain(info):
        raise ModelError.of(manifest.url, None, problem, fix)
    if info.task not in TASKS:
        raise ModelError.of(manifest.url, info.task, "a task that this ftray lacks", upgrade)
    return info


def _not_plain(info: ModelInfo) -> str:
    """Describe a name in the manifest that is unsafe in a path, a header or a route; empty where
    all names are safe."""
    if _NAME.fullmatch(info.name) is None:
        return f"its name is {shorten(info.name)!r}: letters, digits, dots and dashes, up to 128"
    strange = (n for n in info.files if n.startswith("/") or ".." in n.split("/") or "\\" in n)
    if (file := next(strange, None)) is not None:
        return f"it names a file outside of its folder: {shorten(file)}"
    return ""


def check_files(local: Path, info: ModelInfo) -> None:
    """Raise ModelError where a file of the folder `local` is missing or has another checksum than
    when it was written."""
    try:
        damage = checksum.damage(local, info.files)
    except OSError as error:
        damage = f"cannot be read: {error}"
    if damage:
        fix = f"copy the folder again, or train again: it came from run {info.run}"
        raise ModelError.of("model", str(local), damage, fix)
