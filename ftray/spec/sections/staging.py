"""The section `stages`: what the base model is trained on before the run itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, Field, model_validator

from ftray.spec.fields import Name, Section
from ftray.spec.sections.columns import TaskName
from ftray.spec.sections.data import DataSpec
from ftray.spec.sections.training import TrainSpec
from ftray.tasks import DEFAULT_TASK, TASKS, task_info


class StageSpec(Section):
    """One training before the run: its model is the base of the next."""

    name: Name = Field(
        description="The stage's model is registered as NAME-STAGE.", examples=["domain"]
    )
    task: TaskName = DEFAULT_TASK.name
    task_options: dict[str, Any] = Field({}, description="Options of the task.")
    data: DataSpec
    train: TrainSpec = TrainSpec()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, tree: Any) -> Any:
        return with_task_defaults(tree, cls)


def with_task_defaults(tree: Any, model: type[BaseModel]) -> Any:
    """Fill the defaults that differ between tasks where the file leaves them out: the metric that
    picks the best checkpoint, and the longest row in tokens."""
    task = tree.get("task", DEFAULT_TASK.name) if isinstance(tree, dict) else None
    if not isinstance(task, str) or task not in TASKS:
        return tree
    info = task_info(task)
    defaults: dict[str, dict[str, Any]] = {
        "train": {"metric": next(iter(info.metrics_of(_named_columns(tree))))},
        "data": {"max_length": info.max_length},
    }
    filled = {
        section: {**values, **tree.get(section, {})}
        for section, values in defaults.items()
        if isinstance(tree.get(section, {}), dict)
        and (section in tree or not model.model_fields[section].is_required())
    }
    return {**tree, **filled}


def _named_columns(tree: Mapping[str, Any]) -> Collection[str]:
    """Return the logical columns that a file names, whatever else it holds."""
    data = tree.get("data")
    columns = data.get("columns") if isinstance(data, dict) else None
    return columns if isinstance(columns, dict) else ()
