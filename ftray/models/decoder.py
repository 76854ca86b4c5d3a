"""Answers of a causal language model, many at once: they come and go between any two tokens.

That is iteration-level scheduling (Yu et al. 2022). All that run are one batch, padded on the left
so that their newest tokens are in line; where each one begins follows from its length alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ftray.errors import ModelError
from ftray.models.drawing import Answer, draw
from ftray.models.roomy_cache import RoomyCache


class Decoder:
    """Writes answers with one model. For one thread, which calls it in inference mode."""

    def __init__(self, model: Any, pad_id: int, ends: Collection[int], context: int) -> None:
        """ends: the tokens that end an answer. context: most tokens of a prompt and its answer.

        Raises ModelError when the model keeps anything but keys and values, or is not told where
        its tokens stand.
        """
        self._model, self._pad_id, self._ends, self._context = model, pad_id, ends, context
        self._options = _options(model)
        self._answers: list[Answer] = []
        self._cache = RoomyCache()

    def __len__(self) -> int:
        """Answers that go on."""
        return len(self._answers)

    def step(self, newcomers: Sequence[Answer] = ()) -> list[Answer]:
        """Draw one token more for each answer, those that come now included.

        Gives all that took part: each has one token more, or has failed. Of the prompts of those
        that come now, none is empty and each leaves room in the context. What the model raises
        passes through, and the decoder is then of no more use.
        """
        assert all(0 < len(answer.prompt) < self._context for answer in newcomers)
        self._part()
        before, joining = self._answers, [a for a in newcomers if a.finish is None]
        logits = []
        if before:
            logits.append(self._forward(before, [a.tokens[-1:] for a in before], self._cache))
        if joining:
            logits.append(self._join(joining))
        answers = [*before, *joining]
        if answers:
            draw(answers, torch.cat(logits))
        for answer in answers:
            self._end_where_due(answer)
        self._answers = [*answers]
        self._part()
        return answers

    def _join(self, answers: Sequence[Answer]) -> torch.Tensor:
        cache = DynamicCache()
        logits = self._forward(answers, [a.prompt for a in answers], cache)
        self._cache.join(cache)
        return logits

    def _forward(
        self, answers: Sequence[Answer], newest: Sequence[Sequence[int]], cache: Cache
    ) -> torch.Tensor:
        """(B, V) float32: what follows each answer's last token.

        newest: of each answer, the tokens that `cache` does not hold yet.
        """
        columns, width = max(map(len, answers)), max(map(len, newest))
        ids = [[self._pad_id] * (width - len(tokens)) + [*tokens] for tokens in newest]
        device = self._model.device
        starts = torch.tensor([[columns - len(answer)] for answer in answers], device=device)
        positions = torch.arange(columns, device=device) - starts
        logits = self._model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, -width:].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            **self._options,
        ).logits
        return logits[:, -1].float()

    def _end_where_due(self, answer: Answer) -> None:
        if answer.finish is not None:
            return
        if answer.tokens[-1] in self._ends:
            answer.finish = "stop"
        elif len(answer.tokens) == answer.sampling.max_tokens or len(answer) >= self._context:
            answer.finish = "length"

    def _part(self) -> None:
        """Those that have ended leave; the last rows that go on take the places of others."""
        ended = [place for place, answer in enumerate(self._answers) if answer.finish]
        if not ended:
            return
        rows = len(self._answers) - len(ended)
        free = [place for place in ended if place < rows]
        moving = [place for place in range(rows, len(self._answers)) if place not in set(ended)]
        for place, source in zip(free, moving, strict=True):
            self._answers[place] = self._answers[source]
        del self._answers[rows:]
        if self._answers:
            self._cache.keep(rows, max(map(len, self._answers)) - 1, moving, free)
        else:
            self._cache = RoomyCache()


def check_decodes(model: Any) -> None:
    """Raises ModelError as `Decoder` does."""
    _options(model)


def _options(model: Any) -> dict[str, Any]:
    """What else the model's forward pass is told. Raises ModelError as `Decoder` does."""
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
