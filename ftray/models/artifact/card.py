"""Writes the model card, README.md of a model folder, for the Hub and for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ftray.errors import without_passwords
from ftray.models.artifact.manifest import LABEL_SCORES, ModelInfo
from ftray.tasks.per_label import LabelScore

Scores = Mapping[str, Sequence[LabelScore]]
"""Split -> the model's scores on each label."""
_LABELS_SHOWN = 50
_LABELS_IN_TABLE = 20
_HUB_METRICS = {"f1_macro": ("f1", {"average": "macro"})}
"""Metrics with another name on the Hub -> the Hub's name, and its options for computing them."""
_NEW_TOKENS = 64
"""Most tokens that the card's example asks of a generating model."""
_GOLDEN = {
    "rows": "rows of the test split, as they were read, with the model's answers",
    "synthetic": "made-up texts, drawn from the tokenizer's vocabulary, with the model's answers",
}


def card(info: ModelInfo, scores: Scores) -> str:
    """Return the whole file: a YAML head for the Hub, and a text."""
    parts = [
        f"---\n{_head(info)}\n---\n# {info.name}",
        _origin(info),
        "\n".join(_splits(info)),
        "\n".join(_per_label(scores.get("test", ()))),
        info.baselines.card() if info.baselines else "",
        f"Run `{info.run}`, data digest `{info.data_digest}`. The whole spec is in `ftray.json`.",
        _golden(info),
        f"```python\n{_example(info)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(info: ModelInfo) -> str:
    from huggingface_hub.repocard_data import ModelCardData

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=info.kind.pipeline or info.task,
        base_model=info.base_id,
        license=info.license,
        model_name=info.name,
        eval_results=list(_results(info)),
    )
    return str(data.to_yaml())


def _results(info: ModelInfo) -> Iterator[Any]:
    """Yield the metrics of the test split, in the Hub's form."""
    from huggingface_hub.repocard_data import EvalResult

    for name, value in info.metrics.get("test", {}).items():
        if not _is_number(value) or not math.isfinite(value):
            continue
        kind, options = _HUB_METRICS.get(name, (name, None))
        yield EvalResult(
            task_type=info.kind.pipeline or info.task,
            dataset_type=info.name,
            dataset_name=f"the data of {info.name}",
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args=options,
        )


def _origin(info: ModelInfo) -> str:
    train = info.spec["train"]
    lora = train.get("lora")
    adapted = f", LoRA of rank {lora['rank']}" if lora else ""
    return (
        f"{info.task}, fine-tuned by ftray {info.ftray_version} from {_base(info)}\n"
        f"(unfreeze: {train['unfreeze']}{adapted}, {train['epochs']} epochs, batch size\n"
        f"{train['batch_size']}, learning rate {train['learning_rate']:g}).{_labels(info.labels)}"
    )


def _base(info: ModelInfo) -> str:
    """Describe the base model in words. A path is not shown: it means nothing on another machine,
    and may disclose too much there."""
    name = without_passwords(info.base.name_or_path)
    name = info.base_id or (name if name.startswith("package://") else "")
    return f"`{name}`" if name else "a model that has no Hub id"


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    more = len(labels) - _LABELS_SHOWN
    rest = f" and {more:,} more, all in `ftray.json`" if more > 0 else ""
    return f" Labels: {', '.join(labels[:_LABELS_SHOWN])}{rest}."


def _splits(info: ModelInfo) -> Iterator[str]:
    """Yield a table of row counts and metrics, one line for each split."""
    first: Mapping[str, Any] = next(iter(info.metrics.values()), {})
    names = [name for name, value in first.items() if _is_number(value)]
    counts = {split: f"{rows:,}" for split, rows in info.rows.items()}
    splits = dict.fromkeys([*info.rows, *info.metrics])
    if not splits:
        return
    yield from _table(
        ["split", *(["rows"] if counts else []), *names],
        (
            [
                split.replace("_", " "),
                *([counts.get(split, "")] if counts else []),
                *(_shown(info.metrics.get(split, {}).get(name)) for name in names),
            ]
            for split in splits
        ),
    )


def _per_label(scores: Sequence[LabelScore]) -> Iterator[str]:
    """Yield a table of the scores on each label of the test split; with many labels, a sentence
    that names the file with the scores."""
    if not scores:
        return
    if len(scores) > _LABELS_IN_TABLE:
        yield f"Precision, recall and F1 of each of {len(scores):,} labels are in `{LABEL_SCORES}`."
        return
    yield from _table(
        ["label, on the test split", "rows", "precision", "recall", "F1"],
        (
            [s.label, f"{s.rows:,}", _shown(s.precision), _shown(s.recall), _shown(s.f1)]
            for s in scores
        ),
    )
    yield f"\n`{LABEL_SCORES}` has the same of the validation split."


def _golden(info: ModelInfo) -> str:
    """Tell which rows of the data may be in the folder as golden answers."""
    told = _GOLDEN.get(info.spec.get("export", {}).get("golden", "rows"))
    if not info.golden or told is None:
        return (
            "The folder holds no golden answers, by which a service would prove that it runs this\n"
            "model, and no rows of the data."
        )
    return (
        f"`ftray.json` holds {len(info.golden)} golden answers, by which a service proves that it "
        f"runs\nthis model: {told}.\n`export.golden` of the spec says which."
    )


def _example(info: ModelInfo) -> str:
    """Return Python code that calls the model with transformers alone. It cuts a text that is too
    long."""
    kind, task = info.kind, info.kind.pipeline or info.task
    if kind.usage:
        return kind.usage
    lines = [
        "from transformers import pipeline",
        "",
        f'model = pipeline("{task}", model="PATH OF THIS FOLDER")',
    ]
    if info.scale is None:
        return "\n".join([*lines, f"print(model({kind.call or _prompted(info)}))"])
    mean, deviation = (
        ", ".join(f"{n:.6g}" for n in of) for of in (info.scale.mean, info.scale.deviation)
    )
    return "\n".join(
        [
            *lines,
            f"standardized = model({kind.call}, top_k=None)",
            f"# a number of the data: score * deviation + mean; deviation {deviation}; mean {mean}",
            "print(standardized)",
        ]
    )


def _prompted(info: ModelInfo) -> str:
    """Return the arguments of a call of a model that generates."""
    # "hole" cuts the beginning of a long prompt, as ftray does.
    asked = '[{"role": "user", "content": "Hello!"}]' if info.learnt_chats else '"Once"'
    tokens = max(1, min(_NEW_TOKENS, info.max_length // 2))
    return f'{asked}, max_new_tokens={tokens}, handle_long_generation="hole"'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table: a label may be any text."""
    return " ".join(text.split()).replace("|", "\\|")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
