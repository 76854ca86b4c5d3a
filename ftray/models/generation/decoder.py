"""Generates many answers of a causal language model at once: answers join and leave the batch
between any two tokens.

This is iteration-level scheduling (Yu et al. 2022). The decoder reads long prompts in chunks, so a
running answer waits for one chunk at most (chunked prefill, Agrawal et al. 2023).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ftray.errors import ModelError
from ftray.models.generation.decoding_batch import DecodingBatch
from ftray.models.generation.sampler import Answer

CHUNK = 512
"""Prompt tokens that one step reads: enough to keep a device busy."""

_log = logging.getLogger(__name__)


class Decoder:
    """Writes answers with one model. One thread owns a decoder and calls it in inference mode."""

    def __init__(
        self,
        model: Any,
        pad_id: int,
        ends: Collection[int],
        context: int,
        most_padding: float = math.inf,
    ) -> None:
        """ends: the tokens that end an answer. context: most tokens of a prompt and its answer.
        most_padding: most padding positions, summed over the rows of all batches, that the decoder
        adds so that answers of different lengths share passes.

        Raises ModelError when the model's cache holds anything but keys and values, or its forward
        pass takes no cache, attention mask or position ids.
        """
        self._model, self._pad_id, self._ends, self._context = model, pad_id, ends, context
        self._most_padding = most_padding
        self._options = _options(model)
        self._running: list[DecodingBatch] = []
        self._reading: deque[DecodingBatch] = deque()

    def __len__(self) -> int:
        """Return the number of answers that the decoder holds."""
        return sum(len(batch.answers) for batch in (*self._running, *self._reading))

    def step(self, newcomers: Sequence[Answer] = ()) -> list[Answer]:
        """Draw one more token for each answer whose prompt is read, and read a chunk of the next
        batch of prompts.

        Returns the answers that have one more token, or have failed. The prompt of each newcomer
        holds at least one token and leaves room in the context. Where a pass raises, each of its
        answers goes on in a batch of its own; where a lone answer's pass raises, the answer's
        finish becomes "failed", and its `error` the exception.
        """
        assert all(0 < len(answer.prompt) < self._context for answer in newcomers)
        self._part()
        self._reading.extend(_alike([answer for answer in newcomers if answer.finish is None]))
        advanced: list[Answer] = []
        running: list[DecodingBatch] = []
        for batch in (*self._running, *([self._reading.popleft()] if self._reading else [])):
            if self._advance(batch, advanced):
                running.append(batch)
        self._merge([batch for batch in running if batch.part()])
        return advanced

    def _advance(self, batch: DecodingBatch, advanced: list[Answer]) -> bool:
        """Read a chunk of the batch, or draw a token for each of its answers. Adds answers with a
        new token, and one that failed, to `advanced`. Returns whether tokens were drawn; a batch
        with unread tokens is queued again."""
        try:
            drawn = batch.advance(self._model, self._pad_id, self._options, CHUNK)
        except Exception as error:  # noqa: BLE001 - the answer's owner reads it from `error`
            advanced += self._failed(batch, error)
            return False
        if not drawn:
            self._reading.append(batch)
            return False
        for answer in batch.answers:
            self._end_where_due(answer)
        advanced += batch.answers
        return True

    def _failed(self, batch: DecodingBatch, error: Exception) -> Sequence[Answer]:
        """Mark a lone answer as failed and return it. Answers of a larger batch are queued again,
        each as a batch of its own."""
        if len(batch.answers) > 1:
            _log.warning("%d answers go on alone", len(batch.answers), exc_info=error)
            alone = (DecodingBatch([answer], alone=True) for answer in batch.answers)
            self._reading.extend(alone)
            return ()
        (answer,) = batch.answers
        answer.finish, answer.error = "failed", error
        return (answer,)

    def _merge(self, batches: Sequence[DecodingBatch]) -> None:
        """Join batches as far as `most_padding` allows, and keep them running."""
        self._running = []
        room = self._most_padding - sum(batch.padding() for batch in batches)
        for batch in batches:
            others = [] if batch.alone else [other for other in self._running if not other.alone]
            best = min(others, key=batch.cost_of_joining, default=None)
            if best is None or (cost := batch.cost_of_joining(best)) > room:
                self._running.append(batch)
            else:
                best.join(batch)
                room -= cost

    def _end_where_due(self, answer: Answer) -> None:
        if answer.finish is not None:
            return
        if answer.tokens[-1] in self._ends:
            answer.finish = "stop"
        elif len(answer.tokens) == answer.sampling.max_tokens or len(answer) >= self._context:
            answer.finish = "length"

    def _part(self) -> None:
        """Remove answers that have ended."""
        self._running = [batch for batch in self._running if batch.part()]
        self._reading = deque(batch for batch in self._reading if batch.part())


def _alike(answers: Sequence[Answer]) -> list[DecodingBatch]:
    """Group answers of similar length, such that one chunk reads a batch of several answers."""
    rows: list[list[Answer]] = []
    for answer in sorted(answers, key=len):
        if rows and len(answer) * (len(rows[-1]) + 1) <= CHUNK:
            rows[-1].append(answer)
        else:
            rows.append([answer])
    return [DecodingBatch(each) for each in rows]


def check_decodes(model: Any) -> None:
    """Check that a `Decoder` can run the model. Raises ModelError as `Decoder` does."""
    _options(model)


def _options(model: Any) -> dict[str, Any]:
    """Return further arguments for the model's forward pass. Raises ModelError as `Decoder`
    does."""
    takes = inspect.signature(model.forward).parameters
    wanted = {"attention_mask", "position_ids", "past_key_values"}
    if not wanted <= takes.keys() or not _only_keys_and_values(model):
        raise ModelError.of(
            "model.name_or_path",
            type(model).__name__,
            "it cannot go on with answers of different lengths in one batch: for that it has to "
            "keep keys and values, and nothing else, and to be told the positions of its tokens",
            "take a model of another family, such as llama, qwen3, mistral, gemma2, phi3 or gpt2",
        )
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}


def _only_keys_and_values(model: Any) -> bool:
    plain = DynamicLayer, DynamicSlidingWindowLayer
    return all(type(layer) in plain for layer in DynamicCache(config=model.config).layers)
