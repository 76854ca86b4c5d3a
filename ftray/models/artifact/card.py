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
    sections = {
        f"# {info.name}": [_origin(info)],
        "## Use": [f"```python\n{_example(info)}\n```", _with_ftray(info)],
        "## Intended use and limits": ["\n".join(_limits(info))],
        "## Evaluation": [
            "\n".join(_splits(info)),
            "\n".join(_per_label(scores.get("test", ()))),
            "\n".join(_by_group(info)),
            info.baselines.card() if info.baselines else "",
        ],
        "## Data": ["\n".join(_data(info)), "\n".join(_label_counts(info)), _golden(info)],
        "## Training": ["\n".join(_training(info))],
    }
    written = [f"---\n{_head(info)}\n---"]
    for heading, parts in sections.items():
        written += [part for part in (heading, *parts) if part]
    return "\n\n".join(written) + "\n"


def _head(info: ModelInfo) -> str:
    from huggingface_hub.repocard_data import ModelCardData

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=info.kind.hub_task,
        base_model=info.base_id,
        license=info.license,
        language=info.spec.get("export", {}).get("language"),
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
            task_type=info.kind.hub_task,
            dataset_type=info.name,
            dataset_name=f"the data of {info.name}",
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args=options,
        )


def _origin(info: ModelInfo) -> str:
    return (
        f"A model for {info.task}, fine-tuned from {_base(info)} by ftray {info.ftray_version}."
        f"{_labels(info.labels)}"
    )


def _with_ftray(info: ModelInfo) -> str:
    return (
        "With ftray, `ftray serve PATH` answers over HTTP, and `ftray predict PATH --data FILE\n"
        "--out FILE` answers the rows of a file."
    )


def _limits(info: ModelInfo) -> Iterator[str]:
    """Yield what is known of where the model can be trusted."""
    kinds = list(dict.fromkeys(info.inputs.values()))
    reads = " and ".join(part for part in (", ".join(kinds[:-1]), kinds[-1]) if part)
    yield f"- The model reads {reads} like that of the rows it was trained on. The figures below"
    yield "  are of such rows: measure the model before you use it on others."
    if info.kind.processor == "tokenizer":
        yield f"- It was trained on up to {info.max_length:,} tokens a row; what is longer is cut."
    if info.labels:
        yield "- It knows the labels above and no others: it gives one to any input."
    yield "- Faults and prejudices of the base model and of the data may be in its answers."


def _data(info: ModelInfo) -> Iterator[str]:
    language = info.spec.get("export", {}).get("language")
    yield f"- Digest of the cleaned rows: `{info.data_digest}`"
    if language:
        yield f"- Language: {language}"
    yield from (f"- {line}" for line in info.cleaning)
    by = info.spec.get("data", {}).get("split", {}).get("by", "random")
    yield (
        f"- Held-out shares were drawn by `data.split: {by}`"
        if _drawn(info)
        else ("- Held-out rows have sources of their own")
    )


def _drawn(info: ModelInfo) -> bool:
    """Return whether a held-out split is a share of the training rows' source."""
    data = info.spec.get("data", {})
    return any(isinstance(data.get(split), float) for split in ("validation", "test"))


def _label_counts(info: ModelInfo) -> Iterator[str]:
    """Yield a table of the rows of each label in each split."""
    splits = info.rows_by_label
    if not splits or len(info.labels) > _LABELS_IN_TABLE:
        return
    yield from _table(
        ["rows with the label", *splits],
        ([label, *(f"{n.get(label, 0):,}" for n in splits.values())] for label in info.labels),
    )


def _training(info: ModelInfo) -> Iterator[str]:
    train, scale = info.spec["train"], info.spec.get("scale", {})
    lora = train.get("lora")
    adapted = f", by LoRA of rank {lora['rank']}" if lora else ""
    if train.get("weights") == "nf4":
        adapted += " beside weights that were rounded to four bits (NF4)"
    yield f"- Trained: `unfreeze: {train['unfreeze']}`{adapted}"
    yield (
        f"- {train['epochs']} epochs, batch size {train['batch_size']}, learning rate "
        f"{train['learning_rate']:g}, seed {info.spec.get('seed')}"
    )
    if scale.get("workers"):
        yield f"- Workers: {scale['workers']}"
    if info.averaged:
        epochs = ", ".join(map(str, info.averaged))
        yield f"- Weights: the average of those after epochs {epochs}"
    if info.temperature:
        yield f"- Probabilities: calibrated, by logits over {info.temperature:.3g} in the head"
    if info.trials:
        yield f"- Chosen among {len(info.trials)} trials of a sweep"
    yield f"- Run `{info.run}`; the whole spec is in `ftray.json`"


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


def _by_group(info: ModelInfo) -> Iterator[str]:
    """Yield a table of the test metrics of the worst groups."""
    if not info.groups:
        return
    names = [n for n in info.kind.metrics if any(n in group.metrics for group in info.groups)]
    yield from _table(
        [f"{info.spec['data']['group']}, on the test split, the worst first", "rows", *names],
        (
            [group.value, f"{group.rows:,}", *(_shown(group.metrics.get(name)) for name in names)]
            for group in info.groups[:_LABELS_IN_TABLE]
        ),
    )


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
