"""The output tensors of the Open Inference Protocol, by the kind of a model's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ftray.models.artifact.manifest import ModelInfo
from ftray.tasks.info import Output


class Column(NamedTuple):
    """One output tensor. width: numbers of one row, None for a tensor of shape [n], `_ANY` where
    the answers tell; values: of each row."""

    datatype: str
    width: Callable[[ModelInfo], int | None]
    values: Callable[[Any, ModelInfo], Any]


_ANY = -1
"""Width of a tensor that the answers tell."""


def _one(info: ModelInfo) -> None:
    return None


def _of(key: str) -> Callable[[Any, ModelInfo], Any]:
    return lambda answer, info: answer[key]


def _best(key: str) -> Callable[[Any, ModelInfo], Any]:
    return lambda answers, info: answers[0][key]


def _probabilities(answers: Any, info: ModelInfo) -> list[float]:
    """Return the probability of each label, in the order of the model's labels."""
    scores = {answer["label"]: answer["score"] for answer in answers}
    return [scores[label] for label in info.labels]


def _given(answers: Any, info: ModelInfo) -> str:
    """Return the labels that are given, as JSON."""
    least = dict(zip(info.labels, info.thresholds, strict=True))
    given = [each["label"] for each in answers if each["score"] >= least[each["label"]]]
    return json.dumps(given, ensure_ascii=False)


def _numbers(info: ModelInfo) -> int | None:
    width = info.fitted.width
    return width if width > 1 else None


def _embedding_size(info: ModelInfo) -> int:
    return info.embedding_size or _ANY


def _as_json(answer: Any, info: ModelInfo) -> str:
    return json.dumps(answer, ensure_ascii=False)


OUTPUTS: Mapping[Output, Mapping[str, Column]] = {
    "labels": {
        "label": Column("BYTES", _one, _best("label")),
        "score": Column("FP32", _one, _best("score")),
        "probabilities": Column("FP32", lambda info: len(info.labels), _probabilities),
    },
    "label_set": {
        "labels": Column("BYTES", _one, _given),
        "probabilities": Column("FP32", lambda info: len(info.labels), _probabilities),
    },
    "text": {"generated_text": Column("BYTES", _one, _of("generated_text"))},
    "written": {"generated_text": Column("BYTES", _one, _of("generated_text"))},
    "numbers": {"score": Column("FP64", _numbers, _of("score"))},
    "span": {
        "answer": Column("BYTES", _one, _of("answer")),
        "score": Column("FP32", _one, _of("score")),
        "start": Column("INT64", _one, _of("start")),
        "end": Column("INT64", _one, _of("end")),
    },
    # Rows have different numbers of these, which no tensor holds: a row is JSON.
    "entities": {"entities": Column("BYTES", _one, _as_json)},
    "fills": {"fills": Column("BYTES", _one, _as_json)},
    "ranking": {"ranking": Column("BYTES", _one, _as_json)},
    "items": {"items": Column("BYTES", _one, _as_json)},
    "embedding": {"embedding": Column("FP32", _embedding_size, lambda answer, info: answer)},
}
"""Kind of an answer -> output name -> tensor. Models with labels are asked for all of them."""


def described(info: ModelInfo) -> list[dict[str, Any]]:
    """Return the metadata of the outputs of a model."""
    return [
        {"name": name, "datatype": column.datatype, "shape": [-1, *_rest(column, info)]}
        for name, column in OUTPUTS[info.kind.output].items()
    ]


def output_tensors(
    answers: Sequence[Any], info: ModelInfo, wanted: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the wanted output tensors."""
    return [_tensor(name, answers, info) for name in wanted]


def _tensor(name: str, answers: Sequence[Any], info: ModelInfo) -> dict[str, Any]:
    column = OUTPUTS[info.kind.output][name]
    rows = [column.values(answer, info) for answer in answers]
    data = rows if column.width(info) is None else list(chain.from_iterable(rows))
    rest = [len(rows[0])] if column.width(info) == _ANY else _rest(column, info)
    shape = [len(answers), *rest]
    return {"name": name, "datatype": column.datatype, "shape": shape, "data": data}


def _rest(column: Column, info: ModelInfo) -> list[int]:
    width = column.width(info)
    return [] if width is None else [width]
