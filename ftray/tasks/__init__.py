"""Tasks by name: one file each, all with the contract of `ftray.tasks.base.Task`."""

from ftray.tasks.base import Task
from ftray.tasks.info import TaskInfo
from ftray.tasks.text_classification import TextClassification
from ftray.tasks.text_generation import TextGeneration

TASKS: dict[str, Task] = {task.info.name: task for task in (TextClassification(), TextGeneration())}
DEFAULT_TASK = TextClassification.info


def get_task(name: str) -> Task:
    """The task of that name; the spec admits no other."""
    return TASKS[name]


def task_info(name: str) -> TaskInfo:
    """What is known of the task of that name; the spec admits no other."""
    return TASKS[name].info
