"""Text generation by a causal language model: continues a prompt, or answers a chat.

Tokens of a prompt have no loss; those of a completion, and its end, are learnt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from ftray.tasks.base import (
    BadRow,
    Batch,
    Collate,
    Example,
    Examples,
    Metrics,
    Outputs,
    Row,
    TaskSetup,
)
from ftray.tasks.info import ONE_LABEL_ONLY, NoOptions, Starter, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.blank import frame, has_tokens
from ftray.tasks.text.chat import answer_of, completion_of, filled, is_silent, turns_of
from ftray.tasks.text.language_model.causal import CausalLanguageModel
from ftray.tasks.text.language_model.learnt import (
    COUNT,
    SPANS,
    Span,
    learnt_features,
    learnt_logits,
    learnt_tokens,
    without_first,
)
from ftray.tasks.text.language_model.packed import in_few_rows, mixing, reads_one_row
from ftray.tasks.text.language_model.token_loss import no_tokens, token_metrics, token_state
from ftray.tasks.text.language_model.turns import answered_prompts
from ftray.tasks.text.prompts import completion_ids, cut_to, prompt_ids, windows_of
from ftray.tasks.text.texts import IDS, padded, plain_token

if TYPE_CHECKING:
    import torch


class Options(NoOptions):
    """Options of the task text-generation."""

    learn: Literal["last", "all"] = Field(
        "last",
        description="Turns of a chat that are learnt: the last one, or all answers but those with "
        "the weight 0.",
    )
    packing: bool = Field(
        False, description="Whether several short examples share a row of a batch in training."
    )


class TextGeneration(CausalLanguageModel):
    """The task text-generation. Rows are a prompt and its completion, the turns of a chat, or plain
    texts."""

    info = TaskInfo(
        name="text-generation",
        forms=(("prompt", "completion"), ("messages",), ("text",)),
        modalities={"prompt": "text", "completion": "text", "messages": "chat", "text": "text"},
        answers=("completion",),
        requests={"text": "text"},
        output="text",
        metrics={"accuracy": "max", "loss": "min"},
        default_metric="loss",
        max_length=1024,
        options=Options,
        synonyms={
            "prompt": "instruction question",
            "completion": "response answer output_column",
            "messages": "chat conversation conversations turns",
        },
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "drops tokens to be learnt", "Set 0."),
            "serve.backend": ("torch", "computes labels", "Set torch."),
        },
        starter=Starter(
            name="my-writer",
            model="name_or_path: Qwen/Qwen3-0.6B",
            data="""\
  train: examples.jsonl        # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a prompt and its completion; or {messages: messages}, a chat of which the last
  # turn is learnt; or {text: text}, which is learnt whole.
  columns: {prompt: prompt, completion: completion}
  max_length: 512              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-5
  unfreeze: 4                  # top blocks to train; all = everything
  metric: loss                 # of the completions' tokens; or accuracy""",
            space="""\
    train.learning_rate: {loguniform: [5.0e-6, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, 8]}""",
            serve="""\
  batch: {max_size: 32}        # answers that are written together
  max_tokens: 512              # of one answer""",
        ),
    )
    columns = {"prompt": "text", "completion": "text"}

    def parse(self, values: Mapping[str, Any]) -> Row:
        if "messages" in values:
            *asked, last = turns_of(values["messages"])
            answer = answer_of(last)
            if is_silent(asked):
                raise BadRow("empty_prompt")
            return {"prompt": json.dumps(asked), "completion": answer}
        if "text" in values:
            return {"prompt": "", "completion": filled(values["text"])}
        return {"prompt": self.ask(values), "completion": completion_of(values["completion"])}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make examples. A text without a prompt is split into windows, which learn all of it. Of
        any other row that is too long, the beginning of the prompt is cut first, then the end of
        the completion. Raises ModelError as `encode` does."""
        tokenizer = setup.processor
        asked = _asked(setup, rows["prompt"])
        answers = completion_ids(tokenizer, rows["prompt"], rows["completion"])
        around = frame(tokenizer)
        examples = Examples({}, [], [], {})
        for place, ((prompt, spans), completion) in enumerate(zip(asked, answers, strict=True)):
            is_asked = not rows["prompt"][place] or has_tokens(prompt, around)
            if not is_asked or not has_tokens(completion, around):
                examples.rejected[place] = "no_tokens"
                continue
            cut = cut_to if rows["prompt"][place] else windows_of
            for before, learnt in cut(prompt, completion, setup.max_length):
                ids = [*before, *learnt]
                earlier = without_first(len(prompt) - len(before), spans)
                told = learnt_features([*earlier, (len(before), len(ids))])
                examples.add(place, {IDS: ids, **told})
            examples.lengths.append(len(prompt) + len(completion))
        return examples

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count the tokens to learn, one loss term each."""
        return column(COUNT).astype(np.float64)

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        """Make a batch; its targets are those of `learnt_tokens`."""
        batch = padded(examples, {IDS: self.features(setup)[IDS]}, setup.processor)
        if SPANS not in examples[0]:
            return batch
        return Batch(batch.inputs, learnt_tokens(examples), examples)

    def packing(self, model: Any, setup: TaskSetup) -> Collate | None:
        assert isinstance(setup.options, Options)
        if not setup.options.packing:
            return None
        ids, in_one_row = self.features(setup)[IDS], reads_one_row(model)

        def pack(examples: Sequence[Example]) -> Batch:
            batch = in_few_rows(examples, ids, setup.processor, in_one_row)
            return batch._replace(targets=learnt_tokens(examples, batch.layout))

        return pack

    def untrainable(self, model: Any, setup: TaskSetup) -> str:
        """Return why the model cannot have several examples in a row, where it is to. Flash
        attention computes on a GPU alone, and is not tried here."""
        assert isinstance(setup.options, Options)
        if not setup.options.packing or reads_one_row(model):
            return ""
        problem = mixing(model, setup.processor)
        return problem and f"{problem}, so task_options.packing has to be false"

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return {IDS: [plain_token(setup.processor)] * size, **learnt_features([(1, size)])}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the sum of the losses of the tokens to learn in each example, from logits
        (rows, T, V)."""
        import torch

        each = torch.nn.functional.cross_entropy(
            learnt_logits(outputs["logits"], batch),
            batch.targets["ids"],
            reduction="none",
            label_smoothing=smoothing,
        )
        sums = each.new_zeros(len(batch.targets[COUNT]))
        return sums.index_add(0, batch.targets["examples"], each)

    def empty_state(self, schema: Schema) -> MetricState:
        return no_tokens()

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        return token_state(learnt_logits(outputs["logits"].detach(), batch), batch.targets["ids"])

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        return token_metrics(found)


def _asked(setup: TaskSetup, prompts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
    """Return the token ids of each prompt, and the spans of the answers in it that are learnt."""
    assert isinstance(setup.options, Options)
    if setup.options.learn == "all":
        return answered_prompts(setup.processor, prompts)
    return [(ids, []) for ids in prompt_ids(setup.processor, prompts)]
