"""Reranking: a cross-encoder reads a query and a passage together, and scores the passage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.tasks.base import (
    Answered,
    BadRow,
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
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.regression import clean_numbers
from ftray.tasks.schema import Schema
from ftray.tasks.text.retrieval.passages import passages_of
from ftray.tasks.text.retrieval.rankings import ranked
from ftray.tasks.text.retrieval.scores import scaled
from ftray.tasks.text.retrieval.targets import fingerprint
from ftray.tasks.text.texts import Texts, clean_text, plain_example, random_text

if TYPE_CHECKING:
    import torch

SCORE, QUERY = "score", "query_key"
"""Features: the score that a passage is to have, 0 to 1; a number that passages of one query
share."""


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    full_score: float = Field(1.0, gt=0, description="Score of a passage that is all relevant.")


class TextRanking(Texts):
    """The task text-ranking. A passage is an example; B passages of a batch have logits (B, 1)."""

    info = TaskInfo(
        name="text-ranking",
        forms=(
            ("query", "passage", "score"),
            ("query", "positive", "negative"),
            ("query", "passages", "scores"),
        ),
        modalities={
            **dict.fromkeys(("query", "passage", "positive", "negative"), "text"),
            "passages": "texts",
            "score": "number",
            "scores": "number",
        },
        answers=("score", "scores"),
        output="ranking",
        requests={"query": "text", "passages": "texts"},
        metrics={
            "ndcg_at_10": "max",
            "mrr_at_10": "max",
            "average_precision": "max",
            "loss": "min",
        },
        default_metric="ndcg_at_10",
        max_length=256,
        options=Options,
        outcome=("prediction", "scores"),
        ranks=True,
        pipeline="text-classification",
        tag="text-ranking",
        call='{"text": "A query.", "text_pair": "A passage."}, function_to_apply="sigmoid"',
        synonyms={
            "query": "question anchor search",
            "passage": "document text answer",
            "score": "label relevance target",
            "passages": "documents candidates",
            "scores": "labels",
            "positive": "pos",
            "negative": "neg negatives",
        },
        lacks=ONE_LABEL_ONLY,
        starter=Starter(
            name="my-reranker",
            model="name_or_path: cross-encoder/ms-marco-MiniLM-L6-v2",
            data="""\
  train: relevance.jsonl       # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  split: {by: group, column: query}   # all passages of a query are held out together
  # What a row has: a query, a passage and its score, 0 to 1; or {query: query, positive: good,
  # negative: bad}, texts or lists of them; or {query: query, passages: passages, scores: scores}.
  columns: {query: query, passage: passage, score: score}
  max_length: 256              # tokens of a query and a passage together""",
            train="""\
  learning_rate: 5.0e-5
  unfreeze: all                # or the number of top blocks to train; 0 = head only
  metric: ndcg_at_10           # or mrr_at_10, average_precision, loss""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, all]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = {"query": "text", "passages": "texts", "scores": "number"}
    auto_class = "AutoModelForSequenceClassification"

    # Data

    def ask(self, values: Mapping[str, Any]) -> Question:
        passages, _ = passages_of(values)
        return {"query": clean_text(values["query"], "query"), "passages": passages}

    def parse(self, values: Mapping[str, Any]) -> Row:
        query = clean_text(values["query"], "query")
        passages, scores = passages_of(values)
        if scores is None:
            scores = clean_numbers(values["scores"])
        if len(scores) != len(passages):
            raise BadRow("scores_differ", f"{len(scores)} scores of {len(passages)} passages")
        return {"query": query, "passages": json.dumps(passages), "scores": scores}

    def question(self, row: Row) -> Question:
        return {"query": row["query"], "passages": json.loads(row["passages"])}

    def is_blank(self, question: Question) -> bool:
        texts = (question["query"], *question["passages"])
        return any(super(TextRanking, self).is_blank(text) for text in texts)

    def key(self, row: Row) -> str:
        return chosen(row, ("query", "passages"))

    def size(self, question: Question) -> int:
        passages = question["passages"]
        return len(question["query"]) * len(passages) + sum(map(len, passages))

    # Examples

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {
            **super().features(setup),
            SCORE: Feature("float32", (), "target"),
            QUERY: Feature("int64", (), "host"),
        }

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return an example of each passage of each question; none where one gives no tokens."""
        found = iter(super().encode(setup, _pairs(questions), spend))
        each = [[next(found) for _ in question["passages"]] for question in questions]
        return [[one for (one,) in of] if all(of) else [] for of in each]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        """Return the tokens of the longest passage of each question, with the query."""
        found = iter(super().lengths(setup, _pairs(questions)))
        return [max(next(found) for _ in question["passages"]) for question in questions]

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make an example of each passage of a row. A row is rejected where none gives tokens."""
        assert isinstance(setup.options, Options)
        names = list(rows)
        each = [dict(zip(names, of, strict=True)) for of in zip(*rows.values(), strict=True)]
        questions = [self.question(row) for row in each]
        read = self.read_each(setup, _pairs(questions))
        full = setup.options.full_score
        scores = scaled([score for row in each for score in row["scores"]], full, 0.0)
        of_row = [row for row, asked in enumerate(questions) for _ in asked["passages"]]
        longest: dict[int, int] = {}
        for place, length in zip(read.rows, read.lengths, strict=True):
            longest[of_row[place]] = max(length, longest.get(of_row[place], 0))
        keys = [_key(asked["query"]) for asked in questions]
        return Examples(
            {
                **read.features,
                SCORE: [scores[place] for place in read.rows],
                QUERY: [keys[of_row[place]] for place in read.rows],
            },
            [of_row[place] for place in read.rows],
            list(longest.values()),
            dict.fromkeys(sorted({*range(len(each))}.difference(longest)), "no_tokens"),
        )

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return plain_example(setup.processor, size)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        query, *passages = (random_text(setup.processor, size, draw) for _ in range(3))
        return {"query": query, "passages": passages}

    # Model and metrics

    def head(self, schema: Schema) -> dict[str, Any]:
        return {"num_labels": 1}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the binary cross-entropy of each passage's score, (B,). Smoothing moves the
        targets towards a half."""
        import torch

        aim = batch.targets[SCORE] * (1 - smoothing) + smoothing / 2
        logits = outputs["logits"][:, 0].float()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, aim, reduction="none")

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        none = torch.zeros(0)
        each = {"found": none, "truth": none, "query": none.long()}
        return MetricState({"rows": torch.zeros(()), "loss": torch.zeros(())}, each)

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the number of passages and the sum of their losses; and each one's logit, truth
        and query, (B,)."""
        import torch

        losses = self.losses(outputs, batch).detach().double()
        return MetricState(
            {"rows": torch.ones_like(losses).sum(), "loss": losses.sum()},
            {
                "found": outputs["logits"].detach()[:, 0].float(),
                "truth": batch.targets[SCORE],
                "query": torch.tensor([int(example[QUERY]) for example in batch.host]),
            },
        )

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return loss: mean binary cross-entropy in nats; and of the rankings of queries
        ndcg_at_10, mrr_at_10 and average_precision."""
        assert found.sums["rows"] > 0, "metrics of no rows"
        loss = float(found.sums["loss"] / found.sums["rows"])
        each = found.each
        return {"loss": loss, **ranked(each["found"], each["truth"], each["query"])}

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return the score of each passage; the error is its distance from the truth, 0 where both
        are on the same side of a half."""
        scores, truths = _shares(outputs), batch.targets[SCORE]
        errors = (scores - truths).abs() * ((scores < 0.5) != (truths < 0.5))
        each = zip(scores.tolist(), truths.tolist(), errors.tolist(), strict=True)
        return [Judged(score, truth, None, error) for score, truth, error in each]

    # Answers

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the score of a passage, (1,)."""
        found: np.ndarray = outputs["logits"].float().sigmoid().numpy()
        return found

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the passages of each question, {"index", "score", "text"} each, the best first;
        all of them, or `top_k`. index: of the passage in the request."""
        found = []
        for question, parts in zip(questions, answered, strict=True):
            scores = [float(outputs["logits"].float().sigmoid()) for _, outputs in parts]
            best = sorted(range(len(scores)), key=lambda place: -scores[place])
            texts = question["passages"]
            told = [{"index": i, "score": scores[i], "text": texts[i]} for i in best]
            found.append(told[:top_k])
        return found

    def summary(self, answer: Any) -> str:
        return str(answer[0]["index"])

    def outcome(self, answer: Any) -> dict[str, Any]:
        in_order = sorted(answer, key=lambda each: int(each["index"]))
        return {"prediction": answer[0]["text"], "scores": [each["score"] for each in in_order]}


def _pairs(questions: Sequence[Question]) -> list[dict[str, str]]:
    """Return the texts that the model reads together, for each passage of each question."""
    return [
        {"text": question["query"], "text_pair": passage}
        for question in questions
        for passage in question["passages"]
    ]


def _key(query: str) -> int:
    return fingerprint(" ".join(query.split()).casefold().encode())


def _shares(outputs: Outputs) -> torch.Tensor:
    return outputs["logits"].detach()[:, 0].float().sigmoid()
