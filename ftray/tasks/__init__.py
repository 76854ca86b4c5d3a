"""Tasks by name: one file each, all with the contract of `ftray.tasks.base.Task`."""

from ftray.tasks.base import Task
from ftray.tasks.text_classification import TextClassification
from ftray.tasks.text_generation import TextGeneration

TASKS: dict[str, Task] = {task.name: task for task in (TextClassification(), TextGeneration())}


def get_task(name: str) -> Task:
    """The task of that name; the spec admits no other."""
    return TASKS[name]
