"""A trained causal language model: encodes prompts, generates answers within the context, and makes
and replays golden answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import torch

from ftray.models.artifact.manifest import Golden
from ftray.models.generation.decoder import Decoder
from ftray.models.generation.kv_cache import RoomyCache
from ftray.models.generation.sampler import Answer
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.loaded import LoadedModel, Outcome
from ftray.models.limits import context
from ftray.spec.schema import Spec
from ftray.tasks.text.blank import frame, has_tokens
from ftray.tasks.text.prompts import end_id, prompt_ids
from ftray.tasks.text.texts import IDS

_GOLDEN_TOKENS = 16


class Generator(LoadedModel):
    """Generates one answer for each prompt, token by token."""

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: the tokenizer's end token, and those in the generation
        config of the base model."""
        told = self.model.generation_config.eos_token_id
        told = [] if told is None else told
        return frozenset([end_id(self.tokenizer), *(told if isinstance(told, list) else [told])])

    @cached_property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return context(self.model.config, self.info.max_length)

    @property
    def most_tokens(self) -> int:
        """Most tokens of a prompt: the context, less one token for the answer."""
        return self.context - 1

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        cache = RoomyCache()
        with self.inference():
            self.model(**self._inputs([0]), past_key_values=cache, use_cache=True)
        return cache.nbytes

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt of any length. Raises ModelError for a chat where the
        model has no chat template, or where the template refuses the chat."""
        if isinstance(prompt, str):
            text = prompt
        elif prompt and isinstance(prompt[0], int):
            return [cast(int, token) for token in prompt]
        else:
            text = json.dumps(prompt)
        with self.tokenizing:
            return prompt_ids(self.tokenizer, [text])[0]

    def outcomes(self, questions: Sequence[str]) -> list[Outcome | None]:
        """Return the greedy answer to each prompt; its score is the geometric mean of its tokens'
        probabilities."""
        most = Spec.model_validate(self.info.spec).serve.max_tokens
        asked = self._asked(questions, self.most_tokens)
        answers = [Answer(ids, Sampling(max_tokens=most)) if ids else None for ids in asked]
        self._write([answer for answer in answers if answer])
        return [self._outcome(answer) if answer else None for answer in answers]

    def _outcome(self, answer: Answer) -> Outcome:
        return Outcome({"prediction": self._text(answer), "score": self._sureness(answer)})

    def decoder(self, most_padding: float = math.inf) -> Decoder:
        """Return a new decoder with at most that much padding. Raises ModelError where the model's
        cache holds more than keys and values."""
        # Reading the keys and values of more padding takes longer than a separate pass, which reads
        # all weights.
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        most = min(most_padding, weights // self.token_bytes)
        return Decoder(self.model, self.tokenizer.pad_token_id, self.ends, self.context, most)

    @property
    def tokenizer(self) -> Any:
        return self.setup.processor

    def _inputs(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        return self.batch([{IDS: ids}]).inputs

    def _asked(self, prompts: Sequence[str], most: int) -> list[list[int] | None]:
        """Return the token ids of each prompt, of a long prompt the last `most`; None for a prompt
        that gives no token."""
        with self.tokenizing:
            encoded = self.task.encode(replace(self.setup, max_length=most), prompts)
        return [list(examples[0][IDS]) if examples else None for examples in encoded]

    def has_tokens(self, ids: Sequence[int]) -> bool:
        """Return whether the ids of a text hold any token but the special ones around every
        text."""
        return has_tokens(ids, self._frame)

    @cached_property
    def _frame(self) -> frozenset[int]:
        return frame(self.tokenizer)

    def _write(self, answers: Sequence[Answer]) -> None:
        """Generate all answers to their ends; answers of similar length share passes."""
        waiting = sorted(answers, key=len, reverse=True)
        decoder = self.decoder()
        while waiting or len(decoder):
            room = min(len(waiting), self.batch_size - len(decoder))
            with self.inference():
                advanced = decoder.step([waiting.pop() for _ in range(room)])
            if error := next((answer.error for answer in advanced if answer.error), None):
                raise error

    def _text(self, answer: Answer) -> str:
        with self.tokenizing:
            text: str = self.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        return text

    @staticmethod
    def _sureness(answer: Answer) -> float:
        logprobs = answer.logprobs
        return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0

    def golden(self, questions: Sequence[str]) -> tuple[Golden, ...]:
        """Return the golden answers: the first tokens of greedy decoding after each prompt, and
        their probabilities."""
        found = [
            Golden(input=text, numbers=(), tokens=self._continued(ids))
            for text, ids in zip(questions, self._golden_ids(questions), strict=True)
        ]
        told = zip(found, self.replayed(found), strict=True)
        return tuple(item.model_copy(update={"numbers": tuple(row)}) for item, row in told)

    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        """Return the probability of each golden token, given the prompt and the tokens before
        it."""
        asked = self._golden_ids([item.input for item in golden])
        rows = []
        for ids, item in zip(asked, golden, strict=True):
            inputs = self._inputs([*ids, *item.tokens])
            with self.inference():
                logits = self.model(**inputs).logits[0, len(ids) - 1 : -1].float()
            tokens = torch.tensor(item.tokens, device=logits.device)
            shares = torch.softmax(logits, -1)
            rows.append(shares[torch.arange(len(tokens)), tokens].tolist())
        return rows

    def _golden_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of the prompts, cut to leave room for `_GOLDEN_TOKENS` more."""
        room = max(1, min(self.info.max_length, self.context - _GOLDEN_TOKENS))
        return [ids or [end_id(self.tokenizer)] for ids in self._asked(texts, room)]

    def _continued(self, ids: Sequence[int]) -> tuple[int, ...]:
        from transformers import GenerationConfig

        greedy = GenerationConfig(
            max_new_tokens=_GOLDEN_TOKENS,
            do_sample=False,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with self.inference():
            whole = self.model.generate(**self._inputs(ids), generation_config=greedy)
        return tuple(whole[0, len(ids) :].tolist())
