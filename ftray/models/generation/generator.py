"""A trained causal language model: encodes prompts, generates answers within the context, and makes
and replays golden answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch

from ftray.models.artifact.manifest import Golden
from ftray.models.generation.decoder import Decoder
from ftray.models.generation.kv_cache import RoomyCache
from ftray.models.generation.sampler import Answer
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.loaded import LoadedModel, Outcome
from ftray.models.limits import context
from ftray.spec.schema import Spec
from ftray.tasks.text_generation import end_id, prompt_ids

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
            self.model(**self.collate([[0]]), past_key_values=cache, use_cache=True)
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

    def outcomes(self, texts: Sequence[str]) -> list[Outcome]:
        """Return the greedy answer to each prompt; its score is the geometric mean of its tokens'
        probabilities."""
        most = Spec.model_validate(self.info.spec).serve.max_tokens
        answers = [Answer(ids, Sampling(max_tokens=most)) for ids in self._asked(texts)]
        self._write(answers)
        return [Outcome(self._text(answer), self._sureness(answer)) for answer in answers]

    def decoder(self, most_padding: float = math.inf) -> Decoder:
        """Return a new decoder with at most that much padding. Raises ModelError where the model's
        cache holds more than keys and values."""
        # Reading the keys and values of more padding takes longer than a separate pass, which reads
        # all weights.
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        most = min(most_padding, weights // self.token_bytes)
        return Decoder(self.model, self.tokenizer.pad_token_id, self.ends, self.context, most)

    def _asked(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt; of a prompt that leaves no room for an answer, the
        last ones."""
        with self.tokenizing:
            return self.task.encode(self.tokenizer, texts, self.most_tokens)

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

    def golden(self, texts: Sequence[str]) -> tuple[Golden, ...]:
        """Return the golden answers: the first tokens of greedy decoding after each prompt, and
        their probabilities."""
        found = [
            Golden(input=text, probabilities=(), tokens=self._continued(ids))
            for text, ids in zip(texts, self._golden_ids(texts), strict=True)
        ]
        told = zip(found, self.replayed(found), strict=True)
        return tuple(item.model_copy(update={"probabilities": tuple(row)}) for item, row in told)

    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        """Return the probability of each golden token, given the prompt and the tokens before
        it."""
        asked = self._golden_ids([item.input for item in golden])
        rows = []
        for ids, item in zip(asked, golden, strict=True):
            inputs = self.collate([[*ids, *item.tokens]])
            with self.inference():
                logits = self.model(**inputs).logits[0, len(ids) - 1 : -1].float()
            tokens = torch.tensor(item.tokens, device=logits.device)
            shares = torch.softmax(logits, -1)
            rows.append(shares[torch.arange(len(tokens)), tokens].tolist())
        return rows

    def _golden_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of the prompts, cut to leave room for `_GOLDEN_TOKENS` more."""
        room = max(1, self.context - _GOLDEN_TOKENS)
        return [ids[-room:] for ids in self.encode(texts)]

    def _continued(self, ids: Sequence[int]) -> tuple[int, ...]:
        from transformers import GenerationConfig

        greedy = GenerationConfig(
            max_new_tokens=_GOLDEN_TOKENS,
            do_sample=False,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with self.inference():
            whole = self.model.generate(**self.collate([ids]), generation_config=greedy)
        return tuple(whole[0, len(ids) :].tolist())
