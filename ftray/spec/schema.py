"""The schema of the YAML file as frozen pydantic models. Every accepted key has an effect."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from ftray.spec.fields import (
    Auto,
    CountFromZero,
    FloatFromZero,
    Name,
    PositiveFloat,
    PositiveInt,
    Range,
    Section,
    Seed,
    Text,
    contradiction,
)
from ftray.spec.sections.columns import Columns as Columns
from ftray.spec.sections.columns import TaskName
from ftray.spec.sections.data import DataSpec as DataSpec
from ftray.spec.sections.exporting import ExportSpec
from ftray.spec.sections.serving import ServeSpec
from ftray.spec.sections.staging import StageSpec, with_task_defaults
from ftray.spec.sections.tracking import Notify, TrackSpec
from ftray.spec.sections.training import TrainSpec
from ftray.spec.sections.tuning import TuneSpec
from ftray.tasks import DEFAULT_TASK, TASKS, task_info
from ftray.tasks.info import TaskInfo


def _options() -> str:
    """List the options of each task, in words."""
    told = {n: ", ".join(t.info.options.model_fields) for n, t in TASKS.items()}
    listed = "; ".join(f"{options} for {name}" for name, options in told.items() if options)
    return f": {listed}" if listed else ""


class ModelSpec(Section):
    name_or_path: Text = Field(
        description="A Hub id, a folder, a URL of a folder, or package://MODULE/PATH; "
        "new://table?layers=3&width=96 makes a model for the columns of a table.",
        examples=["distilbert/distilbert-base-uncased"],
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a Hub id.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")


class WorkerRange(Range):
    max: PositiveInt


class ScaleSpec(Section):
    workers: PositiveInt | WorkerRange = Field(
        1,
        description="Data-parallel workers; {min, max}: as many as there is room for, also when "
        "nodes are lost or join on the way.",
    )
    gpus_per_worker: FloatFromZero | Auto = Field(
        "auto", description="0 or 1; auto: 1 where the cluster has GPUs, else 0."
    )
    cpus_per_worker: PositiveFloat = 1
    max_failures: CountFromZero = Field(
        2, description="How often a run continues after losing a worker."
    )
    price_per_worker_hour: FloatFromZero | None = Field(
        None, description="What an hour of one worker costs, in any unit, to tell what a run cost."
    )
    hang_minutes: PositiveFloat = Field(
        10, description="Minutes without a forward pass on any rank after which a run is ended."
    )

    @model_validator(mode="after")
    def _a_worker_has_one_gpu_or_none(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus in ("auto", 0, 1):
            return self
        raise contradiction(
            "a worker computes on one device, and NCCL refuses two workers on one GPU",
            "Set 0, 1 or auto, and scale.workers to the number of GPUs; trials share a GPU by "
            "tune.gpus_per_worker.",
            key="scale.gpus_per_worker",
            value=gpus,
        )

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max


class Spec(Section):
    """One run: what to train, on what, how, at which scale, how to search and how to serve."""

    name: Name = Field(
        description="Run and model name: lower-case letters, digits and dashes.",
        examples=["my-classifier"],
    )
    task: TaskName = DEFAULT_TASK.name
    seed: Seed = 42
    storage: Text | None = Field(
        None, description="Storage root: a folder or URL. Else $FTRAY_STORAGE, else ./ftray-data."
    )
    task_options: dict[str, Any] = Field({}, description=f"Options of the task{_options()}.")
    model: ModelSpec
    data: DataSpec
    train: TrainSpec = TrainSpec()
    stages: tuple[StageSpec, ...] = Field(
        (),
        description="Trainings before this one, each from the model of the one before, such as one "
        "on the texts of the domain.",
    )
    scale: ScaleSpec = ScaleSpec()
    tune: TuneSpec | None = None
    export: ExportSpec = ExportSpec()
    serve: ServeSpec = ServeSpec()
    track: TrackSpec = TrackSpec()
    notify: Notify | None = Field(
        None,
        description="Where the end of a run is posted as JSON: a URL, or $NAME for an environment "
        "variable that has it.",
        examples=["$SLACK_WEBHOOK"],
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, tree: Any) -> Any:
        return with_task_defaults(tree, cls)

    @property
    def info(self) -> TaskInfo:
        """The constants of the task."""
        return task_info(self.task)

    @property
    def columns(self) -> dict[str, str]:
        """Map each logical column of the task to its name in the source."""
        return self.data.columns.of(self.info)

    @property
    def options(self) -> BaseModel:
        """The task's options, with their defaults."""
        return self.info.options.model_validate(self.task_options)

    @model_validator(mode="after")
    def _options_fit_the_task(self) -> Self:
        try:
            assert self.options
        except ValidationError as error:
            fault = error.errors()[0]
            known = ", ".join(self.info.options.model_fields) or "none"
            is_unknown = fault["type"] == "extra_forbidden"
            raise contradiction(
                "no such option" if is_unknown else fault["msg"],
                f"Options of {self.task}: {known}.",
                key=f"task_options.{'.'.join(map(str, fault['loc']))}",
                value=fault["input"],
            ) from None
        return self

    @model_validator(mode="after")
    def _columns_fit_the_task(self) -> Self:
        assert self.columns or self.data.columns.flags
        return self

    @model_validator(mode="after")
    def _sequences_are_split_by_their_last(self) -> Self:
        of, policy = self.info.sequences, self.data.split
        if policy.by == "last" and (of is None or of.next in self.columns):
            problem = f"{self.task} reads no sequences" if of is None else "rows name what is next"
            fix = "Set random, or group or time with a column."
            raise contradiction(problem, fix, key="data.split.by", value="last")
        if policy.column and of is not None and of.user in self.columns:
            fix = "Set last, or random: by user."
            problem = "rows of one user are read as one"
            raise contradiction(problem, fix, key="data.split.by", value=policy.by)
        return self

    @model_validator(mode="after")
    def _training_fits_the_task(self) -> Self:
        metric, metrics = self.train.metric, self.info.metrics_of(self.columns)
        if metric not in metrics:
            of_rows = " with these columns" if metric in self.info.metrics else ""
            raise contradiction(
                f"no metric of {self.task}{of_rows}",
                f"Set {' or '.join(metrics)}.",
                key="train.metric",
                value=metric,
            )
        for key, (admitted, problem, fix) in self.info.lacks.items():
            section, _, name = key.partition(".")
            value = getattr(getattr(self, section), name)
            if value != admitted:
                problem = f"{problem}, and the task is {self.task}"
                raise contradiction(problem, fix, key=key, value=value)
        return self

    def stage(self, stage: StageSpec) -> Spec:
        """Return the spec of a stage, from this spec's base model. Raises pydantic's
        ValidationError."""
        shared = {"seed", "storage", "model", "scale", "track", "notify"}
        tree = self.model_dump(mode="json", include=shared)
        own = stage.model_dump(mode="json", exclude_unset=True)
        return Spec.model_validate({**tree, **own, "name": f"{self.name}-{stage.name}"})

    @property
    def staged(self) -> list[Spec]:
        """The specs of the stages, all from this spec's base model."""
        return [self.stage(stage) for stage in self.stages]

    @model_validator(mode="after")
    def _stages_are_whole(self) -> Self:
        for number, stage in enumerate(self.stages):
            try:
                self.stage(stage)
            except ValidationError as error:
                fault = error.errors()[0]
                context = fault.get("ctx", {})
                where = context.get("key") or ".".join(map(str, fault["loc"]))
                raise contradiction(
                    fault["msg"],
                    context.get("fix", "A stage has the keys name, task, data, train."),
                    key=f"stages.{number}.{where}",
                    value=context.get("value", fault["input"]),
                ) from None
        return self

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        wanted = self.tune.budget.cost if self.tune else None
        if wanted is not None and self.scale.price_per_worker_hour is None:
            raise contradiction(
                "nothing says what a worker costs",
                "Set scale.price_per_worker_hour.",
                key="tune.budget.cost",
                value=wanted,
            )
        return self

    @model_validator(mode="after")
    def _batch_fits_the_workers(self) -> Self:
        batch, workers = self.train.batch_size, self.scale.most_workers
        if workers > batch:
            raise contradiction(
                f"gives some of the {workers} scale.workers no rows",
                "Raise train.batch_size or lower scale.workers.",
                key="train.batch_size",
                value=batch,
            )
        micro = self.train.micro_batch_size
        if micro != "auto" and micro * workers > batch:
            raise contradiction(
                f"times scale.workers {workers} is above train.batch_size {batch}",
                "Lower train.micro_batch_size, or write auto.",
                key="train.micro_batch_size",
                value=micro,
            )
        return self


def micro_batch_size(spec: Spec, workers: int, largest: int = 32) -> int:
    """Return the rows of one forward pass: as set, else the batch spread evenly, at most `largest`;
    a worker's whole share where the loss couples rows, which then needs no second pass.

    `auto` picks the same size for every even division of the batch, so that runs with different
    numbers of workers split a batch at the same places where possible.
    """
    if spec.train.micro_batch_size != "auto":
        return spec.train.micro_batch_size
    share = math.ceil(spec.train.batch_size / workers)
    if spec.info.couples_rows:
        return share
    return math.ceil(share / math.ceil(share / largest))
