"""From a YAML file and overrides to a `Spec`, or to one message per fault."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ftray.errors import Problem, SpecError, shorten
from ftray.spec.schema import Spec
from ftray.spec.tuning import Domain

Tree = dict[str, Any]

# Sections and keys that differ between the trials of one sweep: its data is encoded once.
_SEARCHED = ("train", "seed")


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 2e-5 is a number, and a key given twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(path: str | Path, overrides: Iterable[str] = ()) -> Spec:
    """The spec in the YAML file `path` with `KEY=VALUE` overrides applied.

    Raises SpecError with one problem per fault.
    """
    tree = _read(Path(path))
    _override(tree, overrides)
    return parse(tree)


def serving(overrides: Iterable[str]) -> Tree:
    """The keys of the section `serve` that `KEY=VALUE` overrides set. Raises SpecError, also for a
    key of another section."""
    tree: Tree = {}
    _override(tree, overrides)
    for section in tree:
        if section != "serve" or not isinstance(tree[section], dict):
            raise SpecError.of(
                "--set", section, "not a key of the section serve", "for example serve.backend=onnx"
            )
    keys: Tree = tree.get("serve", {})
    return keys


def parse(tree: Mapping[str, Any]) -> Spec:
    """The spec in a tree of plain values. Raises SpecError with one problem per fault."""
    try:
        spec = Spec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(*_problems(error, tree)) from None
    _check_space(spec)
    return spec


def override(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """`spec` with the values at dotted paths replaced. Raises SpecError."""
    tree = spec.model_dump(mode="json")
    for key, value in values.items():
        _put(tree, key, value)
    return parse(tree)


def dump(spec: Spec) -> str:
    """The spec as YAML, every default written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError.of(
            str(path), None, "no such spec file", "name one, or write one with `ftray init`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError.of(str(path), None, str(error), "a readable UTF-8 YAML file") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise SpecError.of(str(path), tree, "not a mapping of keys", "see `ftray init`")
    return tree


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SpecError.of(where, None, f"not YAML: {error}", "mend the line it names") from None


def _override(tree: Tree, overrides: Iterable[str]) -> None:
    for item in overrides:
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise SpecError.of("--set", item, "not KEY=VALUE", "for example train.epochs=2")
        _put(tree, key.strip(), _parse(value, f"--set {key}"))


def _put(tree: Tree, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if sections[:2] == ["tune", "space"]:
        # What follows is one key: the path of a key that the trials differ in.
        sections, last = sections[:2], key.removeprefix("tune.space.")
    for depth, section in enumerate(sections):
        inner = tree.get(section)
        if inner is None:
            inner = tree[section] = {}
        if not isinstance(inner, dict):
            where = ".".join(sections[: depth + 1])
            raise SpecError.of(key, value, f"{where} is not a section", f"set {where} itself")
        tree = inner
    tree[last] = value


def _check_space(spec: Spec) -> None:
    """Every path of the search space is a key that trials can differ in, with values that it takes
    in a trial and in the run with the winner's values. Raises SpecError with one problem a key."""
    if spec.tune is None:
        return
    faults: dict[str, Problem] = {}
    samples: dict[str, tuple[Any, ...]] = {}
    for path, domain in spec.tune.space.items():
        if path.split(".")[0] in _SEARCHED:
            samples[path] = _samples(domain)
        else:
            key = f"tune.space.{path}"
            faults[key] = _problem(key, None, "not a key a trial can change", _path_hint(path))
    firsts = {path: values[0] for path, values in samples.items()}
    for path, values in samples.items():
        for value in values:
            for fault in _trial_faults(spec, {**firsts, path: value}):
                faults.setdefault(fault.key, fault)
    if faults:
        raise SpecError(*faults.values())


def _trial_faults(spec: Spec, trial: Mapping[str, Any]) -> Iterable[Problem]:
    """What is wrong with a trial of these values at these paths, and with the run they may win."""
    assert spec.tune is not None
    base = spec.model_dump(mode="json", exclude={"tune"})
    # A trial has its own number of workers, the winner is trained with the spec's.
    for workers in {spec.tune.workers, spec.scale.most_workers}:
        tree = copy.deepcopy(base)
        tree["scale"]["workers"] = workers
        for path, value in trial.items():
            try:
                _put(tree, path, value)
            except SpecError as error:
                fault = error.problems[0].problem
                yield _problem(f"tune.space.{path}", value, fault, _path_hint(path))
        try:
            Spec.model_validate(tree)
        except ValidationError as error:
            yield from (_of_the_space(fault, trial, workers) for fault in _problems(error, tree))


def _of_the_space(fault: Problem, trial: Mapping[str, Any], workers: int) -> Problem:
    """`fault`, found in a trial's spec, in the terms of the spec that the user wrote."""
    for path, value in trial.items():
        if fault.key == path or fault.key.startswith(path + "."):
            hint = _path_hint(path, fault)
            return _problem(f"tune.space.{path}", value, fault.problem, hint)
    problem = f"{fault.problem} (in a trial of tune.space, with {workers} workers)"
    return replace(fault, problem=problem)


def _samples(domain: Domain) -> tuple[Any, ...]:
    """The choices, or the bounds and, of a continuous domain, an odd number between them."""
    if domain.kind not in ("uniform", "loguniform"):
        return domain.values
    low, high = domain.values
    return low, high, low + (high - low) / math.e


def _path_hint(path: str, problem: Problem | None = None) -> str:
    known = sorted(name for name in _paths(Spec) if name.split(".")[0] in _SEARCHED)
    if problem is not None and path in known:
        return problem.fix
    close = difflib.get_close_matches(path, known, n=1)
    return f"Did you mean {close[0]}?" if close else "Any key of train, or seed."


def _paths(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections(field.annotation):
            yield from _paths(section, f"{prefix}{name}.")


def _problems(error: ValidationError, tree: Any) -> list[Problem]:
    """One problem a key: of a union's branches the one that says most is kept."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors():
        by_key.setdefault(_key(detail, tree), []).append(detail)
    # A fault inside a section makes the message about the section itself noise.
    leaves = [k for k in by_key if not any(o != k and o.startswith(k + ".") for o in by_key)]
    return [_describe(key, by_key[key]) for key in leaves]


def _key(detail: ErrorDetails, tree: Any) -> str:
    """The dotted key of a fault: pydantic's location without the names of union branches."""
    parts: list[str] = []
    node = tree
    location = detail["loc"]
    for index, part in enumerate(location):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and isinstance(part, int):
            node = node[part] if part < len(node) else None
        elif not (detail["type"] == "missing" and index == len(location) - 1):
            continue
        parts.append(str(part))
    return ".".join(parts) or "spec"


def _describe(key: str, details: list[ErrorDetails]) -> Problem:
    context = details[0].get("ctx", {})
    if details[0]["type"] == "contradiction":
        key = context["key"] or key
        return _problem(key, context["value"], context["problem"], context["fix"])
    kinds = {detail["type"] for detail in details}
    if "extra_forbidden" in kinds:
        return _problem(key, details[0]["input"], "unknown key", _known_keys(key))
    if kinds == {"missing"}:
        return _problem(key, None, "missing", f"Add {key} to the spec.")
    value = next((d["input"] for d in details if d["type"] != "missing"), None)
    messages = dict.fromkeys(d["msg"].removeprefix("Value error, ") for d in details)
    problem = " or ".join(message[0].lower() + message[1:] for message in messages)
    shown = None if isinstance(value, (dict, BaseModel)) else value
    return _problem(key, shown, problem, _expectation(key))


def _known_keys(key: str) -> str:
    *sections, last = key.split(".")
    model: type[BaseModel] = Spec
    for name in sections:
        field = model.model_fields.get(name)
        inner = list(_sections(field.annotation)) if field else []
        if not inner:
            break
        model = inner[0]
    known = list(model.model_fields)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"Did you mean {'.'.join([*sections, close[0]])}? " if close else ""
    return f"{hint}Known keys: {', '.join(known)}."


def _expectation(key: str) -> str:
    model: type[BaseModel] = Spec
    description = ""
    for name in key.split("."):
        field = model.model_fields.get(name)
        if field is None:
            break
        description = field.description or ""
        inner = list(_sections(field.annotation))
        if inner:
            model = inner[0]
    return description or "See `ftray schema` for what it takes."


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _problem(key: str, value: Any, problem: str, fix: str) -> Problem:
    return Problem(key, shorten(value), problem, fix)
