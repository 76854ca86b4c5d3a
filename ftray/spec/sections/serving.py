"""The section `serve`: the options of serving a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from ftray.spec.fields import (
    CountFromZero,
    FloatFromZero,
    PositiveFloat,
    PositiveInt,
    Range,
    Section,
    Text,
    contradiction,
)
from ftray.spec.sections.compute import PRECISIONS, BackendName, Compute, Precision


class Batching(Section):
    max_size: PositiveInt = Field(32, description="Rows of one forward pass.")
    wait_ms: FloatFromZero = Field(
        5,
        description="How long a row waits at most for others to share its forward pass. It never "
        "waits longer than the fixed cost of one pass.",
    )
    max_waiting: PositiveInt = Field(
        1024, description="Rows that wait at a replica before it answers 503 to more of them."
    )
    timeout_seconds: PositiveFloat = Field(
        30,
        description="A request that has no answer after so long gets a 503, also while the model "
        "computes. One that generates has begun by then. Answers that have begun go on for so "
        "long while a replica ends.",
    )
    hung_seconds: PositiveFloat = Field(
        120,
        description="A replica whose model has not returned from one call for so long is replaced.",
    )


class ReplicaRange(Range):
    min: CountFromZero = Field(
        1,
        description="0: the last one goes after `idle_seconds`, and who asks next waits until one "
        "is there again.",
    )
    idle_seconds: PositiveFloat = Field(
        600, description="How long nobody must ask before the last replica goes."
    )


@dataclass(frozen=True)
class GenerationLimits:
    """Limits in tokens: of one answer, of a prompt with its answer, and of all sequences in a
    replica's KV cache; None: as many as the model and its device allow."""

    max_tokens: int
    max_context: int | None = None
    cache_tokens: int | None = None


class ServeSpec(Section):
    replicas: ReplicaRange = ReplicaRange()
    batch: Batching = Batching()
    max_models: PositiveInt = Field(
        32,
        description="Of several served models, how many a replica has loaded at once, those that "
        "are being loaded or replaced included; another one is loaded when it is asked for, and "
        "the least recently used one goes first. Of one that is alone a new version is always "
        "loaded beside the old one.",
    )
    max_queued_requests: PositiveInt | None = Field(
        None,
        description="Requests that a replica has in hand, beyond `batch.max_size`, before it "
        "answers 503 to more. null: `batch.max_waiting`.",
    )
    max_tokens: PositiveInt = Field(
        512,
        description="Of a model that generates: tokens of an answer, also where more are asked.",
    )
    max_context: PositiveInt | None = Field(
        None,
        description="Of a model that generates: tokens of a prompt and its answer together; a "
        "longer prompt is refused. null: as many as the model has positions for and "
        "`cache_tokens` has room for.",
    )
    cache_tokens: PositiveInt | None = Field(
        None,
        description="Of a model that generates: tokens of prompts and answers whose keys and "
        "values a replica holds at once; who would be one too many waits. null: as many as a "
        "quarter of the memory has room for that is free on the device once the model is there.",
    )
    cpus_per_replica: PositiveFloat = 1
    gpus_per_replica: FloatFromZero = Field(
        0, description="0, 1, or less than 1: so many replicas share a GPU."
    )
    max_replicas_per_node: Annotated[PositiveInt, Field(le=100)] | None = Field(
        None,
        description="How many replicas a node may hold; 1: the loss of a node costs one replica. "
        "null: as many as find room.",
    )
    api_keys: Text | None = Field(
        None, description="File of hashed keys that requests must bear one of; see `ftray keys`."
    )
    log_requests: bool = Field(
        False, description="A line a request in the log of its replica: path, status, time, id."
    )
    backend: BackendName = Field(
        "torch",
        description="onnx: ONNX Runtime, of models that label, on CPUs; needs `ftray[onnx]`.",
    )
    precision: Precision = Field(
        "fp32",
        description="bf16 (torch): half the memory, and faster where the hardware has it. fp16 "
        "(torch): the same for GPUs that lack bf16. int8 (onnx): faster still on CPUs. "
        "Probabilities move, by as much as the golden answers allow.",
    )

    @property
    def compute(self) -> Compute:
        return Compute(self.backend, self.precision)

    @property
    def max_requests(self) -> int:
        """The most requests that a replica has in hand."""
        return self.batch.max_size + (self.max_queued_requests or self.batch.max_waiting)

    @property
    def generation(self) -> GenerationLimits:
        return GenerationLimits(self.max_tokens, self.max_context, self.cache_tokens)

    @model_validator(mode="after")
    def _a_whole_context_fits(self) -> Self:
        if self.max_context and self.cache_tokens and self.max_context > self.cache_tokens:
            raise contradiction(
                f"serve.cache_tokens {self.cache_tokens} has no room for a whole context of "
                f"serve.max_context {self.max_context}",
                "Raise the one, or lower the other.",
            )
        return self

    @model_validator(mode="after")
    def _a_replica_has_one_gpu_at_most(self) -> Self:
        if self.gpus_per_replica > 1:
            raise contradiction(
                "a replica computes on one device",
                "Set 1 or less, and raise serve.replicas to use more GPUs.",
                key="serve.gpus_per_replica",
                value=self.gpus_per_replica,
            )
        return self

    @model_validator(mode="after")
    def _backend_can(self) -> Self:
        known = PRECISIONS[self.backend]
        if self.precision not in known:
            raise contradiction(
                f"serve.backend {self.backend} does not compute in {self.precision}",
                f"Set serve.precision to {' or '.join(known)}, or another backend.",
            )
        if self.compute.on_cpu and self.gpus_per_replica:
            raise contradiction(
                f"serve.backend {self.backend} makes no use of serve.gpus_per_replica "
                f"{self.gpus_per_replica:g}",
                "Set the one to torch, or the other to 0.",
            )
        return self
