"""The YAML file as frozen pydantic models. Every key that is accepted here does something."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _contradiction(
    problem: str, fix: str, key: str = "", value: object = None
) -> PydanticCustomError:
    """What a validator raises: `fix` and, where it is not the validated section, `key` travel on
    to the message that the user reads."""
    context = {"problem": problem, "fix": fix, "key": key, "value": value}
    return PydanticCustomError("contradiction", "{problem}", context)


def _not_a_bool(value: Any) -> Any:
    # YAML's `yes` would otherwise pass for the number 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


# Bounds stand before the validator: behind it they would not reach the JSON Schema.
_NUMBER = BeforeValidator(_not_a_bool)
Int = Annotated[int, _NUMBER]
PositiveInt = Annotated[int, Field(gt=0), _NUMBER]
CountFromZero = Annotated[int, Field(ge=0), _NUMBER]
Float = Annotated[float, Field(allow_inf_nan=False), _NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
FloatFromZero = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
Share = Annotated[float, Field(gt=0, lt=1), _NUMBER]
ShareFromZero = Annotated[float, Field(ge=0, lt=1), _NUMBER]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Auto = Literal["auto"]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


Pattern = Annotated[Text, AfterValidator(_compiles)]
"""A regular expression that is searched for in names of parameters."""

Blocks = (
    CountFromZero | Literal["head", "all"] | Annotated[tuple[Pattern, ...], Field(min_length=1)]
)
"""What trains: the top N blocks, the head, everything, or the parameters that patterns match."""

Recipe = Literal["lp-ft", "gradual", "top-quarter"]


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Range(Section):
    """From `min` to `max`, both included."""

    min: PositiveInt = 1
    max: PositiveInt = 1

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min > self.max:
            raise _contradiction(
                f"min {self.min} is above max {self.max}", "Raise max or lower min."
            )
        return self


class ModelSpec(Section):
    name_or_path: Text = Field(
        description="A Hub id, a folder, a URL of a folder, or package://MODULE/PATH."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a Hub id.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")


class Columns(Section):
    text: Text = "text"
    label: Text = "label"


class DataSpec(Section):
    train: Text = Field(
        description="CSV, JSONL, Parquet or Arrow (globs, URLs, package://), a folder with one "
        "sub-folder a label, or a Hub id OWNER/NAME."
    )
    validation: Share | Text = Field(
        0.1, description="A share of `train` (stratified) or a source of its own."
    )
    test: Share | Text = Field(
        0.1, description="A share of `train` (stratified) or a source of its own."
    )
    columns: Columns = Columns()
    encoding: Text = Field("utf-8", description="Character encoding of text files.")
    max_length: PositiveInt = Field(128, description="Tokens a row is cut to.")
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="skip: bad rows are counted and written to a quarantine file."
    )

    @model_validator(mode="after")
    def _shares_leave_rows_to_train_on(self) -> Self:
        shares = [s for s in (self.validation, self.test) if isinstance(s, float)]
        if sum(shares) >= 1:
            raise _contradiction(
                f"validation and test together take {sum(shares):g} of the rows",
                "Lower data.validation or data.test: some rows must be left to train on.",
            )
        return self


class DeepSpeedSpec(Section):
    stage: Literal[0, 1, 2, 3] = Field(2, description="ZeRO stage.")
    offload: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="Where the optimizer's state lies, and at stage 3 the weights: on the device, "
        "in the host's memory, or on a disk.",
    )
    nvme_path: Text | None = Field(None, description="A folder of each node, for offload: nvme.")

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> Self:
        needed = {"none": 0, "cpu": 1, "nvme": 3}[self.offload]
        if self.stage < needed:
            raise _contradiction(
                f"offload: {self.offload} needs ZeRO stage {needed} or more",
                f"Set train.deepspeed.stage to {needed}, or train.deepspeed.offload to none.",
                key="train.deepspeed.stage",
                value=self.stage,
            )
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise _contradiction(
                "train.deepspeed.offload: nvme and train.deepspeed.nvme_path go together",
                "Name a folder on a fast local disk as train.deepspeed.nvme_path, or leave out "
                "both.",
                key="train.deepspeed.offload",
                value=self.offload,
            )
        return self


class EarlyStopping(Section):
    patience: PositiveInt = Field(description="Evaluations without a better metric before the end.")
    min_delta: FloatFromZero = Field(0.0, description="What counts as better.")


class PhaseSpec(Section):
    epoch: CountFromZero = Field(description="The first epoch of this phase; the run's first is 0.")
    blocks: Blocks = Field(description="As train.unfreeze: N, head, all, or patterns.")
    rate: PositiveFloat = Field(1.0, description="Times train.learning_rate.")


class GroupSpec(Section):
    match: Pattern = Field(description="Regular expression over names of parameters.")
    learning_rate: PositiveFloat | None = Field(None, description="Else train.learning_rate.")
    weight_decay: FloatFromZero | None = Field(None, description="Else train.weight_decay.")


class CheckpointSpec(Section):
    every_steps: PositiveInt | None = Field(
        None, description="Optimizer steps between checkpoints; there is one after each epoch too."
    )
    every_minutes: PositiveFloat | None = Field(
        10, description="Minutes between checkpoints; null: by steps and epochs alone."
    )
    keep: PositiveInt = Field(2, description="Newest checkpoints kept beside the best one.")


class LoraOptions(Section):
    """Fields of peft's LoraConfig, by its names and with its meaning and defaults."""

    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (rsLoRA).")
    use_dora: bool = Field(False, description="Train magnitudes beside directions (DoRA).")
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = Field(
        True, description="How A and B start; false: B is not zero."
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Biases that train with the adapters."
    )
    lora_bias: bool = Field(False, description="Give B a bias.")
    rank_pattern: dict[Pattern, PositiveInt] = Field(
        {}, description="Regular expression over the ends of layers' names -> their rank."
    )
    alpha_pattern: dict[Pattern, PositiveInt] = Field(
        {}, description="Regular expression over the ends of layers' names -> their alpha."
    )
    exclude_modules: Pattern | Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        None, description="Layers to leave out, named as in train.lora.targets."
    )

    @model_validator(mode="before")
    @classmethod
    def _says_nothing_that_is_said_elsewhere(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name in _NOT_OPTIONS:
                problem, fix = _NOT_OPTIONS[name]
                key = f"train.lora.options.{name}"
                raise _contradiction(problem, fix, key=key, value=value[name])
        return value

    @model_validator(mode="after")
    def _is_dora_or_has_a_bias(self) -> Self:
        if self.lora_bias and self.use_dora:
            raise _contradiction(
                "use_dora has no bias",
                "Set one of the two to false.",
                key="train.lora.options.lora_bias",
                value=True,
            )
        return self


_NOT_OPTIONS = {
    "r": ("train.lora.rank says it", "Set train.lora.rank."),
    "lora_alpha": ("train.lora.alpha says it", "Set train.lora.alpha."),
    "lora_dropout": ("train.lora.dropout says it", "Set train.lora.dropout."),
    "target_modules": ("train.lora.targets says it", "Set train.lora.targets."),
    "layers_to_transform": ("train.unfreeze says which blocks are adapted", "Set train.unfreeze."),
    "layers_pattern": ("the blocks are found by themselves", "Leave it out."),
    "modules_to_save": ("head, pooler and final norm train in full anyway", "Leave it out."),
    "fan_in_fan_out": ("it follows from the kind of layer", "Leave it out."),
}
"""Fields of LoraConfig that another key or the model decides."""


class LoraSpec(Section):
    rank: PositiveInt = 8
    alpha: PositiveInt = Field(16, description="The update is scaled by alpha / rank.")
    dropout: ShareFromZero = Field(0.0, description="Of what enters an adapter.")
    targets: Auto | Pattern | Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        "auto",
        description="Layers of the blocks to adapt: ends of their names, or one regular expression "
        "over whole names; auto: all linear ones.",
    )
    adapter: bool = Field(
        False, description="Also write the folder adapter/, which peft opens on the base model."
    )
    options: LoraOptions = LoraOptions()


