"""Extractive question answering: the answer is a part of a context, or there is none.

A context that is too long is read in windows that overlap. Each window is an example; its targets
are the first and the last token of the answer, or the first token of the window where the answer is
not in it (Devlin et al. 2019). The window with the surest span answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.tasks.base import (
    Answered,
    BaseTask,
    Judged,
    Metrics,
    Outputs,
    Question,
    Row,
    Spend,
    TaskSetup,
    chosen,
    free,
)
from ftray.tasks.features import Batch, Example, Examples, Feature
from ftray.tasks.info import ONE_LABEL_ONLY, Modality, Starter, TaskInfo
from ftray.tasks.metrics import ROW, Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.answering.contexts import CONTEXT, context_windows, target_of
from ftray.tasks.text.answering.scores import answer_scores
from ftray.tasks.text.answering.spans import NO, part_of, ranked_answers, spans_of
from ftray.tasks.text.answering.told import found_spans, told_spans
from ftray.tasks.text.blank import is_blank
from ftray.tasks.text.texts import (
    MASK,
    TOKEN_FEATURES,
    clean_text,
    padded,
    plain_example,
    random_text,
)
from ftray.tasks.text.windows import OFFSETS, examples_of

if TYPE_CHECKING:
    import torch

START, END = "start", "end"
"""Features with the first and the last token of the answer."""
GOLD = "gold"
"""Feature with the right answers, in JSON, on the host."""


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stride: int = Field(64, ge=0, description="Tokens that two windows of a context share.")
    max_answer_tokens: int = Field(30, ge=1, description="Tokens of the longest answer.")
    no_answer_threshold: float = Field(
        0.0, description="How much surer than any span `no answer` has to be, in logits."
    )


_USAGE = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "PATH OF THIS FOLDER"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder)
question, context = "Who came?", "Ann came."
# What is too long for the model is cut; ftray reads a long context in windows instead.
inputs = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True)
of_context = torch.tensor([part == 1 for part in inputs.sequence_ids()])
places = inputs.pop("offset_mapping")
with torch.no_grad():
    found = model(**inputs.convert_to_tensors("pt", prepend_batch_axis=True))
first = found.start_logits[0].masked_fill(~of_context, -1e9).argmax()
last = first + found.end_logits[0].masked_fill(~of_context, -1e9)[first:].argmax()
# The first token stands for "no answer in this context".
none = found.start_logits[0, 0] + found.end_logits[0, 0]
is_there = found.start_logits[0, first] + found.end_logits[0, last] > none
print(context[places[first][0] : places[last][1]] if is_there else "no answer")"""


