"""Preference tuning: a causal language model learns which of two answers people prefer, by DPO
(Direct Preference Optimization, Rafailov et al. 2023).

The reward of an answer is `beta` times the logarithm of how much likelier the trained model finds
it than the base model does. The loss is that of a logistic regression on the difference of the two
rewards, the margin; train.label_smoothing is the share of rows whose order is taken to be wrong
(conservative DPO, Mitchell 2023). The base model computes the likelihoods of all answers once,
before the training, and is then no longer needed.

An example holds both sequences of a row, prompt and chosen answer, then prompt and rejected answer.
Positions begin again with the second sequence, by which transformers' attention masks keep the
two apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from ftray.tasks.base import BadRow, Example, Examples, Feature, Metrics, Outputs, Row, TaskSetup
from ftray.tasks.features import Batch
from ftray.tasks.info import ONE_LABEL_ONLY, NoOptions, Starter, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.blank import frame, has_tokens
from ftray.tasks.text.chat import Turn, completion_of, is_silent, turns_of
from ftray.tasks.text.language_model.causal import CausalLanguageModel
from ftray.tasks.text.language_model.learnt import (
    SPANS,
    learnt_features,
    learnt_logits,
    learnt_tokens,
)
from ftray.tasks.text.language_model.packed import (
    POSITIONS,
    POSITIONS_FEATURE,
    mixing,
    packed,
    positions_of,
    reads_one_row,
)
from ftray.tasks.text.prompts import completion_ids, cut_alike, prompt_ids
from ftray.tasks.text.texts import IDS, plain_token

if TYPE_CHECKING:
    import torch

REFERENCE, BETA = "reference", "beta"
"""Targets: log-likelihoods of the chosen and the rejected answer by the base model, (B, 2); the
option `beta`, (B,)."""
_ANSWERS = ("chosen", "rejected")
_SUMS = ("rows", "right", "margin", "chosen_reward", "rejected_reward", "loss")


class Options(NoOptions):
    """Options of the task preference-tuning."""

    beta: float = Field(
        0.1, gt=0, description="How strongly the model is kept near the base model."
    )


class PreferenceTuning(CausalLanguageModel):
    """The task preference-tuning. Rows are a prompt, the answer that was chosen, and the one that
    was rejected."""

    info = TaskInfo(
        name="preference-tuning",
        forms=(("prompt", *_ANSWERS), ("messages", *_ANSWERS), _ANSWERS),
        modalities={"prompt": "text", "messages": "chat", "chosen": "text", "rejected": "text"},
        answers=_ANSWERS,
        requests={"text": "text"},
        output="text",
        pipeline="text-generation",
        metrics={"accuracy": "max", "margin": "max", "loss": "min"},
        default_metric="accuracy",
        max_length=1024,
        options=Options,
        synonyms={
            "prompt": "instruction question",
            "messages": "chat conversation conversations turns",
            "chosen": "preferred accepted better response_chosen",
            "rejected": "dispreferred worse response_rejected",
        },
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "drops tokens to be compared", "Set 0."),
            "serve.backend": ("torch", "computes labels", "Set torch."),
        },
        starter=Starter(
            name="my-assistant",
            model="name_or_path: Qwen/Qwen3-0.6B",
            data="""\
  train: preferences.jsonl     # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a prompt (a text, or the turns of a chat) and two answers to it; or
  # {chosen: chosen, rejected: rejected}, two chats that differ in the last turn.
  columns: {prompt: prompt, chosen: chosen, rejected: rejected}
  max_length: 512              # tokens of a prompt and one answer""",
            train="""\
  learning_rate: 5.0e-6
  unfreeze: 4                  # top blocks to train; all = everything
  metric: accuracy             # of rows, by whose answer has the higher reward; or margin""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-6, 1.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, 8]}""",
            serve="""\
  batch: {max_size: 32}        # answers that are written together
  max_tokens: 512              # of one answer""",
        ),
    )
    columns = dict.fromkeys(("prompt", *_ANSWERS), "text")
    from_base = (REFERENCE,)

    def parse(self, values: Mapping[str, Any]) -> Row:
        chats = {name: _chat(values[name]) for name in _ANSWERS}
        whole = {name: turns for name, turns in chats.items() if len(turns) > 1}
        if whole:
            prompt = _shared_prompt(whole)
        else:
            prompt = self.ask({n: v for n, v in values.items() if n not in _ANSWERS})
        chosen, rejected = (completion_of(chats[n][-1:] or values[n], n) for n in _ANSWERS)
        if chosen.split() == rejected.split():
            raise BadRow("equal_answers", ascii(chosen[:40]))
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    def longest(self, setup: TaskSetup) -> int:
        return 2 * setup.max_length

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        told = {REFERENCE: Feature("float32", (2,), "target")}
        return {**super().features(setup), **POSITIONS_FEATURE, **told}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make examples. Of a row that is too long, the beginning of the prompt is cut first, then
        the ends of the answers. Raises ModelError as `encode` does."""
        tokenizer, around = setup.processor, frame(setup.processor)
        asked = prompt_ids(tokenizer, rows["prompt"])
        answers = [completion_ids(tokenizer, rows["prompt"], rows[name]) for name in _ANSWERS]
        found = Examples({}, [], [], {})
        for place, (prompt, *pair) in enumerate(zip(asked, *answers, strict=True)):
            before, cut = cut_alike(prompt, pair, setup.max_length)
            if not all(has_tokens(ids, around) for ids in (prompt, *pair)):
                found.rejected[place] = "no_tokens"
            elif cut[0] == cut[1]:
                found.rejected[place] = "equal_within_max_length"
            else:
                found.add(place, _example(before, cut))
                found.lengths.append(len(prompt) + max(map(len, pair)))
        return found

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        """Make a batch; its targets are those of `learnt_tokens`, `BETA`, and `REFERENCE` where the
        examples have it."""
        import torch

        batch = packed(examples, self.features(setup), setup.processor)
        if SPANS not in examples[0]:
            return batch
        assert isinstance(setup.options, Options)
        beta = torch.full((len(examples),), setup.options.beta)
        targets = {**batch.targets, **learnt_tokens(examples), BETA: beta}
        return Batch(batch.inputs, targets, examples)

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        ids, half = [plain_token(setup.processor)] * size, size // 2
        return {IDS: ids, POSITIONS: positions_of((size - half, half)), **learnt_features([])}

    def untrainable(self, model: Any, setup: TaskSetup) -> str:
        if reads_one_row(model):
            return "its flash attention keeps sequences of a row apart in a batch of one row only"
        return mixing(model, setup.processor)

    def base_targets(self, outputs: Outputs, batch: Batch) -> dict[str, torch.Tensor]:
        return {REFERENCE: _likelihoods(outputs, batch)}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, from logits (B, T, V)."""
        rewards = _rewards(outputs, batch)
        return _losses(rewards[:, 0] - rewards[:, 1], smoothing)

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        return MetricState({name: torch.zeros(()) for name in _SUMS})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the number of rows, and the sums of what `metrics` has of them."""
        import torch

        rewards = _rewards({name: value.detach() for name, value in outputs.items()}, batch)
        chosen, rejected = rewards.unbind(1)
        margins = chosen - rejected
        right = (margins.sign() + 1) / 2
        found = (torch.ones_like(right), right, margins, chosen, rejected, _losses(margins))
        return MetricState({n: v.double().sum() for n, v in zip(_SUMS, found, strict=True)})

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return the loss; accuracy: the share of rows whose chosen answer has the higher reward,
        equal rewards counting half; margin: by how much it is higher, in nats; and the mean rewards
        of both answers."""
        rows = float(found.sums["rows"])
        assert rows > 0, "metrics of no rows"
        means = {name: float(found.sums[name]) / rows for name in _SUMS[1:]}
        return {"loss": means.pop("loss"), "accuracy": means.pop("right"), **means}