class TrainSpec(Section):
    epochs: PositiveInt = 3
    batch_size: PositiveInt = Field(
        32, description="Examples per optimizer step over the whole cluster."
    )
    micro_batch_size: PositiveInt | Auto = Field(
        "auto", description="Examples per forward pass of one worker."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass instead of keeping them: a "
        "third more time, a fraction of the memory.",
    )
    learning_rate: PositiveFloat = 2e-5
    schedule: Auto | Literal["linear", "cosine", "constant", "slanted"] = Field(
        "auto", description="auto: linear; slanted triangular where unfreeze is gradual."
    )
    warmup: ShareFromZero = Field(
        0.1, description="Share of the steps over which the learning rate rises."
    )
    weight_decay: FloatFromZero = Field(0.01, description="Not applied to norms and biases.")
    clip: PositiveFloat | None = Field(1.0, description="Largest norm of the gradient.")
    label_smoothing: ShareFromZero = Field(
        0.0, description="Share of each label's weight spread over all labels, in training only."
    )
    dropout: ShareFromZero | None = Field(
        None, description="In place of every dropout that the model's config names; null: as there."
    )
    token_dropout: ShareFromZero = Field(
        0.0, description="Chance of each token of a training row to be left out."
    )
    balance: Literal["weights", "sampling"] | None = Field(
        None,
        description="For skewed labels: rows of rare labels weigh more in the loss, or are drawn "
        "more often, so that each label counts the same.",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1), _NUMBER] | Auto = Field(
        "auto",
        description="Learning rate of a block over that of the one above it; auto: 1, and 1/2.6 "
        "where unfreeze is gradual.",
    )
    groups: tuple[GroupSpec, ...] = Field(
        (), description="Parameters with rates of their own; the first match counts."
    )
    unfreeze: Blocks | Recipe | Annotated[tuple[PhaseSpec, ...], Field(min_length=1)] = Field(
        "all",
        description="Top blocks to train; 0 = head only; all = everything; patterns of parameter "
        "names; a schedule [{epoch, blocks, rate}]; or a recipe: lp-ft, gradual, top-quarter.",
    )
    lora: LoraSpec | None = Field(
        None,
        description="Low-rank adapters train in place of the blocks' own weights; unfreeze says in "
        "which blocks (embeddings stay frozen; patterns match names such as "
        "query.lora_A.default.weight).",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the hardware has it."
    )
    deepspeed: DeepSpeedSpec | Text = Field(
        DeepSpeedSpec(),
        description='{stage: 0-3}, also with an offload, or a DeepSpeed JSON; "auto" is filled in.',
    )
    metric: Literal["accuracy", "f1_macro", "loss"] = Field(
        "f1_macro", description="The validation metric that picks the best checkpoint and trial."
    )
    early_stopping: EarlyStopping | None = None
    skip_nonfinite: CountFromZero = Field(
        0, description="Updates with a loss or gradient that is not finite to skip before the end."
    )
    checkpoint: CheckpointSpec = CheckpointSpec()
    baselines: bool = Field(
        True,
        description="Measure what the commonest label and a linear probe on the base model reach, "
        "to see what training adds.",
    )

    @model_validator(mode="after")
    def _phases_follow_one_another(self) -> Self:
        if self.unfreeze in ("lp-ft", "gradual") and self.epochs < 2:
            raise _contradiction(
                f"needs two epochs or more, and train.epochs is {self.epochs}",
                "Raise train.epochs, or choose another train.unfreeze.",
                key="train.unfreeze",
                value=self.unfreeze,
            )
        starts = [p.epoch for p in self.phases or ()]
        if starts and (starts[0] != 0 or any(a >= b for a, b in pairwise(starts))):
            problem, fix = f"epochs {starts}", "Start at epoch 0 and name rising epochs."
        elif starts and starts[-1] >= self.epochs:
            problem = f"a phase begins at epoch {starts[-1]}, and the last of the run is "
            problem, fix = f"{problem}{self.epochs - 1}", "Raise train.epochs, or drop the phase."
        else:
            return self
        raise _contradiction(problem, fix, key="train.unfreeze")

    @model_validator(mode="after")
    def _lora_has_blocks_to_adapt(self) -> Self:
        blocks = [p.blocks for p in self.phases] if self.phases else [self.unfreeze]
        if self.lora is not None and all(part in (0, "head") for part in blocks):
            raise _contradiction(
                "trains the head alone, which leaves train.lora nothing to adapt",
                "Unfreeze blocks, or set train.lora to null.",
                key="train.unfreeze",
                value=self.unfreeze,
            )
        return self

    @property
    def phases(self) -> tuple[PhaseSpec, ...] | None:
        """The schedule in `unfreeze`, where it is one."""
        value = self.unfreeze
        if isinstance(value, tuple) and isinstance(value[0], PhaseSpec):
            return tuple(phase for phase in value if isinstance(phase, PhaseSpec))
        return None

    @property
    def metric_mode(self) -> Literal["min", "max"]:
        return "min" if self.metric == "loss" else "max"


