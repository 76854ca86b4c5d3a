"""Recommendation: the next item of a sequence, by a causal transformer over items.

Every item of a training sequence is learnt from the items before it (SASRec, Kang & McAuley 2018),
with a softmax over all items. Of a held-out sequence, the last item is judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.tasks.base import (
    Answered,
    BadRow,
    BaseTask,
    Metrics,
    Outputs,
    Question,
    Row,
    Spend,
    TaskSetup,
    free,
)
from ftray.tasks.features import Batch, Example, Examples, Feature
from ftray.tasks.info import ONE_LABEL_ONLY, Modality, Starter, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.recommendation.histories import COUNT, TRUTH, cut, following_of, known, learnt
from ftray.tasks.recommendation.items import ITEMS, NEXT, SEQUENCES, items_of, vocabulary
from ftray.tasks.recommendation.ranking import NO_RANK, ranks, scores_of, sums_of
from ftray.tasks.schema import Schema
from ftray.tasks.text.language_model.token_loss import (
    NO_TOKEN,
    PADDING,
    all_learnt,
    summed_losses,
)
from ftray.tasks.text.texts import IDS, MASK, padded, plain_example
from ftray.tasks.text.windows import examples_of

if TYPE_CHECKING:
    import torch

_BEST = 10
"""Answers for each history."""
_USAGE = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "PATH OF THIS FOLDER"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
history = ["an item", "another"]  # names of items, the latest last
inputs = tokenizer("\\n".join(history), return_tensors="pt")
best = model(**inputs).logits[0, -1].topk(10)
print(tokenizer.convert_ids_to_tokens(best.indices.tolist()))"""


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    new_only: bool = Field(
        False, description="Whether items of the history are left out of answers and metrics."
    )
    most_items: int = Field(
        100_000, ge=1, description="Items that a new model knows: the commonest."
    )


_DEFAULTS = Options()


