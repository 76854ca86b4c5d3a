"""Checks the search space against the rest of the spec: every key must accept its values."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ftray.errors import Problem, SpecError
from ftray.near import did_you_mean
from ftray.spec.messages import problem, problems
from ftray.spec.overrides import put
from ftray.spec.paths import paths, split
from ftray.spec.schema import Spec
from ftray.spec.sections.tuning import Domain
from ftray.spec.synonyms import known_key

# Sections and keys that may differ between the trials of a sweep, whose data is encoded once.
_SEARCHED = ("train", "seed")


def with_checked_space(spec: Spec) -> Spec:
    """Return `spec` with the choices of its search space as their keys read them: '32' becomes 32.

    Checks that every path of the space is a key that trials can vary, and that the key accepts its
    values both in a trial and in the run with the winner's values. Raises SpecError with one
    problem a key.
    """
    if spec.tune is None:
        return spec
    faults: dict[str, Problem] = {}
    samples: dict[str, tuple[Any, ...]] = {}
    for path, domain in spec.tune.space.items():
        if path.split(".")[0] in _SEARCHED:
            samples[path] = _samples(domain)
        else:
            key = f"tune.space.{path}"
            faults[key] = problem(key, None, "not a key a trial can change", _hint(path))
    firsts = {path: values[0] for path, values in samples.items()}
    read: dict[str, list[Any]] = {path: [] for path in samples}
    for path, values in samples.items():
        for value in values:
            trial = _Trial(spec, {**firsts, path: value})
            found = list(trial.faults())
            faults = {**{fault.key: fault for fault in found}, **faults}
            if not found:
                read[path].append(trial.read(path))
    if faults:
        raise SpecError(*faults.values())
    return _with_choices(spec, read)


class _Trial:
    """The two specs of a trial with `values` at their paths: a trial trains with tune.workers, and
    the winner is trained with the spec's own number of workers."""

    def __init__(self, spec: Spec, values: Mapping[str, Any]) -> None:
        assert spec.tune is not None
        self._values = values
        self._base = spec.model_dump(mode="json", exclude={"tune"})
        self._workers = sorted({spec.tune.workers, spec.scale.most_workers})
        self._spec: Spec | None = None

    def faults(self) -> Iterator[Problem]:
        for workers in self._workers:
            tree = copy.deepcopy(self._base)
            tree["scale"]["workers"] = workers
            for path, value in self._values.items():
                try:
                    put(tree, path, value, Spec)
                except SpecError as error:
                    fault = error.problems[0].problem
                    yield problem(f"tune.space.{path}", value, fault, _hint(path))
            try:
                self._spec = Spec.model_validate(tree)
            except ValidationError as error:
                for found in problems(error, tree, Spec):
                    yield self._told(found, workers)

    def read(self, path: str) -> Any:
        """Return the value at `path` as its key reads it. Lists and mappings stay as written."""
        written = self._values[path]
        assert self._spec is not None, "its faults were looked for"
        if isinstance(written, (list, tuple, dict)):
            return written
        found: Any = self._spec.model_dump(mode="json")
        for part in split(Spec, path):
            found = found[part]
        return found

    def _told(self, fault: Problem, workers: int) -> Problem:
        """Express `fault`, found in a trial's spec, in terms of the spec that the user wrote."""
        for path, value in self._values.items():
            if fault.key == path or fault.key.startswith(path + "."):
                hint = _hint(path, fault)
                return problem(f"tune.space.{path}", value, fault.problem, hint)
        told = f"{fault.problem} (in a trial of tune.space, with {workers} workers)"
        return replace(fault, problem=told)


def _samples(domain: Domain) -> tuple[Any, ...]:
    """Return the choices or the two bounds; for a continuous domain also a value with many digits
    between the bounds."""
    if domain.kind not in ("uniform", "loguniform"):
        return domain.values
    low, high = domain.values
    return low, high, low + (high - low) / math.e


def _with_choices(spec: Spec, read: Mapping[str, list[Any]]) -> Spec:
    assert spec.tune is not None
    space = {
        path: domain.model_copy(update={"choice": tuple(read[path])})
        if domain.kind == "choice"
        else domain
        for path, domain in spec.tune.space.items()
    }
    return spec.model_copy(update={"tune": spec.tune.model_copy(update={"space": space})})


def _hint(path: str, fault: Problem | None = None) -> str:
    known = [name for name in paths(Spec) if name.split(".")[0] in _SEARCHED]
    if fault is not None and path in known:
        return fault.fix
    meant = known_key(path, Spec)
    return did_you_mean(meant if meant in known else None, "Any key of train, or seed.")