class QuestionAnswering(BaseTask):
    """The task question-answering. T is the tokens of a window."""

    info = TaskInfo(
        name="question-answering",
        forms=(("question", "context", "answers"), ("question", "context", "answer")),
        modalities={
            **{"question": "text", "context": "text"},
            **{"answers": "spans", "answer": "text"},
        },
        answers=("answers", "answer"),
        output="span",
        metrics={"f1": "max", "exact_match": "max", "loss": "min"},
        default_metric="f1",
        max_length=384,
        options=Options,
        outcome=("prediction", "score", "start", "end"),
        ranks=True,
        usage=_USAGE,
        synonyms={"question": "query", "context": "passage document", "answers": "labels"},
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "moves the places of answers", "Set 0."),
        },
        starter=Starter(
            name="my-answerer",
            model="name_or_path: distilbert/distilbert-base-uncased",
            data="""\
  train: questions.jsonl       # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # answers: {text: [...], answer_start: [...]}, both empty where the context has no answer; or
  # {question: question, context: context, answer: answer}: the answer's text, found in the context.
  columns: {question: question, context: context, answers: answers}
  max_length: 384              # tokens of a window""",
            train="""\
  learning_rate: 1.0e-4
  unfreeze: 4                  # top blocks to train; 0 = head only; all = everything
  metric: f1                   # of words; or exact_match, loss""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, all]}""",
            serve="  batch: {max_size: 16, wait_ms: 5}",
        ),
    )
    columns = {"question": "text", "context": "text", "answers": "spans"}
    auto_class = "AutoModelForQuestionAnswering"
    outputs = ("start_logits", "end_logits")

    def ask(self, values: Mapping[str, Any]) -> Question:
        return {name: clean_text(values[name], name) for name in ("question", "context")}

    def parse(self, values: Mapping[str, Any]) -> Row:
        asked: dict[str, Any] = self.ask(values)
        if "answer" in values:
            spans = found_spans(values["answer"], asked["context"])
        else:
            spans = told_spans(values["answers"], asked["context"])
        told = [{"start": start, "text": text} for start, text in spans]
        return {**asked, "answers": json.dumps(told)}

    def is_blank(self, question: Question) -> bool:
        return any(map(is_blank, question.values()))

    def key(self, row: Row) -> str:
        return chosen(row, ("question", "context"))

    def stratum(self, row: Row) -> str:
        return ""

    def size(self, question: Question) -> int:
        return sum(map(len, question.values()))

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {
            **TOKEN_FEATURES,
            **{name: Feature("int64", (), "target") for name in (START, END)},
            OFFSETS: Feature("int32", None, "host"),
            **{name: Feature("uint8", None, "host") for name in (CONTEXT, GOLD)},
        }

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the windows of each question's context."""
        spend(sum(map(self.size, questions)))
        return [
            list(context_windows(setup, each["question"], each["context"], _options(setup).stride))
            for each in questions
        ]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        """Return 0: no part of a context is cut off."""
        return [0] * len(questions)

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make the windows of each row. Of several right answers the first is learnt, and all
        count in evaluation."""
        each = zip(rows["question"], rows["context"], rows["answers"], strict=True)
        return examples_of(list(_learnt(setup, *row)) for row in each)

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor)

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return plain_example(setup.processor, size)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        question, context = (random_text(setup.processor, n, draw) for n in (4, max(8, size)))
        return {"question": question, "context": context}

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the model. Padding gets a logit that no answer has, so that an answer does not depend
        on the other rows of its batch."""
        found = super().forward(model, inputs)
        padding = inputs[MASK] == 0
        return {name: logits.float().masked_fill(padding, NO) for name, logits in found.items()}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean of the cross-entropies of first and last token, from logits (B, T)."""
        parts = [
            _cross_entropy(outputs[name].float(), batch.targets[place], smoothing)
            for name, place in zip(self.outputs, (START, END), strict=True)
        ]
        return (parts[0] + parts[1]) / 2

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        names = ("span", "none", "exact_match", "f1", "answerable")
        sums = {"windows": torch.zeros(()), "loss": torch.zeros(())}
        each = {name: torch.zeros(0, dtype=torch.float64) for name in names}
        return MetricState(sums, {**each, "threshold": torch.zeros(0, dtype=torch.float64)})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the sums of losses and windows; and of each window the score of its surest span
        and of no answer, the span's exact match and F1, and whether the row has an answer."""
        import torch

        losses = self.losses(outputs, batch).detach().double()
        options = _options(setup)
        each: dict[str, list[float]] = {name: [] for name in self.empty_state(setup.schema).each}
        for example, row in zip(batch.host, _rows(outputs), strict=True):
            (best,), none = spans_of(example, row, options.max_answer_tokens, 1)
            gold = json.loads(bytes(example[GOLD]))
            matched, f1 = answer_scores(part_of(example, best), gold)
            values = (best.score, none, matched, f1, float(bool(gold)))
            for name, value in zip(each, (*values, options.no_answer_threshold), strict=True):
                each[name].append(value)
        return MetricState(
            {"windows": torch.ones_like(losses).sum(), "loss": losses.sum()},
            {name: torch.tensor(values, dtype=torch.float64) for name, values in each.items()},
        )

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return over all rows exact_match and f1: of the words of answer and truth, without case,
        articles and punctuation, the best over several right answers (Rajpurkar et al. 2016);
        `no answer` is right where the row has none. loss: mean over all windows."""
        assert found.sums["windows"] > 0, "metrics of no rows"
        rows = found.each[ROW]
        scores = [
            _row_scores({n: v[rows == row] for n, v in found.each.items()})
            for row in np.unique(rows)
        ]
        exact, f1 = np.mean(np.array(scores), axis=0).tolist()
        loss = float(found.sums["loss"] / found.sums["windows"])
        return {"f1": f1, "exact_match": exact, "loss": loss}

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return each window's answer; its error is 1 - F1."""
        judged = []
        for example, row in zip(batch.host, _rows(outputs), strict=True):
            (answer,) = _ranked([(example, row)], setup, 1)
            (best,), none = spans_of(example, row, _options(setup).max_answer_tokens, 1)
            gold = json.loads(bytes(example[GOLD]))
            _, f1 = answer_scores(answer["answer"], gold)
            rank = best.score - none
            judged.append(Judged(answer["answer"], gold, answer["score"], 1 - f1, rank))
        return judged

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the probabilities of each token to be the first and the last of the answer."""
        import torch

        found = [torch.softmax(outputs[name].float(), -1) for name in self.outputs]
        real = outputs[self.outputs[0]] > NO
        return torch.cat([share[real] for share in found]).numpy()

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return {"score", "start", "end", "answer"} for each question, `answer` empty where the
        context has none; with `top_k`, a list of the k surest answers each."""
        ranked = [_ranked(parts, setup, top_k or 1) for parts in answered]
        return ranked if top_k else [answers[0] for answers in ranked]

    def summary(self, answer: Any) -> str:
        text: str = (answer[0] if isinstance(answer, list) else answer)["answer"]
        return text

    def outcome(self, answer: Any) -> dict[str, Any]:
        rest = {name: answer[name] for name in ("score", "start", "end")}
        return {"prediction": answer["answer"], **rest}