class NextItemPrediction(BaseTask):
    """The task next-item-prediction. V is the vocabulary: a token for each item, and special ones.
    T is the items of a history."""

    info = TaskInfo(
        name="next-item-prediction",
        forms=((ITEMS,), (ITEMS, NEXT), ("user", "item", "time")),
        modalities={
            ITEMS: "items",
            NEXT: "items",
            "user": "category",
            "item": "category",
            "time": "date",
        },
        answers=(NEXT,),
        requests={ITEMS: "items"},
        output="items",
        metrics={
            **dict.fromkeys(("ndcg_at_10", "recall_at_10", "mrr", "recall_at_1"), "max"),
            "loss": "min",
        },
        default_metric="ndcg_at_10",
        max_length=100,
        options=Options,
        outcome=("prediction", "scores"),
        ranks=True,
        repeats=True,
        sequences=SEQUENCES,
        tag="other",
        usage=_USAGE,
        synonyms={
            ITEMS: "history sequence session basket",
            NEXT: "next_item target label",
            "user": "user_id customer customer_id session_id visitor_id",
            "item": "item_id product product_id sku movie_id article_id",
            "time": "timestamp date ts event_time",
        },
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "drops items to be learnt", "Set 0."),
        },
        starter=Starter(
            name="my-shop",
            model="name_or_path: new://items",
            data="""\
  train: events.csv            # an event a row; CSV, JSONL, Parquet, Arrow, or a Hub id
  split: {by: last}            # the last items of users are held out
  validation: 1.0              # share of the users whose last item but one is held out
  test: 1.0                    # share of the users whose last item is held out
  columns: {user: customer_id, item: sku, time: ts}   # or {items: basket}, a list a row
  max_length: 100              # the latest items of a history, which are read""",
            train="""\
  learning_rate: 1.0e-3
  unfreeze: all                # nothing of the model is pretrained
  metric: ndcg_at_10           # picks the best checkpoint; or recall_at_10, mrr, loss""",
            space="""\
    train.learning_rate: {loguniform: [3.0e-4, 5.0e-3]}
    train.epochs: {choice: [5, 10, 20]}
    train.unfreeze: {choice: [1, all]}""",
            serve="  batch: {max_size: 64, wait_ms: 5}",
            batch_size=128,
        ),
    )
    columns = {ITEMS: "items", NEXT: "items"}
    auto_class = "AutoModelForCausalLM"

    # Rows

    def ask(self, values: Mapping[str, Any]) -> Question:
        items = items_of(values[ITEMS])
        if not items:
            raise BadRow("no_items")
        return {ITEMS: items}

    def parse(self, values: Mapping[str, Any]) -> Row:
        """Make a clean row: a history, and the items that follow each of its last ones."""
        items = self.ask(values)[ITEMS]
        if NEXT not in values:
            if len(items) < 2:
                raise BadRow("single_item", items[0])
            items, following = items[:-1], items[1:]
        else:
            following = following_of(values[NEXT], items)
        return {name: json.dumps(of) for name, of in ((ITEMS, items), (NEXT, following))}

    def question(self, row: Row) -> Question:
        return {ITEMS: json.loads(row[ITEMS])}

    def is_blank(self, question: Question) -> bool:
        return not question[ITEMS]

    def key(self, row: Row) -> str:
        return str(row[ITEMS])

    def size(self, question: Question) -> int:
        return sum(map(len, question[ITEMS]))

    def fit(self, rows: Iterable[Row], options: BaseModel = _DEFAULTS) -> Schema:
        """Return the schema with the commonest items."""
        assert isinstance(options, Options)
        counts = Counter[str]()
        for row in rows:
            counts.update(json.loads(row[ITEMS]))
            counts[json.loads(row[NEXT])[-1]] += 1
        ranked = sorted(counts, key=lambda name: (-counts[name], name))
        return Schema(items=tuple(ranked[: options.most_items]))

    # Examples

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {
            IDS: Feature("int32", None),
            TRUTH: Feature("int32", None, "target"),
            COUNT: Feature("int64", (), "host"),
        }

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the tokens of the items that the model knows, of the last `setup.max_length`."""
        spend(sum(map(self.size, questions)))
        found = [known(setup, question[ITEMS]) for question in questions]
        return [[{IDS: ids[-setup.max_length :]}] if ids else [] for ids in found]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        return [len(known(setup, question[ITEMS])) for question in questions]

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each history."""
        each = zip(rows[ITEMS], rows[NEXT], strict=True)
        whole = [learnt(setup, json.loads(items), json.loads(of)) for items, of in each]
        found = examples_of([cut(setup, example)] if example else [] for example in whole)
        found.lengths[:] = [len(example[IDS]) for example in whole if example]
        return found

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count the items to learn, one loss term each."""
        return column(COUNT).astype(np.float64)

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor, {TRUTH: NO_TOKEN})

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return plain_example(setup.processor, size)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        return {ITEMS: draw.choice(sorted(vocabulary(setup.processor)), size).tolist()}

    # Model, loss and metrics

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the model. Returns the logits of what follows each item, (B, T, V), `PADDING` behind
        a history."""
        logits = model(**inputs, use_cache=False).logits
        return {"logits": logits.masked_fill(inputs[MASK][..., None] == 0, PADDING)}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the sum of the losses of the items to learn of each history, (B,)."""
        return summed_losses(outputs["logits"], batch.targets[TRUTH], smoothing)

    def probe_loss(self, outputs: Outputs) -> torch.Tensor:
        return all_learnt(outputs["logits"])

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        return MetricState(sums_of(torch.empty(0), torch.empty(0)))

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return sums over the items to learn: their losses, and what their ranks give."""
        import torch

        truth = batch.targets[TRUTH]
        rows, places = (truth != NO_TOKEN).nonzero(as_tuple=True)
        logits, aims = outputs["logits"].detach()[rows, places].float(), truth[rows, places]
        losses = torch.nn.functional.cross_entropy(logits, aims, reduction="none")
        hidden = [*setup.processor.all_special_ids]
        history = (batch.inputs[IDS][rows], places) if _options(setup).new_only else None
        return MetricState(sums_of(losses, ranks(logits, aims, hidden, history)))

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return loss: mean cross-entropy in nats of the items to learn; recall_at_1 and
        recall_at_10: share of them among the first 1 or 10 of all items; ndcg_at_10: mean of 1 /
        log2(1 + rank) up to rank 10; mrr: mean of 1 / rank; items: their number. An item that the
        model does not know has no rank, and counts as missed. Of items with equal scores, the
        right one comes last."""
        return scores_of(found.sums)

    # Answers

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the probability of each token of the vocabulary as the next one, (V,)."""
        found: np.ndarray = _last(outputs).softmax(-1).numpy()
        return found

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the likeliest next items, {"item", "score"} each, ten or `top_k` of them, best
        first. score: the probability among the items that may be answered."""
        return [self._ranked(setup, *parts, most=top_k or _BEST) for (parts,) in answered]

    def _ranked(
        self, setup: TaskSetup, example: Example, outputs: Outputs, most: int
    ) -> list[dict[str, Any]]:
        logits = _last(outputs).clone()
        logits[setup.processor.all_special_ids] = NO_RANK
        if _options(setup).new_only:
            logits[np.asarray(example[IDS]).tolist()] = NO_RANK
        left = int((logits != NO_RANK).sum())
        if not left:
            return []
        scores, tokens = (of.tolist() for of in logits.softmax(-1).topk(min(most, left)))
        names = setup.processor.convert_ids_to_tokens(tokens)
        return [{"item": n, "score": score} for n, score in zip(names, scores, strict=True)]

    def summary(self, answer: Any) -> str:
        """Return the likeliest item."""
        return str(answer[0]["item"]) if answer else ""

    def outcome(self, answer: Any) -> dict[str, Any]:
        return {
            "prediction": [each["item"] for each in answer],
            "scores": [each["score"] for each in answer],
        }


def _options(setup: TaskSetup) -> Options:
    assert isinstance(setup.options, Options)
    return setup.options


def _last(outputs: Outputs) -> torch.Tensor:
    """Return the logits behind the last item of a history, (V,) float32. outputs: of one example,
    with padding."""
    logits = outputs["logits"].float()
    found: torch.Tensor = logits[int((logits[:, 0] > PADDING).sum()) - 1]
    return found
