"""Which columns of a source hold what a task asks and what is to be answered."""

from __future__ import annotations

from typing import Literal

from ftray.spec.fields import Section, Text, contradiction

TaskName = Literal["text-classification", "text-generation"]

_FORMS: dict[TaskName, tuple[tuple[str, ...], ...]] = {
    "text-classification": (("text", "label"),),
    "text-generation": (("prompt", "completion"), ("messages",), ("text",)),
}
"""The logical columns that a row may have, by task: the first form unless others are named."""


class Columns(Section):
    """Logical column -> its name in the source; a column that is not named has its logical name."""

    text: Text | None = None
    label: Text | None = None
    prompt: Text | None = None
    completion: Text | None = None
    messages: Text | None = None

    def of(self, task: TaskName) -> dict[str, str]:
        """Every logical column of the form that is named, for `task`. Raises a contradiction."""
        given = self.model_dump(exclude_none=True)
        for form in _FORMS[task]:
            if given.keys() <= set(form):
                return {logical: given.get(logical, logical) for logical in form}
        forms = ", or ".join(" and ".join(form) for form in _FORMS[task])
        known = {logical for form in _FORMS[task] for logical in form}
        wrong = next((key for key in given if key not in known), next(iter(given)))
        raise contradiction(
            f"{' and '.join(given)}: no form of rows that {task} knows",
            f"Name the columns of {forms}.",
            key=f"data.columns.{wrong}",
            value=given[wrong],
        )
