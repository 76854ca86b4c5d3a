"""Text classification with one label for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.tasks.base import BadRow, Examples, Inputs, Metrics, Row, is_missing
from ftray.tasks.blank import frame, has_tokens, is_blank
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.padding import padded
from ftray.tasks.tokens import Spend, first_tokens, free, tokenized

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextClassification:
    """The task text-classification. Labels are strings; their sorted order gives their indices."""

    info = TaskInfo(
        name="text-classification",
        forms=(("text", "label"),),
        answer="label",
        output="labels",
        metrics={"accuracy": "max", "f1_macro": "max", "loss": "min"},
        default_metric="f1_macro",
        max_length=128,
        linear_probe=True,
        synonyms={
            "text": "text_column text_field input input_column sentence review",
            "label": "label_column labels target targets target_column class y",
        },
        starter=Starter(
            name="my-classifier",
            model="name_or_path: distilbert/distilbert-base-uncased",
            data="""\
  train: reviews.csv           # CSV, JSONL, Parquet, Arrow, a folder per label, or a Hub id
  validation: 0.1              # a share of train (stratified), or a file of its own
  test: 0.1
  columns: {text: text, label: label}
  max_length: 128              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-4
  unfreeze: 2                  # top blocks to train; 0 = head only; all = everything""",
            space="""\
    train.learning_rate: {loguniform: [2.0e-5, 1.0e-3]}
    train.batch_size: {choice: [16, 32]}
    train.epochs: {choice: [2, 3]}
    train.unfreeze: {choice: [0, 1, 2, 4]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = ("text", "label")

    def clean(self, values: Mapping[str, Any]) -> Row:
        return {"text": self.question(values), "label": label_name(values["label"])}

    def question(self, values: Mapping[str, Any]) -> str:
        text = values["text"]
        if is_missing(text):
            raise BadRow("empty_text")
        if not isinstance(text, str):
            raise BadRow("text_not_a_string", repr(text))
        if self.is_blank(text):
            raise BadRow("empty_text", ascii(text[:20]) if text else "")
        return text

    def is_blank(self, question: str) -> bool:
        return is_blank(question)

    def identity(self, row: Row) -> str:
        return " ".join(row["text"].split()).casefold()

    def target(self, row: Row) -> str:
        return row["label"]

    def load_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            path, ignore_mismatched_sizes=True, **_head(labels), **options
        )

    def empty_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.from_pretrained(path, **_head(labels), **options)
        return AutoModelForSequenceClassification.from_config(config, **options)

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[str],
        max_length: int,
        spend: Spend = free,
    ) -> list[list[int]]:
        return first_tokens(tokenizer, questions, max_length, spend)

    def lengths(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[int]:
        return [len(ids) for ids in _token_ids(tokenizer, questions)]

    def examples(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[str]],
        labels: Sequence[str],
        max_length: int,
    ) -> Examples:
        """Make one example for each row; its target is the label's index in `labels`."""
        # Normalize the model's labels, too: an older ftray may have named them otherwise.
        index = {label_name(label): place for place, label in enumerate(labels)}
        ids = _token_ids(tokenizer, rows["text"])
        lengths, around = [len(row) for row in ids], frame(tokenizer)
        kept = [place for place, row in enumerate(ids) if has_tokens(row, around)]
        long = [place for place in kept if lengths[place] > max_length]
        cut = self.encode(tokenizer, [rows["text"][place] for place in long], max_length)
        for place, row in zip(long, cut, strict=True):
            ids[place] = row
        return Examples(
            [ids[place] for place in kept],
            [index[rows["label"][place]] for place in kept],
            kept,
            [lengths[place] for place in kept],
            sorted({*range(len(ids))}.difference(kept)),
        )

    def collate(
        self, ids: Sequence[Sequence[int] | np.ndarray], pad_id: int
    ) -> dict[str, torch.Tensor]:
        return padded(ids, pad_id)

    def units(self, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return one loss term for each row: its label."""
        return np.ones(len(targets))

    def losses(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Return the cross-entropy of each row, from logits (B, C) and label indices (B,)."""
        import torch

        return torch.nn.functional.cross_entropy(
            logits.float(),
            targets.to(logits.device, non_blocking=True),
            reduction="none",
            label_smoothing=smoothing,
        )

    def probe_loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sum()

    def empty_metric_state(self, labels: Sequence[str]) -> np.ndarray:
        return np.zeros(3 * len(labels) + 1)

    def metric_state(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return (3 C + 1,): the number of rows that have each label, of rows for which each label
        is predicted, and of rows for which it is predicted rightly; then the sum of the losses."""
        import torch

        logits, classes = logits.detach(), logits.shape[-1]
        predicted, truth = logits.argmax(-1), targets.to(logits.device, non_blocking=True)
        right = predicted == truth
        counts = torch.zeros(3, classes, dtype=torch.float64, device=logits.device)
        for count, place, rows in zip(
            counts,
            (truth, predicted, truth),
            (torch.ones_like(right), torch.ones_like(right), right),
            strict=True,
        ):
            count.index_add_(0, place, rows.double())
        loss = self.losses(logits, inputs, truth).double().sum()
        return torch.cat([counts.flatten(), loss[None]])

    def metrics(self, metric_state: np.ndarray, labels: Sequence[str]) -> Metrics:
        """Return accuracy; f1_macro: the unweighted mean of F1 over the labels that occur, as truth
        or as prediction; loss: mean cross-entropy in nats."""
        true, predicted, right = metric_state[:-1].reshape(3, len(labels))
        rows = true.sum()
        assert rows > 0, "metrics of no rows"
        occurring = true + predicted
        f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
        return {
            "accuracy": float(right.sum() / rows),
            "f1_macro": float(f1.mean()),
            "loss": float(metric_state[-1] / rows),
        }

    def answers(
        self, logits: torch.Tensor, labels: Sequence[str], top_k: int | None = None
    ) -> list[Any]:
        """Return {"label", "score"} for each row; with `top_k`, a list of the k likeliest labels
        for each row, best first."""
        import torch

        shares = torch.softmax(logits.float(), -1)
        scores, indices = shares.topk(min(top_k or 1, len(labels)), dim=-1)
        ranked = [
            [{"label": labels[i], "score": s} for s, i in zip(row_scores, row_indices, strict=True)]
            for row_scores, row_indices in zip(scores.tolist(), indices.tolist(), strict=True)
        ]
        return ranked if top_k else [row[0] for row in ranked]


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, not truncated."""
    return tokenized(tokenizer, texts, truncation=False)["input_ids"] if texts else []


def _head(labels: Sequence[str]) -> dict[str, Any]:
    """Return the config entries that describe a classification head."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