def _learnt(setup: TaskSetup, question: str, context: str, told: str) -> Iterator[Example]:
    """Yield the windows of a clean row with their targets."""
    spans = [(each["start"], each["text"]) for each in json.loads(told)]
    answers = [(start, start + len(text)) for start, text in spans]
    gold = np.frombuffer(json.dumps([text for _, text in spans]).encode(), np.uint8)
    for window in context_windows(setup, question, context, _options(setup).stride):
        start, end = target_of(window, answers[0] if answers else None)
        yield {**window, START: start, END: end, GOLD: gold}


def _rows(outputs: Outputs) -> Iterator[Outputs]:
    """Yield the outputs of each example of a batch, on the CPU."""
    cpu = {name: value.detach().float().cpu() for name, value in outputs.items()}
    for row in zip(*cpu.values(), strict=True):
        yield dict(zip(cpu, row, strict=True))


def _cross_entropy(logits: torch.Tensor, truth: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the cross-entropy of each row, from logits (B, T). Smoothing spreads over the tokens
    without the padding, whose logits are `NO`."""
    shares = logits.log_softmax(-1)
    right = shares.gather(-1, truth[:, None])[:, 0]
    if not smoothing:
        return -right
    real = logits > NO
    spread = shares.where(real, 0.0).sum(-1) / real.sum(-1)
    return -(1 - smoothing) * right - smoothing * spread


def _options(setup: TaskSetup) -> Options:
    assert isinstance(setup.options, Options)
    return setup.options


def _ranked(parts: Answered, setup: TaskSetup, most: int) -> list[dict[str, Any]]:
    options = _options(setup)
    return ranked_answers(parts, options.max_answer_tokens, options.no_answer_threshold, most)


def _row_scores(parts: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return exact match and F1 of a row from the states of its windows."""
    margin = parts["span"] - parts["none"]
    best = int(margin.argmax())
    none = -margin[best] > parts["threshold"][best]
    answerable = bool(parts["answerable"][best])
    if none or not answerable:
        right = float(none and not answerable)
        return right, right
    return float(parts["exact_match"][best]), float(parts["f1"][best])
