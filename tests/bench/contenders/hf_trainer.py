"""A common hand-written script: fine-tuning a classifier with the Hugging Face Trainer.

    python tests/bench/contenders/hf_trainer.py SPEC [--group-by-length]

The script shares no code with ftray: it takes only numbers and file names from the spec. The last
line of stdout is one JSON object: the best epoch's metrics on validation and test rows, and the
rows and seconds of each epoch's optimizer steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import DatasetDict, load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


def load_rows(spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """The three splits as token ids and label indices."""
    files = {split: spec["data"][split] for split in ("train", "validation", "test")}
    rows = load_dataset("json", data_files=files)
    labels = sorted(set(rows["train"]["label"]))

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = tokenizer(batch["text"], truncation=True, max_length=spec["data"]["max_length"])
        return {**ids, "labels": [labels.index(label) for label in batch["label"]]}

    return rows.map(encode, batched=True, remove_columns=["text", "label"])


def freeze_below(model: PreTrainedModel, top: int) -> None:
    """Freezes all but the top blocks, the pooler and the head."""
    layers = model.bert.encoder.layer
    for part in (model.bert.embeddings, *layers[: len(layers) - top]):
        for parameter in part.parameters():
            parameter.requires_grad = False


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    predicted = prediction.predictions.argmax(-1)
    return {
        "accuracy": accuracy_score(prediction.label_ids, predicted),
        "f1_macro": f1_score(prediction.label_ids, predicted, average="macro"),
    }


def arguments(spec: dict[str, Any], group_by_length: bool) -> TrainingArguments:
    train = spec["train"]
    return TrainingArguments(
        output_dir="trainer",
        seed=spec["seed"],
        num_train_epochs=train["epochs"],
        per_device_train_batch_size=train["batch_size"],
        per_device_eval_batch_size=2 * train["batch_size"],
        learning_rate=train["learning_rate"],
        lr_scheduler_type=train["schedule"],
        warmup_steps=train["warmup"],  # below 1: a share of all steps
        weight_decay=train["weight_decay"],
        max_grad_norm=train["clip"],
        bf16=train["precision"] == "bf16",
        train_sampling_strategy="group_by_length" if group_by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=train["metric"],
        use_cpu=True,
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )


class Clock(TrainerCallback):
    """Seconds from step to step, with loading batches, without evaluation and saving."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.ends: list[float] = []
        """When each step ended, in seconds since 1970."""

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.epochs.append(0.0)
        self.mark = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.epochs[-1] += now - self.mark
        self.mark = now
        self.ends.append(time.time())


def fine_tune(spec: dict[str, Any], group_by_length: bool) -> tuple[Trainer, DatasetDict, Clock]:
    """Trains by the spec and leaves the best epoch's model in the trainer."""
    set_seed(spec["seed"])
    folder = spec["model"]["name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = load_rows(spec, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(set(rows["train"]["labels"])), dtype=torch.float32
    )
    if spec["train"]["unfreeze"] != "all":
        freeze_below(model, spec["train"]["unfreeze"])
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=arguments(spec, group_by_length),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[clock],
    )
    trainer.train()
    return trainer, rows, clock


def measure(trainer: Trainer, rows: DatasetDict, split: str) -> dict[str, float]:
    found = trainer.evaluate(rows[split], metric_key_prefix=split)
    return {name: found[f"{split}_{name}"] for name in ("accuracy", "f1_macro", "loss")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune with the Hugging Face Trainer.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--group-by-length", action="store_true")
    options = parser.parse_args()
    spec = yaml.safe_load(options.spec.read_text())
    trainer, rows, clock = fine_tune(spec, options.group_by_length)
    result = {
        "precision": "bf16" if trainer.args.bf16 else "fp32",
        "metrics": {split: measure(trainer, rows, split) for split in ("validation", "test")},
        "epochs": [{"rows": len(rows["train"]), "seconds": spent} for spent in clock.epochs],
        "first_step_at": clock.ends[0],
        "last_step_at": clock.ends[-1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
