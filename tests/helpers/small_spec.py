"""The smallest spec, and the problems that its changes cause."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ftray.errors import Problem, SpecError
from ftray.spec.load import parse

TEXT = "name: m\nmodel: {name_or_path: x}\ndata: {train: a.csv}\n"
SMALL = {"name": "m", "model": {"name_or_path": "x"}, "data": {"train": "a.csv"}}
TUNE = {"tune.space": {"train.epochs": {"choice": [1, 2]}}}


def tree(changes: dict[str, Any]) -> dict[str, Any]:
    """The smallest spec with values put at SECTION.KEY, or whole sections."""
    result: dict[str, Any] = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *sections, last = path.split(".")
        node = result
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return result


def problems(changes: dict[str, Any]) -> tuple[Problem, ...]:
    """The problems of the smallest spec with `changes`, which must have some."""
    with pytest.raises(SpecError) as caught:
        parse(tree(changes))
    return caught.value.problems
