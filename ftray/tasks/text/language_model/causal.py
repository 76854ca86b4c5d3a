"""The common part of tasks that train a causal language model: how it is asked, and how it runs.

The prompt of a row is a text. A text that is a JSON list of {"role", "content"} is a chat: the
model's own chat template renders the prompt from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.tasks.base import (
    BadRow,
    BaseTask,
    Example,
    Outputs,
    Question,
    Row,
    Spend,
    TaskSetup,
    chosen,
    free,
    is_missing,
)
from ftray.tasks.features import Feature
from ftray.tasks.info import Modality
from ftray.tasks.text.blank import frame, has_tokens, is_blank
from ftray.tasks.text.chat import ASSISTANT, as_chat, is_silent, turns_of
from ftray.tasks.text.language_model.learnt import LEARNT_FEATURES
from ftray.tasks.text.language_model.token_loss import all_learnt
from ftray.tasks.text.prompts import prompt_ids
from ftray.tasks.text.texts import IDS, random_text

if TYPE_CHECKING:
    import torch


class CausalLanguageModel(BaseTask):
    """A causal language model that continues a prompt, or answers a chat."""

    auto_class = "AutoModelForCausalLM"

    def ask(self, values: Mapping[str, Any]) -> Question:
        if "messages" in values:
            turns = turns_of(values["messages"])
            asked = turns[:-1] if turns[-1]["role"] == ASSISTANT else turns
            if is_silent(asked):
                raise BadRow("empty_prompt")
            return json.dumps(asked)
        prompt = values.get("prompt", values.get("text"))
        if isinstance(prompt, (list, np.ndarray)):
            prompt = json.dumps(turns_of(prompt))
        if is_missing(prompt):
            raise BadRow("empty_prompt")
        if not isinstance(prompt, str):
            raise BadRow("prompt_not_a_string", repr(prompt))
        if self.is_blank(prompt):
            raise BadRow("empty_prompt", ascii(prompt[:20]) if prompt else "")
        return prompt

    def is_blank(self, question: Question) -> bool:
        turns = as_chat(question)
        return is_blank(question) if turns is None else is_silent(turns)

    def key(self, row: Row) -> str:
        """Return a key of prompt and answers: rows of equal prompts and different answers are no
        duplicates."""
        return chosen(row, self.columns)

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {IDS: Feature("int32", None), **LEARNT_FEATURES}

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the token ids of each prompt; of a prompt that is too long, the last ones. Raises
        ModelError for a chat where the model has no chat template, or the template refuses it."""
        spend(sum(map(len, questions)))
        around = frame(setup.processor)
        return [
            [{IDS: ids[-setup.max_length :]}] if has_tokens(ids, around) else []
            for ids in prompt_ids(setup.processor, questions)
        ]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        return [len(ids) for ids in prompt_ids(setup.processor, questions)]

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        return random_text(setup.processor, size, draw)

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Without a KV cache: no tokens are generated here.
        return {"logits": model(**inputs, use_cache=False).logits}

    def probe_loss(self, outputs: Outputs) -> torch.Tensor:
        return all_learnt(outputs["logits"][:, :-1])
