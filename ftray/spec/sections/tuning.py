"""The section `tune`: the search space, the searcher, the scheduler, and the budget."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ftray.spec.fields import (
    Auto,
    Float,
    FloatFromZero,
    Int,
    PositiveFloat,
    PositiveInt,
    Section,
    contradiction,
)

_TRIALS = 8
_MOST_CHOICES = 1000
_MOST_POINTS = 100_000


class Domain(Section):
    """The values that one key takes over the trials: exactly one of the four kinds."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1, max_length=_MOST_CHOICES)] | None = None
    uniform: tuple[Float, Float] | None = None
    loguniform: tuple[PositiveFloat, PositiveFloat] | None = None
    randint: tuple[Int, Int] | None = Field(None, description="Both ends included.")

    @model_validator(mode="after")
    def _is_one_rising_kind(self) -> Self:
        given = [kind for kind, values in self if values is not None]
        if len(given) != 1:
            raise contradiction(
                f"{len(given)} kinds of domain in one",
                "Give exactly one of choice, uniform, loguniform, randint.",
            )
        if self.kind != "choice" and self.values[0] >= self.values[1]:
            raise contradiction(
                f"the first bound {self.values[0]} is not below the second {self.values[1]}",
                "Write the bounds in rising order.",
            )
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind, values in self if values is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """The choices, or the two bounds."""
        return getattr(self, self.kind)

    @property
    def is_continuous(self) -> bool:
        return self.kind in ("uniform", "loguniform")

    @property
    def size(self) -> int:
        """The number of values of a domain that is not continuous."""
        if self.kind == "randint":
            return self.values[1] - self.values[0] + 1
        return len(self.values)

    @property
    def grid(self) -> tuple[Any, ...]:
        """Every value of a domain that is not continuous."""
        if self.kind == "randint":
            return tuple(range(self.values[0], self.values[1] + 1))
        return self.values


class Budget(Section):
    """The budget of a sweep: no trial begins once one of its limits is used up."""

    minutes: PositiveFloat | None = Field(None, description="Since the search began.")
    worker_hours: PositiveFloat | None = Field(None, description="Of all trials' workers.")
    cost: PositiveFloat | None = Field(
        None, description="worker_hours times scale.price_per_worker_hour."
    )


class Finalists(Section):
    """The best trials, trained again with other seeds before one is named the winner."""

    trials: Annotated[int, Field(ge=2)] = 3
    seeds: Annotated[int, Field(ge=2)] = Field(3, description="Of each, its first one included.")


class TuneSpec(Section):
    trials: PositiveInt | None = Field(
        None, description=f"Else {_TRIALS}; with `searcher: grid` every point of the space."
    )
    space: Annotated[dict[str, Domain], Field(min_length=1)] = Field(
        description="Dotted path of a key of train, or seed -> "
        "{choice | uniform | loguniform | randint: ...}.",
        examples=[{"train.learning_rate": {"loguniform": [2e-5, 1e-3]}}],
    )
    searcher: Literal["random", "grid", "tpe"] = Field(
        "random",
        description="random: each key evenly over its values (a Latin hypercube); grid: every "
        "point; tpe: Optuna's, which learns from the trials that have ended.",
    )
    scheduler: Literal["asha", "hyperband", "median", "fifo", "pbt"] = Field(
        "asha",
        description="Which trials go on after an epoch. asha: the best of all that came as far; "
        "hyperband: so too, but some begin with more epochs; median: those that are not below the "
        "others' median; fifo: all; pbt: all, but after each epoch the worst quarter goes on as "
        "the best one, with other values.",
    )
    workers: PositiveInt = Field(1, description="Workers of one trial.")
    gpus_per_worker: FloatFromZero | Auto = Field(
        "auto",
        description="Of a trial: 0, 1, or of a trial with one worker less than 1, so that several "
        "trials share a GPU; auto: as scale.gpus_per_worker.",
    )
    budget: Budget = Budget()
    finalists: Finalists | None = None
    refit: bool = Field(True, description="Train the winner again at `scale`.")

    @property
    def count(self) -> int:
        """The number of trials that the searcher draws."""
        return self.trials or (self.points if self.searcher == "grid" else _TRIALS)

    @property
    def points(self) -> int:
        """The number of points of a space without continuous domains."""
        return math.prod(domain.size for domain in self.space.values())

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Self:
        if self.searcher != "grid":
            return self
        for path, domain in self.space.items():
            if domain.is_continuous:
                raise contradiction(
                    f"{domain.kind} has no end of values, which tune.searcher grid would try",
                    "Write choice, or another tune.searcher.",
                    key=f"tune.space.{path}",
                    value=list(domain.values),
                )
        if self.points > _MOST_POINTS:
            raise contradiction(
                f"the space has {self.points:,} points, which tune.searcher grid would list",
                "Choose another tune.searcher, or take values out of the space.",
                key="tune.space",
            )
        if self.trials is not None and self.trials > self.points:
            raise contradiction(
                f"the space has {self.points} points",
                "Leave tune.trials out, or add values to the space.",
                key="tune.trials",
                value=self.trials,
            )
        return self

    @model_validator(mode="after")
    def _a_worker_has_one_gpu_at_most(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus == "auto" or gpus in (0, 1):
            return self
        if gpus > 1:
            problem, fix = "a worker computes on one device", "Set 1, and raise tune.workers."
        elif self.workers > 1:
            problem = f"NCCL refuses two of the {self.workers} tune.workers of a trial on one GPU"
            fix = "Set 0, 1 or auto, or tune.workers to 1."
        else:
            return self
        raise contradiction(problem, fix, key="tune.gpus_per_worker", value=gpus)

    @model_validator(mode="after")
    def _population_can_be_cloned(self) -> Self:
        if self.scheduler != "pbt":
            return self
        if "train.epochs" in self.space:
            raise contradiction(
                "with tune.scheduler pbt trials change places after each epoch, and all have as "
                "many",
                "Set train.epochs itself.",
                key="tune.space.train.epochs",
            )
        if not any(domain.is_continuous for domain in self.space.values()):
            raise contradiction(
                "tune.scheduler pbt changes values by a fifth, and the space has none to change",
                "Give a key uniform or loguniform, or choose another scheduler.",
                key="tune.space",
            )
        if self.refit or self.finalists is not None:
            raise contradiction(
                "the winner of tune.scheduler pbt had several values on its way: training with "
                "its last ones would make another model",
                "Set tune.refit to false and leave tune.finalists out.",
                key="tune.refit" if self.refit else "tune.finalists",
            )
        return self
