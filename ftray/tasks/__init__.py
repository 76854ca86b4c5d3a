"""The registry of tasks by name. Each task is one file that implements `ftray.tasks.base.Task`."""

from ftray.tasks.base import Task
from ftray.tasks.info import TaskInfo
from ftray.tasks.text_classification import TextClassification
from ftray.tasks.text_generation import TextGeneration

TASKS: dict[str, Task] = {task.info.name: task for task in (TextClassification(), TextGeneration())}
DEFAULT_TASK = TextClassification.info


def get_task(name: str) -> Task:
    """Return the task of that name; the spec admits no other names."""
    return TASKS[name]


def task_info(name: str) -> TaskInfo:
    """Return the `TaskInfo` of the task of that name; the spec admits no other names."""
    return TASKS[name].info
