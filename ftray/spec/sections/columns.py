"""The spec's types that depend on the tasks: names of tasks, of metrics and of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import create_model

from ftray.spec.fields import Section, Text, contradiction
from ftray.tasks import TASKS
from ftray.tasks.info import Mode, TaskInfo

METRICS: dict[str, Mode] = {m: mode for t in TASKS.values() for m, mode in t.info.metrics.items()}

if TYPE_CHECKING:
    TaskName = str
    MetricName = str
else:
    TaskName = Literal[tuple(TASKS)]
    MetricName = Literal[tuple(METRICS)]


class _Columns(Section):
    """Logical column -> its name in the source; a column that is not named has its logical name."""

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """Logical column -> names of the several columns that it stands for."""
        given = self.model_dump(exclude_none=True)
        return {logical: names for logical, names in given.items() if isinstance(names, tuple)}

    def of(self, task: TaskInfo) -> dict[str, str]:
        """Map every logical column of the row form that the given columns pick to its name in the
        source, for `task`, without those in `flags`. Raises a contradiction."""
        given = self.model_dump(exclude_none=True)
        # A form of which all columns are given comes before one that has more.
        for form in sorted(task.forms, key=lambda form: set(form) != given.keys()):
            if given.keys() <= set(form):
                names = {logical: given.get(logical, task.name_of(logical)) for logical in form}
                return {n: name for n, name in names.items() if n not in self.flags}
        forms = ", or ".join(" and ".join(form) for form in task.forms)
        wrong = next((key for key in given if key not in task.columns), next(iter(given)))
        raise contradiction(
            f"{' and '.join(given)}: no form of rows that {task.name} knows",
            f"Name the columns of {forms}.",
            key=f"data.columns.{wrong}",
            value=given[wrong],
        )


_SEVERAL = {name for task in TASKS.values() for name in task.info.several}

if TYPE_CHECKING:

    class Columns(_Columns):
        """The columns of all tasks."""
else:
    Columns = create_model(
        "Columns",
        __base__=_Columns,
        __doc__=_Columns.__doc__,
        **{
            name: (Text | tuple[Text, ...] | None if name in _SEVERAL else Text | None, None)
            for task in TASKS.values()
            for name in task.info.columns
        },
    )