class WorkerRange(Range):
    max: PositiveInt


class ScaleSpec(Section):
    workers: PositiveInt | WorkerRange = Field(
        1,
        description="Data-parallel workers; {min, max}: as many as there is room for, also when "
        "nodes are lost or join on the way.",
    )
    gpus_per_worker: FloatFromZero | Auto = Field(
        "auto", description="auto: 1 where the cluster has GPUs, else 0."
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

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max


class Domain(Section):
    """The values that one key takes over the trials: exactly one of the four kinds."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    uniform: tuple[Float, Float] | None = None
    loguniform: tuple[PositiveFloat, PositiveFloat] | None = None
    randint: tuple[Int, Int] | None = Field(None, description="Both ends included.")

    @model_validator(mode="after")
    def _is_one_rising_kind(self) -> Self:
        given = [kind for kind, values in self if values is not None]
        if len(given) != 1:
            raise _contradiction(
                f"{len(given)} kinds of domain in one",
                "Give exactly one of choice, uniform, loguniform, randint.",
            )
        if self.kind != "choice" and self.values[0] >= self.values[1]:
            raise _contradiction(
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


class TuneSpec(Section):
    trials: PositiveInt = 8
    space: Annotated[dict[str, Domain], Field(min_length=1)] = Field(
        description="Dotted path of a key of train, or seed -> "
        "{choice | uniform | loguniform | randint: ...}."
    )
    scheduler: Literal["asha", "fifo"] = "asha"
    searcher: Literal["random"] = "random"
    workers: PositiveInt = Field(1, description="Workers of one trial.")
    refit: bool = Field(True, description="Train the winner again at `scale`.")


class Batching(Section):
    max_size: PositiveInt = Field(32, description="Rows of one forward pass.")
    wait_ms: FloatFromZero = Field(
        5, description="How long a row waits for others to share its forward pass."
    )


class ServeSpec(Section):
    replicas: Range = Range()
    batch: Batching = Batching()
    cpus_per_replica: PositiveFloat = 1
    gpus_per_replica: FloatFromZero = 0


class Spec(Section):
    """One run: what to train, on what, how, at which scale, how to search and how to serve."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$")] = (
        Field(description="Run and model name: lower-case letters, digits and dashes.")
    )
    task: Literal["text-classification"] = "text-classification"
    seed: CountFromZero = 42
    storage: Text | None = Field(
        None, description="Storage root: a folder or URL. Else $FTRAY_STORAGE, else ./ftray-data."
    )
    model: ModelSpec
    data: DataSpec
    train: TrainSpec = TrainSpec()
    scale: ScaleSpec = ScaleSpec()
    tune: TuneSpec | None = None
    serve: ServeSpec = ServeSpec()

    @model_validator(mode="after")
    def _batch_fits_the_workers(self) -> Self:
        batch, workers = self.train.batch_size, self.scale.most_workers
        if workers > batch:
            raise _contradiction(
                f"gives some of the {workers} scale.workers no rows",
                "Raise train.batch_size or lower scale.workers.",
                key="train.batch_size",
                value=batch,
            )
        micro = self.train.micro_batch_size
        if micro != "auto" and micro * workers > batch:
            raise _contradiction(
                f"times scale.workers {workers} is above train.batch_size {batch}",
                "Lower train.micro_batch_size, or write auto.",
                key="train.micro_batch_size",
                value=micro,
            )
        return self


def micro_batch_size(spec: Spec, workers: int, largest: int = 32) -> int:
    """Rows of one forward pass: as set, else the batch spread evenly, at most `largest` rows.

    `auto` picks the same size for every even division of the batch, so that runs with different
    numbers of workers split a batch at the same places where that is possible.
    """
    if spec.train.micro_batch_size != "auto":
        return spec.train.micro_batch_size
    share = math.ceil(spec.train.batch_size / workers)
    return math.ceil(share / math.ceil(share / largest))
