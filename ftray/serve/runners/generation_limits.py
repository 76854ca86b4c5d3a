"""Computes how many tokens a model that generates may hold at a replica: per answer, per context
and in the whole KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.cluster.device import free_memory
from ftray.errors import ModelError
from ftray.models.generation.generator import Generator
from ftray.serve.ops.log import logger
from ftray.spec.sections.serving import GenerationLimits

_FREE_PART = 4
"""The KV cache of `cache_tokens` gets 1/`_FREE_PART` of the free memory. Padding and room for
coming tokens may double its size; the rest is for the computation and for another version."""
_LEAST_TOKENS = 1024
"""Tokens of the KV cache where memory is short: with fewer, hardly any request gets an answer."""
_log = logger(__name__)


@dataclass(frozen=True)
class Capacity:
    """Most tokens of one answer, of a prompt with its answer, and of all prompts and answers in
    progress at once."""

    max_tokens: int
    context: int
    cache_tokens: int


def capacity(limits: GenerationLimits, generator: Generator) -> Capacity:
    """Return the capacity that `limits`, the model and the memory that is free now allow. Raises
    ModelError where there is no room for serve.max_context."""
    name, there, wanted = generator.info.name, generator.context, limits.max_context
    if wanted is not None and wanted > there:
        raise _too_long(wanted, f"{name} has positions for {there:,} tokens", there)
    held = limits.cache_tokens or _affordable(generator)
    if wanted is not None and wanted > held:
        size = wanted * generator.token_bytes / 2**30
        raise _too_long(wanted, f"memory has no room for the {size:.1f} GB of their cache", held)
    context = wanted or min(there, held)
    if wanted is None and context < there:
        said = (
            "%s: a prompt and its answer have up to %d tokens, for which the cache has room, not %d"
        )
        _log.warning(said, name, context, there)
    return Capacity(limits.max_tokens, context, held)


def _affordable(generator: Generator) -> int:
    free = free_memory(generator.device) // _FREE_PART
    return max(free // generator.token_bytes, min(_LEAST_TOKENS, generator.context))


def _too_long(wanted: int, problem: str, most: int) -> ModelError:
    fix = f"set it to {most} or less, or leave it out"
    return ModelError.of("serve.max_context", wanted, problem, fix)
