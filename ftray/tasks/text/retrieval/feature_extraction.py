"""Embeddings of texts: vectors whose cosine tells how near two texts are.

A row is two texts or more; each of them is an example of its own, so that texts share forward
passes and cached states whatever their place. The loss compares the rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.errors import ModelError
from ftray.tasks.base import (
    Answered,
    Inputs,
    Metrics,
    Outputs,
    Question,
    Row,
    TaskSetup,
    chosen,
)
from ftray.tasks.features import Batch, Examples, Feature
from ftray.tasks.info import NO_SMOOTHING, ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.regression import mean_scores
from ftray.tasks.schema import Schema
from ftray.tasks.text.retrieval.contrast import cosine_losses, label_losses, ranking_losses
from ftray.tasks.text.retrieval.nearest import BLOCK, by_label, by_positive, retrieval
from ftray.tasks.text.retrieval.pooling import KEPT, USAGE, files, pooled, read_pooling
from ftray.tasks.text.retrieval.scores import clean_score
from ftray.tasks.text.retrieval.targets import GROUP, PART, SCORE, TARGETS, TEXT, targets_of
from ftray.tasks.text.texts import IDS, MASK, Texts, clean_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

EMBEDDING = "embedding"
_TEXTS = ("text", "positive", "negative", "text_pair")
_LOSS_ROWS = 64
"""Rows that the loss of an evaluation compares."""
_RETRIEVAL = ("mrr", "recall_at_1", "recall_at_10", "loss")


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    full_score: float = Field(
        1.0, gt=0, description="Score of two texts that mean the same: their cosine is to be 1."
    )


class FeatureExtraction(Texts):
    """The task feature-extraction. E is the examples of a batch, D the numbers of an embedding."""

    info = TaskInfo(
        name="feature-extraction",
        forms=(
            ("text", "positive"),
            ("text", "positive", "negative"),
            ("text", "text_pair", "score"),
            ("text", "label"),
        ),
        modalities={
            **dict.fromkeys(_TEXTS, "text"),
            "score": "number",
            "label": "category",
        },
        answers=("positive", "negative", "text_pair", "score", "label"),
        output="embedding",
        metrics={
            "mrr": "max",
            "recall_at_1": "max",
            "recall_at_10": "max",
            "spearman": "max",
            "pearson": "max",
            "loss": "min",
        },
        default_metric="mrr",
        answer_metrics={
            "score": ("spearman", "pearson", "loss"),
            "positive": _RETRIEVAL,
            "label": _RETRIEVAL,
        },
        max_length=128,
        options=Options,
        outcome=(EMBEDDING,),
        usage=USAGE,
        couples_rows=True,
        synonyms={
            "text": "anchor query question sentence sentence1 premise",
            "positive": "pos passage answer document hypothesis entailment",
            "negative": "neg hard_negative contradiction",
            "text_pair": "sentence2",
            "score": "similarity value rating",
            "label": "class category",
        },
        lacks=ONE_LABEL_ONLY | NO_SMOOTHING,
        starter=Starter(
            name="my-embeddings",
            model="name_or_path: sentence-transformers/all-MiniLM-L6-v2",
            data="""\
  train: pairs.jsonl           # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a text and one that belongs to it; a negative besides, which looks alike and
  # does not; or {text: text, text_pair: other, score: score}; or {text: text, label: label}.
  columns: {text: text, positive: positive}
  max_length: 128              # tokens; a longer text is cut there""",
            train="""\
  # A pair is two examples; the other pairs of a batch are its negatives.
  learning_rate: 5.0e-5
  unfreeze: all                # or the number of top blocks to train
  metric: mrr                  # or recall_at_1; of rows with a score, spearman""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, all]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
            batch_size=128,
        ),
    )
    columns = dict(info.modalities)
    cleaners = {
        **{name: partial(clean_text, column=name) for name in _TEXTS},
        "score": clean_score,
        "label": label_name,
    }
    auto_class = "AutoModel"
    outputs = (EMBEDDING,)
    model_outputs = ("last_hidden_state",)
    fitted = ()

    # Data

    def ask(self, values: Mapping[str, Any]) -> Question:
        return clean_text(values["text"])

    def key(self, row: Row) -> str:
        return chosen(row, [name for name in _TEXTS if name in row])

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **TARGETS}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make an example of each text of a row. A row is rejected where a text gives no tokens."""
        read = [self.read_each(setup, rows[name]) for name in _TEXTS if name in rows]
        whole = sorted(set.intersection(*(set(found.rows) for found in read)))
        ids, lengths = (
            [dict(zip(found.rows, values(found), strict=True)) for found in read]
            for values in (lambda found: found.features[IDS], lambda found: found.lengths)
        )
        assert isinstance(setup.options, Options)
        told = targets_of(rows, ids, whole, setup.options.full_score)
        targets = {name: np.array(values) for name, values in told}
        return Examples(
            {
                IDS: [of[row] for row in whole for of in ids],
                **{name: list(values.reshape(-1)) for name, values in targets.items()},
            },
            [row for row in whole for _ in ids],
            [max(of[row] for of in lengths) for row in whole],
            dict.fromkeys(sorted({*range(len(rows["text"]))}.difference(whole)), "no_tokens"),
        )

    # Model

    def load_model(self, path: str, schema: Schema, **options: Any) -> PreTrainedModel:
        loaded = super().load_model(path, schema, **options)
        # With output_loading_info, transformers returns a pair.
        _prepare(loaded[0] if isinstance(loaded, tuple) else loaded, path)
        return loaded

    def empty_model(self, path: str, schema: Schema, **options: Any) -> PreTrainedModel:
        model = super().empty_model(path, schema, **options)
        _prepare(model, path)
        return model

    def forward(self, model: Any, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Run the model. Returns the embedding of each text, (E, D) float32, of length 1."""
        states = model(**inputs).last_hidden_state
        return {EMBEDDING: pooled(states, inputs[MASK], getattr(model.config, KEPT))}

    def extra_files(self, model: Any, setup: TaskSetup) -> dict[str, Any]:
        config = model.config
        return files(getattr(config, KEPT), config.hidden_size, setup.max_length)

    # Loss and metrics

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of the row of each example, (E,): its multiple negatives ranking loss;
        with labels, the supervised contrastive loss; with scores, the squared error of the cosine.
        The examples of a row stand side by side. `smoothing` has no effect."""
        embeddings, targets = outputs[EMBEDDING].float(), batch.targets
        if PART not in targets:
            return label_losses(embeddings, targets[GROUP])
        width = int(targets[PART].max()) + 1
        rows = embeddings.unflatten(0, (-1, width))
        if SCORE in targets:
            found = cosine_losses(rows, targets[SCORE][::width])
        else:
            texts = targets[TEXT].unflatten(0, (-1, width))
            found = ranking_losses(rows, texts, targets[GROUP][::width])
        return found.repeat_interleave(width)

    def empty_state(self, schema: Schema) -> MetricState:
        return MetricState({}, {}, {name: [] for name in (EMBEDDING, *TARGETS)})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the embedding of each example, (D,), and its targets, (1,) each; (0,) for those
        that rows of this form lack."""
        found = {EMBEDDING: list(outputs[EMBEDDING].detach().float().cpu().numpy())}
        for name in TARGETS:
            values = batch.targets.get(name)
            none = np.empty((len(batch.host), 0))
            found[name] = list(none if values is None else values[:, None].cpu().numpy())
        return MetricState({}, {}, found)

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return loss: in groups of `_LOSS_ROWS` rows in the order of the split; of rows with a
        score, spearman and pearson of the cosine and the score; of others, mrr, recall_at_1 and
        recall_at_10 of the nearest texts among those of the split: the right one is the positive,
        among all positives and negatives; or any text with the same label, among all others."""
        embeddings = np.stack(found.parts[EMBEDDING])
        told = {name: np.concatenate(found.parts[name]) for name in TARGETS}
        told = {name: values for name, values in told.items() if len(values)}
        width = int(told[PART].max()) + 1 if PART in told else 1
        loss = self._loss(embeddings, told, width * _LOSS_ROWS)
        if SCORE in told:
            cosines = (embeddings[::2] * embeddings[1::2]).sum(-1)
            scores = mean_scores(cosines[:, None], told[SCORE][::2, None])
            return {"loss": loss, **{name: scores[name] for name in ("spearman", "pearson")}}
        places = [
            by_positive(vectors.reshape(-1, width, vectors.shape[-1]), part[TEXT], part[GROUP])
            if PART in told
            else by_label(vectors, part[GROUP])
            for vectors, part in _blocks(embeddings, told, width * BLOCK)
        ]
        return {"loss": loss, **retrieval(np.concatenate(places))}

    def _loss(self, embeddings: np.ndarray, told: Mapping[str, np.ndarray], size: int) -> float:
        import torch

        total = 0.0
        for vectors, part in _blocks(embeddings, told, size):
            targets = {name: torch.from_numpy(values) for name, values in part.items()}
            outputs = {EMBEDDING: torch.from_numpy(vectors)}
            total += float(self.losses(outputs, Batch({}, targets)).double().sum())
        return total / len(embeddings)

    # Answers

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the embedding times the root of D: numbers of the order of 1, (D,)."""
        found: np.ndarray = outputs[EMBEDDING].float().numpy()
        return found * math.sqrt(len(found))

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the embedding of each text: a list of D numbers."""
        return [outputs[EMBEDDING].tolist() for ((_, outputs),) in answered]

    def summary(self, answer: Any) -> str:
        """Return the place of the largest number."""
        return str(int(np.argmax(np.abs(answer))))

    def outcome(self, answer: Any) -> dict[str, Any]:
        return {EMBEDDING: answer}


def _blocks(
    embeddings: np.ndarray, told: Mapping[str, np.ndarray], size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield the embeddings and the targets of `size` consecutive examples at a time."""
    for start in range(0, len(embeddings), size):
        part = slice(start, start + size)
        yield embeddings[part], {name: values[part] for name, values in told.items()}


def _prepare(model: Any, path: str) -> None:
    """Note the pooling of a model in its config, and leave out its pooler, which reads one token
    and is of no use here. Raises ModelError for a model with a decoder."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        problem = "is an encoder-decoder, which has no states of a text alone"
        raise ModelError.of("model.name_or_path", path, problem, "name an encoder, or a decoder")
    if getattr(config, KEPT, None) is None:
        setattr(config, KEPT, read_pooling(Path(path)))
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
