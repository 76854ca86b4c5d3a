"""The section `train`: trainable parameters, schedule, optimizer, and checkpoints."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ftray.spec.fields import (
    Alias,
    Auto,
    CountFromZero,
    FloatFromZero,
    Fraction,
    Pattern,
    PositiveFloat,
    PositiveInt,
    Section,
    ShareFromZero,
    Switch,
    Text,
    contradiction,
    whole_in_text,
)
from ftray.spec.sections.columns import METRICS, MetricName
from ftray.spec.sections.lora import LoraSpec
from ftray.tasks import DEFAULT_TASK
from ftray.tasks.info import Mode

Blocks = (
    CountFromZero | Literal["head", "all"] | Annotated[tuple[Pattern, ...], Field(min_length=1)]
)
"""The parameters to train: the top N blocks, the head, all, or those that patterns match."""

Recipe = Literal["lp-ft", "gradual", "top-quarter"]


class DeepSpeedSpec(Section):
    stage: Annotated[Literal[0, 1, 2, 3], BeforeValidator(whole_in_text)] = Field(
        2, description="ZeRO stage."
    )
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
            raise contradiction(
                f"offload: {self.offload} needs ZeRO stage {needed} or more",
                f"Set train.deepspeed.stage to {needed}, or train.deepspeed.offload to none.",
                key="train.deepspeed.stage",
                value=self.stage,
            )
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise contradiction(
                "train.deepspeed.offload: nvme and train.deepspeed.nvme_path go together",
                "Name a folder on a fast local disk as train.deepspeed.nvme_path, or leave out "
                "both.",
                key="train.deepspeed.offload",
                value=self.offload,
            )
        return self


class EarlyStopping(Section):
    patience: PositiveInt = Field(
        description="Evaluations without a better metric before the end.", examples=[2]
    )
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
    keep_after: bool = Field(
        False, description="Keep them when the run has ended well; else they are deleted then."
    )


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
    trunk_cache: Switch = Field(
        "auto",
        description="Compute what frozen blocks make of each row once, and train from there; auto: "
        "where that saves time.",
    )
    trunk_precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="Of the numbers that the trunk cache keeps."
    )
    trunk_gb: PositiveFloat = Field(
        50.0,
        description="GB that the trunk cache may take under the storage root: what was not used "
        "for longest makes room.",
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
        0.0,
        description="Share of each label's weight spread over all labels, in training only.",
        examples=[0.1],
    )
    dropout: ShareFromZero | None = Field(
        None,
        description="In place of every dropout that the model's config names; null: as there.",
        examples=[0.1],
    )
    token_dropout: ShareFromZero = Field(
        0.0,
        description="Chance of each token of a training row to be left out.",
        examples=[0.1],
    )
    balance: Literal["weights", "sampling"] | None = Field(
        None,
        description="For skewed labels: rows of rare labels weigh more in the loss, or are drawn "
        "more often, so that each label counts the same.",
    )
    layer_decay: Fraction | Auto = Field(
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
    weights: Literal["auto", "fp32", "nf4"] = Field(
        "auto",
        description="auto: matrices that never train are kept in bf16 where bf16 computes with "
        "them: half the memory, the same bits. nf4: the blocks' linear layers are rounded to four "
        "bits, and train.lora trains beside them (QLoRA); needs `ftray[nf4]`.",
    )
    deepspeed: DeepSpeedSpec | Text = Field(
        DeepSpeedSpec(),
        description='{stage: 0-3}, also with an offload, or a DeepSpeed JSON; "auto" is filled in.',
    )
    metric: MetricName = Field(
        DEFAULT_TASK.default_metric,
        description="The validation metric that picks the best checkpoint and trial. Where the "
        "task generates loss, unless accuracy (of tokens) is set.",
    )
    steps_per_epoch: PositiveInt | None = Field(
        None,
        description="Optimizer steps of an epoch, after which there is an evaluation; null: a pass "
        "over all training rows.",
        examples=[1000],
    )
    early_stopping: EarlyStopping | None = None
    skip_nonfinite: CountFromZero = Field(
        0, description="Updates with a loss or gradient that is not finite to skip before the end."
    )
    log_every: PositiveInt = Field(
        10, description="Steps between two lines on progress, where there is no terminal."
    )
    checkpoint: CheckpointSpec = CheckpointSpec()
    average: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Best epochs whose weights are candidates for an average: each joins it where "
        "it makes `metric` better on the validation rows. null: the best epoch alone.",
        examples=[3],
    )
    calibrate: bool = Field(
        False,
        description="Divide the logits by the temperature that suits the validation rows best, so "
        "that a probability is the share of right answers.",
    )
    baselines: bool = Field(
        True,
        description="Measure what the commonest label and a linear probe on the base model (of a "
        "table: gradient boosting) reach, or, where the task generates, the base model itself, to "
        "see what training adds.",
    )
    promote: Alias | None = Field(
        None,
        description="An alias that the model gets once it is registered, unless the version that "
        "has it does better by `metric` on the same validation rows.",
        examples=["production"],
    )

    @model_validator(mode="after")
    def _phases_follow_one_another(self) -> Self:
        if self.unfreeze in ("lp-ft", "gradual") and self.epochs < 2:
            raise contradiction(
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
        raise contradiction(problem, fix, key="train.unfreeze")

    @model_validator(mode="after")
    def _lora_has_blocks_to_adapt(self) -> Self:
        blocks = [p.blocks for p in self.phases] if self.phases else [self.unfreeze]
        if self.lora is not None and all(part in (0, "head") for part in blocks):
            raise contradiction(
                "trains the head alone, which leaves train.lora nothing to adapt",
                "Unfreeze blocks, or set train.lora to null.",
                key="train.unfreeze",
                value=self.unfreeze,
            )
        return self

    @model_validator(mode="after")
    def _four_bits_have_adapters(self) -> Self:
        if self.weights != "nf4":
            return self
        if self.lora is None:
            problem, fix = "cannot train by themselves", "Set train.lora, or train.weights to auto."
        elif self.lora.options.use_dora:
            problem = "DoRA needs whole ones"
            fix = "Set train.lora.options.use_dora to false, or train.weights to auto."
        elif self.lora.adapter:
            problem = "an adapter would be opened on the base model's own, which differ from them"
            fix = "Leave out train.lora.adapter: the model folder holds what was trained, merged."
        else:
            return self
        raise contradiction(
            f"weights in four bits: {problem}", fix, key="train.weights", value=self.weights
        )

    @property
    def phases(self) -> tuple[PhaseSpec, ...] | None:
        """The schedule in `unfreeze`; None where `unfreeze` is no schedule."""
        value = self.unfreeze
        if isinstance(value, tuple) and isinstance(value[0], PhaseSpec):
            return tuple(phase for phase in value if isinstance(phase, PhaseSpec))
        return None

    def reads(self, rows: int, epochs: int | None = None) -> float:
        """Return how often a training of `epochs`, those of the spec if left out, reads each of its
        rows on average."""
        of = self.epochs if epochs is None else epochs
        return of * (self.steps_per_epoch * self.batch_size / rows if self.steps_per_epoch else 1)

    @property
    def metric_mode(self) -> Mode:
        """Whether the lowest or the highest value of `metric` is the best."""
        return METRICS[self.metric]
