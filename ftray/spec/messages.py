"""Turns pydantic's errors into one plain message per fault: the key as the user wrote it, the
value, the accepted values, and an example."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ftray.errors import Problem, shorten
from ftray.spec.paths import Model, field_at, kinds, sections_in
from ftray.spec.synonyms import advice, keys_of, unused_columns
from ftray.spec.yaml_text import flow
from ftray.tasks import DEFAULT_TASK, TASKS

_WORD = re.compile(r"[^\s',]+(?=')|(?<![\w'])\d+(?![\w'])")
"""A choice in pydantic's list of choices: 'linear', 'cosine' or 3."""


def problems(
    error: ValidationError, tree: Any, model: Model, prefix: str = "", root: str = "spec"
) -> list[Problem]:
    """Return one problem a key. tree: the values validated against `model`; prefix: the dotted key
    of `model` in the spec, with a dot at its end; root: the name of the tree as a whole."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors():
        by_key.setdefault(_key(detail, tree), []).append(detail)
    # A fault inside a section makes the message about the whole section redundant.
    leaves = [k for k in by_key if not any(o != k and o.startswith(f"{k}.") for o in by_key)]
    return [
        _unknown(f"{prefix}{key}", key, by_key[key][0]["input"], model, prefix, tree)
        if any(detail["type"] == "extra_forbidden" for detail in by_key[key])
        else _describe(f"{prefix}{key}".removesuffix(".") or root, key, by_key[key], model, tree)
        for key in leaves
    ]


def first_fault(error: ValidationError) -> str:
    """Return where a document has its first fault, and pydantic's message about it."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else fault["msg"]


def problem(key: str, value: Any, fault: str, fix: str) -> Problem:
    """Make a problem with a shortened value."""
    return Problem(key, shorten(value), fault, fix)


def _key(detail: ErrorDetails, tree: Any) -> str:
    """Return the dotted key of a fault: pydantic's location without the names of union branches."""
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
    return ".".join(parts)


def _unknown(whole: str, key: str, value: Any, model: Model, prefix: str, tree: Any) -> Problem:
    """Describe an unknown key, and name the one that was likely meant."""
    task = tree.get("task", DEFAULT_TASK.name) if isinstance(tree, Mapping) else None
    said = advice(key, model, unused_columns(task))
    fix = said.replace("Did you mean ", f"Did you mean {prefix}")
    return problem(whole, value, "unknown key", fix)


def _describe(
    whole: str, key: str, details: list[ErrorDetails], model: Model, tree: Any
) -> Problem:
    """Describe the faults of one key. whole: `key` in the form shown to the user."""
    contradictions = [d["ctx"] for d in details if d["type"] == "contradiction"]
    for context in contradictions[:1]:
        # The validator of a section may name the faulty key.
        return problem(
            context["key"] or whole, context["value"], context["problem"], context["fix"]
        )
    types = {detail["type"] for detail in details}
    if types == {"missing"}:
        fix = f"Add {whole} to the spec. {_expectation(key, model)}"
        return problem(whole, None, "missing", f"{fix}{_starting(whole, tree)}")
    value = next((d["input"] for d in details if d["type"] != "missing"), None)
    *others, last = _needed(details)
    needed = f"{', '.join(others)}, or {last}" if others else last
    shown = None if isinstance(value, (dict, BaseModel)) else value
    fix = _expectation(key, model, types <= _SAY_ALL)
    if types == {"string_type"} and isinstance(value, (int, float)):
        fix = f"Write it in quotes where a number is meant as text. {fix}"
    return problem(whole, shown, f"must be {needed}", fix)


def _starting(key: str, tree: Any) -> str:
    """Return the base model that a spec of the task may begin with, where `key` lacks one."""
    named = tree.get("task", DEFAULT_TASK.name) if isinstance(tree, Mapping) else None
    if key not in ("model", "model.name_or_path") or str(named) not in TASKS:
        return ""
    return f" For example model: {{{TASKS[str(named)].info.starter.model}}}."


_PHRASES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda _: "true or false",
    "bool_type": lambda _: "true or false",
    "dict_type": lambda _: "a section of keys",
    "finite_number": lambda _: "a finite number",
    "float_parsing": lambda _: "a number",
    "float_type": lambda _: "a number",
    "greater_than": lambda c: f"above {_number(c['gt'])}",
    "greater_than_equal": lambda c: f"{_number(c['ge'])} or more",
    "int_from_float": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a smaller number",
    "int_type": lambda _: "a whole number",
    "less_than": lambda c: f"below {_number(c['lt'])}",
    "less_than_equal": lambda c: f"at most {_number(c['le'])}",
    "list_type": lambda _: "a list",
    "model_attributes_type": lambda _: "a section of keys",
    "model_type": lambda _: "a section of keys",
    "missing": lambda _: "complete: a value is missing",
    "string_too_short": lambda _: "text that is not empty",
    "string_type": lambda _: "text",
    "string_unicode": lambda _: "text in Unicode",
    "too_long": lambda c: f"{_collection(c)} of at most {_count(c['max_length'])}",
    "too_short": lambda c: f"{_collection(c)} of at least {_count(c['min_length'])}",
    "tuple_type": lambda _: "a list",
    "value_error": lambda c: str(c["error"]),
}
"""pydantic's name of a fault -> the values that the key accepts."""


def _needed(details: list[ErrorDetails]) -> list[str]:
    """List the demands of the union's branches, each once, and the choices of all branches as one
    demand."""
    phrases: dict[str, None] = {}
    words: dict[str, None] = {}
    for detail in details:
        context = detail.get("ctx", {})
        if detail["type"] == "literal_error":
            words |= dict.fromkeys(_WORD.findall(context["expected"]))
        else:
            phrase = _PHRASES.get(detail["type"], lambda _: "of another kind")
            phrases[phrase(context)] = None
    one_of = "one of " if len(words) > 1 else ""
    return [*phrases, *([f"{one_of}{', '.join(words)}"] if words else [])]


def _collection(context: Mapping[str, Any]) -> str:
    return "a section" if context.get("field_type") == "Dictionary" else "a list"


def _count(number: int) -> str:
    return "1 value" if number == 1 else f"{number} values"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


_SAY_ALL = {"bool_parsing", "bool_type", "literal_error"}
"""Faults whose phrases make an example superfluous."""


def _expectation(key: str, model: Model, is_clear: bool = False) -> str:
    """Return the purpose of a key and, unless `is_clear`, an example value."""
    field = field_at(model, key)
    if field is None:
        return "See `ftray schema` for what it takes."
    parts = [field.description or ""]
    inner = next(sections_in(field.annotation), None)
    example = next(iter(field.examples or [_plain(field.default)]), None)
    if example is not None and not is_clear:
        parts.append(f"For example {f'{example:g}' if _is_float(example) else flow(example)}.")
    elif inner is not None and kinds(field.annotation) == {"mapping"}:
        parts.append(keys_of(inner))
    return " ".join(part for part in parts if part) or "See `ftray schema` for what it takes."


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _plain(default: Any) -> Any:
    """Return a default that can serve as an example, else None."""
    return default if isinstance(default, (bool, int, float, str)) else None
