"""The section `data`: where the rows come from, how they are split and how they are read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ftray.spec.fields import Fraction, PositiveInt, Section, Text, contradiction, number_in_text
from ftray.spec.sections.columns import Columns
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.tasks import DEFAULT_TASK, TASKS


def _default_lengths() -> str:
    """Say the least and the greatest default of the tasks."""
    lengths = [task.info.max_length for task in TASKS.values()]
    return f"{min(lengths)} to {max(lengths)}, by task"


HeldOut = Annotated[Fraction | Text, BeforeValidator(number_in_text)]


class SplitSpec(Section):
    """The way in which rows are drawn for shares of data.train."""

    by: Literal["random", "group", "time", "last"] = Field(
        "random",
        description="random: stratified where rows have labels; group: rows with the same value in "
        "`column` stay together; time: the latest rows by `column` are held out, the very latest "
        "for the test; last: of sequences of items, the last item is held out for the test, and "
        "the one before it for the validation; shares are those of the sequences.",
    )
    column: Text | None = Field(None, description="Column of the source with groups or times.")

    @model_validator(mode="after")
    def _group_and_time_need_a_column(self) -> Self:
        if (self.by in ("random", "last")) == (self.column is None):
            return self
        needs = "needs the column that tells them" if self.column is None else "reads no column"
        fix = "Name it in data.split.column." if self.column is None else "Leave the column out."
        raise contradiction(needs, fix, key="data.split.by", value=self.by)


class DataSpec(Section):
    train: Text = Field(
        description="CSV, JSONL, Parquet or Arrow (globs, URLs, package://), a folder with one "
        "sub-folder a label, or a Hub id OWNER/NAME.",
        examples=["reviews.csv"],
    )
    validation: HeldOut = Field(
        0.1, description="A share of `train` (drawn as `split` says) or a source of its own."
    )
    test: HeldOut = Field(
        0.1, description="A share of `train` (drawn as `split` says) or a source of its own."
    )
    split: SplitSpec = SplitSpec()
    columns: Columns = Field(
        Columns(),
        description="Names of the columns: "
        + "; ".join(
            f"{', or '.join(' and '.join(form) for form in task.info.forms)} for {name}"
            for name, task in TASKS.items()
        )
        + ".",
    )
    group: Text | None = Field(
        None,
        description="Column of the test rows' source, which the model does not read: the test "
        "metrics of the rows of each of its values are kept with the model.",
        examples=["region"],
    )
    encoding: Text = Field("utf-8", description="Character encoding of text files.")
    csv: DelimitedSpec = Field(
        DelimitedSpec(), description="How CSV and TSV files are written: found out, but for this."
    )
    max_length: PositiveInt = Field(
        DEFAULT_TASK.max_length,
        description="Tokens a row is cut to; a text without a prompt is learnt whole, in windows "
        f"of that many. Unless given {_default_lengths()}, or where the task generates as "
        "many as the model has positions for.",
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="skip: bad rows are counted and written to a quarantine file."
    )

    @model_validator(mode="after")
    def _shares_leave_rows_to_train_on(self) -> Self:
        shares = [s for s in (self.validation, self.test) if isinstance(s, float)]
        if self.split.by != "last" and sum(shares) >= 1:
            raise contradiction(
                f"validation and test together take {sum(shares):g} of the rows",
                "Lower data.validation or data.test: some rows must be left to train on.",
            )
        return self

    @property
    def last_out(self) -> dict[str, float]:
        """Held-out split -> share of the sequences whose last items are held out for it."""
        each = {"validation": self.validation, "test": self.test}
        shares = {name: share for name, share in each.items() if isinstance(share, float)}
        return shares if self.split.by == "last" else {}
