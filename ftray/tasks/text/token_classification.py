"""Token classification: a tag for each word, which tells the spans of entities, or parts of speech.

The first token of a word is tagged, and the others are left out of the loss (Devlin et al. 2019). A
text that is too long is read in windows that overlap; one window answers for each word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from ftray.tasks.classification import label_entries, label_indices
from ftray.tasks.features import Batch, Example, Examples, Feature
from ftray.tasks.info import NO_OPTIONS, ONE_LABEL_ONLY, Modality, Starter, TaskInfo
from ftray.tasks.metrics import ROW, Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.blank import is_blank
from ftray.tasks.text.tagging.chunks import scores
from ftray.tasks.text.tagging.entities import entities_of, spans_of
from ftray.tasks.text.tagging.pieces import WORDS, with_words, words_in
from ftray.tasks.text.tagging.told import (
    OUTSIDE,
    has_prefix,
    kind_of,
    tagged_spans,
    tagged_tokens,
    text_of,
)
from ftray.tasks.text.tagging.words import words_of
from ftray.tasks.text.texts import (
    IDS,
    MASK,
    TOKEN_FEATURES,
    clean_text,
    padded,
    plain_example,
    random_text,
)
from ftray.tasks.text.windows import examples_of, windows

if TYPE_CHECKING:
    import torch

TAGS = "tags"
"""Feature with the label of each token, `_UNLEARNT` where a token is not in the loss."""
GOLD, LEARNT = "gold", "learnt"
"""Features on the host: the label of each word of a window, and the number of tokens to learn."""
_UNLEARNT = -100
_PADDING = -1e4
"""Logit of padding."""


METRICS: Mapping[str, Any] = {
    **dict.fromkeys(("f1", "accuracy", "precision", "recall"), "max"),
    "loss": "min",
}


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stride: int = Field(64, ge=0, description="Tokens that two windows of a text share.")


class TokenClassification(BaseTask):
    """The task token-classification. T is the tokens of a window, C the labels."""

    info = TaskInfo(
        name="token-classification",
        forms=(("tokens", "tags"), ("text", "spans")),
        modalities={"tokens": "texts", "tags": "texts", "text": "text", "spans": "spans"},
        answers=("tags", "spans"),
        output="entities",
        requests={"text": "text"},
        metrics=METRICS,
        default_metric="f1",
        max_length=256,
        options=Options,
        outcome=("prediction",),
        call='"Ann lives in Rome.", aggregation_strategy="first"',
        synonyms={
            "tokens": "words sentence",
            "tags": "ner_tags pos_tags labels",
            "spans": "entities annotations",
        },
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "drops words to be tagged", "Set 0."),
        },
        starter=Starter(
            name="my-tagger",
            model="name_or_path: distilbert/distilbert-base-cased",
            data="""\
  train: train.conll           # CoNLL columns, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: lists of tokens and of tags, IOB, BIO, BIOES or without a prefix; or
  # {text: text, spans: spans}, a text and [{start, end, label}, ...] in characters. The first
  # column of a CoNLL file is called tokens, and the last one tags.
  columns: {tokens: tokens, tags: tags}
  max_length: 256              # tokens of a window""",
            train="""\
  learning_rate: 1.0e-4
  unfreeze: 4                  # top blocks to train; 0 = head only; all = everything
  metric: f1                   # of spans; or accuracy of tags, precision, recall, loss""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, all]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = {"text": "text", "spans": "spans"}
    auto_class = "AutoModelForTokenClassification"

    def ask(self, values: Mapping[str, Any]) -> Question:
        return text_of(values["tokens"]) if "tokens" in values else clean_text(values["text"])

    def parse(self, values: Mapping[str, Any]) -> Row:
        text = self.ask(values)
        if "tokens" in values:
            told = tagged_tokens(values["tokens"], values["tags"])
        else:
            told = tagged_spans(text, values["spans"])
        return {"text": text, "spans": told.to_json()}

    def is_blank(self, question: Question) -> bool:
        return is_blank(question)

    def key(self, row: Row) -> str:
        return chosen(row, ("text",))

    def labels_of(self, row: Row) -> Sequence[str]:
        tags: list[str] = json.loads(row["spans"])["tags"]
        return tags

    def fit(self, rows: Iterable[Row], options: BaseModel = NO_OPTIONS) -> Schema:
        """Return the tags. Each type of span has B- and I-, whichever the rows have."""
        found = {tag for row in rows for tag in self.labels_of(row)}
        kinds = {kind_of(tag) for tag in found if has_prefix(tag)}
        whole = {f"{prefix}-{kind}" for kind in kinds for prefix in "BI"}
        return Schema(labels=tuple(sorted({*found, *whole, *([OUTSIDE] if kinds else [])})))

    def unlearnable(self, schema: Schema) -> str:
        if len(schema.labels) > 1:
            return ""
        return f"have one tag, {schema.labels[0]!r}; there is nothing to tell apart"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {
            **TOKEN_FEATURES,
            TAGS: Feature("int32", None, "target"),
            LEARNT: Feature("int64", (), "host"),
            **{name: Feature("int32", None, "host") for name in (WORDS, GOLD)},
        }

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the windows of each text."""
        spend(sum(map(self.size, questions)))
        each = (_windows(setup, text, list(words_of(text))) for text in questions)
        return [[window for window, _ in found] for found in each]

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make the windows of each row."""
        each = zip(rows["text"], rows["spans"], strict=True)
        return examples_of(_learnt(setup, *row) for row in each)

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count the tokens to learn, one loss term each."""
        return column(LEARNT).astype(np.float64)

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor, {TAGS: _UNLEARNT})

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return plain_example(setup.processor, size)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        return random_text(setup.processor, size, draw)

    def head(self, schema: Schema) -> dict[str, Any]:
        return label_entries(schema.labels)

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the model. Padding gets logits that no token has."""
        logits, padding = super().forward(model, inputs)["logits"], inputs[MASK] == 0
        return {"logits": logits.masked_fill(padding[..., None], _PADDING)}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the sum of the cross-entropies of the tokens to learn in each row, from logits
        (B, T, C)."""
        import torch

        each = torch.nn.functional.cross_entropy(
            outputs["logits"].float().transpose(1, 2),
            batch.targets[TAGS],
            reduction="none",
            ignore_index=_UNLEARNT,
            label_smoothing=smoothing,
        )
        return each.sum(1)

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        sums = {name: torch.zeros(()) for name in ("loss", "learnt")}
        return MetricState(sums, parts={"truth": (), "predicted": ()})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the sums of losses and of tokens learnt; and of each window the labels of its
        words, true and predicted."""
        losses = self.losses(outputs, batch).detach()
        sums = {"loss": losses.double().sum(), "learnt": (batch.targets[TAGS] >= 0).sum()}
        truth = [np.asarray(example[GOLD]) for example in batch.host]
        return MetricState(sums, parts={"truth": truth, "predicted": _predicted(outputs, batch)})

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return f1, precision and recall: of spans of all types together, right where type, first
        and last word are; accuracy: of the tags of words; loss: mean cross-entropy of tags."""
        assert found.sums["learnt"] > 0, "metrics of no rows"
        truth, predicted = (np.concatenate(found.parts[name]) for name in ("truth", "predicted"))
        rows = np.repeat(found.each[ROW], [len(words) for words in found.parts["truth"]])
        begins_row = np.append(True, rows[1:] != rows[:-1])
        loss = float(found.sums["loss"] / found.sums["learnt"])
        return {**scores(truth, predicted, begins_row, schema.labels), "loss": loss}

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return the spans of each window; the error is the share of words with a wrong tag."""
        judged = []
        for example, tags in zip(batch.host, _predicted(outputs, batch), strict=True):
            truth, words = np.asarray(example[GOLD]), words_in(example)[:, 1:]
            error = float((tags != truth).mean())
            found, told = (spans_of(words, each, setup.labels) for each in (tags, truth))
            judged.append(Judged(found, told, None, error, error))
        return judged

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the probability of each label for each token, (T * C,)."""
        import torch

        logits = outputs["logits"].float()
        real = logits[:, 0] > _PADDING
        return torch.softmax(logits[real], -1).ravel().numpy()

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the spans of each text, [{"entity_group", "score", "word", "start", "end"}, ...]:
        as the Hugging Face pipeline with the aggregation strategy `first`. score: the mean
        probability of the tags of its words."""
        each = zip(questions, answered, strict=True)
        return [entities_of(text, parts, setup.labels) for text, parts in each]

    def summary(self, answer: Any) -> str:
        return " ".join(f"{each['entity_group']}:{each['start']}-{each['end']}" for each in answer)


def _windows(
    setup: TaskSetup, text: str, words: Sequence[Sequence[int]]
) -> list[tuple[Example, np.ndarray]]:
    assert isinstance(setup.options, Options)
    found = list(windows(setup, (text,), setup.options.stride))
    return list(with_words(found, np.array(words, dtype=np.int64).reshape(-1, 2)))


def _learnt(setup: TaskSetup, text: str, spans: str) -> list[Example]:
    """Return the windows of a clean row with their targets."""
    told = json.loads(spans)
    labels = np.array(label_indices(setup.labels, told["tags"]), dtype=np.int32)
    return [_with_tags(window, labels[own]) for window, own in _windows(setup, text, told["words"])]


def _with_tags(window: Example, labels: np.ndarray) -> Example:
    """Return a window with its targets. labels: (W,) of its words. Of several words that share a
    token the first is learnt."""
    tags = np.full(len(window[IDS]), _UNLEARNT, dtype=np.int32)
    tokens = words_in(window)[:, 0]
    known = np.flatnonzero(tokens >= 0)[::-1]
    tags[tokens[known]] = labels[known]
    return {**window, TAGS: tags, LEARNT: int((tags >= 0).sum()), GOLD: labels}


def _predicted(outputs: Outputs, batch: Batch) -> list[np.ndarray]:
    """Return the predicted label of each word of each window, -1 for a word without a token."""
    best = outputs["logits"].detach().argmax(-1).cpu().numpy()
    tokens = [words_in(example)[:, 0] for example in batch.host]
    return [np.where(at >= 0, row[at], -1) for row, at in zip(best, tokens, strict=True)]