def _chat(value: Any) -> list[Turn]:
    """Return the turns of an answer that is a list of them; none for any other value."""
    return turns_of(value) if isinstance(value, (list, np.ndarray)) else []


def _shared_prompt(chats: Mapping[str, list[Turn]]) -> str:
    """Return the turns before the last one, which both chats must share. Raises BadRow."""
    if len(chats) < len(_ANSWERS):
        raise BadRow("one_answer_without_prompt", f"only {next(iter(chats))} is a whole chat")
    asked, other = (turns[:-1] for turns in chats.values())
    if asked != other:
        raise BadRow("different_prompts", "the answers are to one prompt")
    if is_silent(asked):
        raise BadRow("empty_prompt")
    return json.dumps(asked)


def _example(prompt: list[int], answers: Sequence[list[int]]) -> Example:
    """Return the example of a prompt, to which each of the answers is a sequence of its own."""
    sequences = [[*prompt, *answer] for answer in answers]
    lengths = [len(ids) for ids in sequences]
    ends = np.cumsum(lengths).tolist()
    spans = [(end - len(answer), end) for end, answer in zip(ends, answers, strict=True)]
    ids = [token for sequence in sequences for token in sequence]
    return {IDS: ids, POSITIONS: positions_of(lengths), **learnt_features(spans)}


def _likelihoods(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Return the log-likelihoods of both answers of each row, (B, 2) float32."""
    import torch

    logits, targets = outputs["logits"], batch.targets
    each = torch.nn.functional.cross_entropy(
        learnt_logits(logits, batch), targets["ids"], reduction="none"
    )
    answers = len(_ANSWERS)
    of = targets["examples"] * answers + targets["spans"]
    return each.new_zeros(answers * len(logits)).index_add(0, of, -each).view(-1, answers)


def _rewards(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Return the rewards of both answers of each row, (B, 2) float32."""
    beta, reference = batch.targets[BETA], batch.targets[REFERENCE]
    return beta[:, None] * (_likelihoods(outputs, batch) - reference)


def _losses(margins: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    from torch.nn.functional import logsigmoid

    return -(1 - smoothing) * logsigmoid(margins) - smoothing * logsigmoid(-margins)
