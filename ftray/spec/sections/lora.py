"""The section `train.lora`: the adapters that train in place of the blocks' own weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ftray.spec.fields import (
    Auto,
    Pattern,
    PositiveInt,
    Section,
    ShareFromZero,
    Text,
    contradiction,
)


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
                raise contradiction(problem, fix, key=key, value=value[name])
        return value

    @model_validator(mode="after")
    def _is_dora_or_has_a_bias(self) -> Self:
        if self.lora_bias and self.use_dora:
            raise contradiction(
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
"""Fields of LoraConfig that another key or the model determines."""


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
