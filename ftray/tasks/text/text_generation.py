"""Text generation by a causal language model: continues a prompt, or answers a chat.

The prompt of a row is a text. A text that is a JSON list of {"role", "content"} is a chat: the
model's own chat template renders the prompt from it. `prompt_tokens` of an example is the index of
the first token to learn; the tokens before it are the prompt, which has no loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.tasks.base import (
    BadRow,
    BaseTask,
    Batch,
    Example,
    Examples,
    Feature,
    Metrics,
    Outputs,
    Question,
    Row,
    Spend,
    TaskSetup,
    chosen,
    free,
    is_missing,
)
from ftray.tasks.info import Modality, Starter, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.blank import frame, has_tokens, is_blank
from ftray.tasks.text.chat import as_chat, completion_of, filled, is_silent, turns_of
from ftray.tasks.text.language_model.token_loss import (
    all_learnt,
    no_tokens,
    token_metrics,
    token_state,
)
from ftray.tasks.text.prompts import completion_ids, cut_to, prompt_ids, windows_of
from ftray.tasks.text.texts import IDS, MASK, padded, plain_token, random_text

if TYPE_CHECKING:
    import torch


PROMPT = "prompt_tokens"


class TextGeneration(BaseTask):
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
        synonyms={
            "prompt": "instruction question",
            "completion": "response answer output_column",
            "messages": "chat conversation conversations turns",
        },
        lacks={
            "train.balance": (None, "is for labels", "Leave it out."),
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
    auto_class = "AutoModelForCausalLM"

    def parse(self, values: Mapping[str, Any]) -> Row:
        if "messages" in values:
            *asked, last = turns_of(values["messages"])
            if last["role"] != "assistant":
                raise BadRow("no_answer", f"the last turn is of {last['role']}")
            if is_silent(asked):
                raise BadRow("empty_prompt")
            return {"prompt": json.dumps(asked), "completion": filled(last["content"])}
        if "text" in values:
            return {"prompt": "", "completion": filled(values["text"])}
        return {"prompt": self.ask(values), "completion": completion_of(values["completion"])}

    def ask(self, values: Mapping[str, Any]) -> Question:
        if "messages" in values:
            turns = turns_of(values["messages"])
            asked = turns[:-1] if turns[-1]["role"] == "assistant" else turns
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
        """Return a key of prompt and completion: rows of equal prompts and different completions
        are no duplicates."""
        return chosen(row, self.columns)

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {IDS: Feature("int32", None), PROMPT: Feature("int64", (), "host")}

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

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make examples. A text without a prompt is split into windows, which learn all of it. Of
        any other row that is too long, the beginning of the prompt is cut first, then the end of
        the completion. Raises ModelError as `encode` does."""
        tokenizer = setup.processor
        asked = prompt_ids(tokenizer, rows["prompt"])
        answers = completion_ids(tokenizer, rows["prompt"], rows["completion"])
        around = frame(tokenizer)
        examples = Examples({IDS: [], PROMPT: []}, [], [], {})
        for place, (prompt, completion) in enumerate(zip(asked, answers, strict=True)):
            is_asked = not rows["prompt"][place] or has_tokens(prompt, around)
            if not is_asked or not has_tokens(completion, around):
                examples.rejected[place] = "no_tokens"
                continue
            cut = cut_to if rows["prompt"][place] else windows_of
            for before, learnt in cut(prompt, completion, setup.max_length):
                examples.features[IDS].append([*before, *learnt])
                examples.features[PROMPT].append(len(before))
                examples.rows.append(place)
            examples.lengths.append(len(prompt) + len(completion))
        return examples

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count the tokens to learn, one loss term each."""
        return (lengths - column(PROMPT)).astype(np.float64)

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        """Make a batch. Its targets are, for the N tokens to learn: the index of their row, of the
        token before, and their id, (N,) int64 each. They are found here, on the host, since finding
        them on a device would make the host wait."""
        import torch

        batch = padded(examples, {IDS: Feature("int32", None)}, setup.processor)
        if PROMPT not in examples[0]:
            return batch
        ids, mask = batch.inputs[IDS], batch.inputs[MASK]
        prompts = torch.tensor([int(example[PROMPT]) for example in examples])
        places = torch.arange(1, ids.shape[1])
        rows, before = ((places >= prompts[:, None]) & mask[:, 1:].bool()).nonzero(as_tuple=True)
        targets = {"rows": rows, "before": before, "ids": ids[rows, before + 1]}
        return Batch(batch.inputs, targets, examples)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        return random_text(setup.processor, size, draw)

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return {IDS: [plain_token(setup.processor)] * size, PROMPT: 1}

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Without a KV cache: no tokens are generated here.
        return {"logits": model(**inputs, use_cache=False).logits}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the sum of the losses of the tokens to learn in each row, from logits
        (B, T, V)."""
        import torch

        each = torch.nn.functional.cross_entropy(
            _learnt(outputs["logits"], batch),
            batch.targets["ids"],
            reduction="none",
            label_smoothing=smoothing,
        )
        return each.new_zeros(len(outputs["logits"])).index_add(0, batch.targets["rows"], each)

    def probe_loss(self, outputs: Outputs) -> torch.Tensor:
        return all_learnt(outputs["logits"][:, :-1])

    def empty_state(self, schema: Schema) -> MetricState:
        return no_tokens()

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        return token_state(_learnt(outputs["logits"].detach(), batch), batch.targets["ids"])

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        return token_metrics(found)


def _learnt(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the logits that predict the N tokens to learn, (N, V) float32. Only these logits are
    cast to float32: with a large vocabulary, float32 logits of all tokens would be the largest
    tensor of the step."""
    return logits[batch.targets["rows"], batch.targets["before"]].float()
