"""`--set KEY=VALUE`: puts values into the spec's tree, and reports values read differently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ftray.errors import SpecError, shorten
from ftray.spec.paths import Model, annotation_at, kind_of, kinds, split
from ftray.spec.yaml_text import YamlFault, flow, parse_texts, parse_value, parse_yaml

Tree = dict[str, Any]

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?", re.ASCII)


def apply(tree: Tree, overrides: Iterable[str], model: Model) -> None:
    """Put the value of each KEY=VALUE into `tree`, a tree of `model`.

    A key that accepts text gets the typed text, unless the text is another kind of YAML value that
    the key accepts too. Other keys get a number, boolean, null, list or mapping of YAML, and else
    the typed text. Raises SpecError.
    """
    for key, typed in _pairs(overrides):
        put(tree, key, _read(typed, annotation_at(model, key)), model)


def put(tree: Tree, key: str, value: Any, model: Model) -> None:
    """Put `value` at a dotted key of `tree`. Raises SpecError where the key leads into a value."""
    *sections, last = split(model, key)
    node: Any = tree
    for depth, name in enumerate(sections):
        node = _inner(node, name, key, ".".join(sections[:depth]), value)
        if node is None:
            where = ".".join(sections[: depth + 1])
            raise SpecError.of(key, value, f"{where} is not a section", f"set {where} itself")
    if isinstance(node, list):
        node[_place(node, last, key, ".".join(sections), value)] = value
    else:
        node[last] = value


def taken(plain: Any, overrides: Iterable[str], model: Model) -> Iterator[str]:
    """Yield a line for each override that was read as another value than was typed. plain: the
    values of the loaded spec."""
    for key, typed in _pairs(overrides):
        found = _get(plain, split(model, key))
        if not _is_as_typed(typed, found):
            yield f"--set {key}: {shorten(typed) or 'nothing'} is taken as {shorten(flow(found))}"


def _pairs(overrides: Iterable[str]) -> Iterator[tuple[str, str]]:
    for item in overrides:
        key, separator, typed = item.partition("=")
        if not separator or not key.strip() or "" in key.strip().split("."):
            raise SpecError.of("--set", item, "not KEY=VALUE", "for example train.epochs=2")
        yield key.strip(), typed


def _read(typed: str, annotation: Any) -> Any:
    taken_kinds = kinds(annotation)
    value = parse_value(typed)
    if "text" in taken_kinds and kind_of(value) not in taken_kinds:
        return typed
    if "text" not in taken_kinds and isinstance(value, str):
        return _unquoted(value)
    return value


def _unquoted(typed: str) -> str:
    """Take the quotes off a text such as '1e-4': a key that accepts no text has no use for them."""
    try:
        value = parse_yaml(typed)
    except YamlFault:
        return typed
    return value if isinstance(value, str) else typed


def _inner(node: Any, name: str, key: str, where: str, value: Any) -> Any:
    """Return the section or list at `name` in a section or list; make a section where there is
    nothing. Return None where a plain value stands."""
    if isinstance(node, list):
        place = _place(node, name, key, where, value)
        inner = node[place]
    else:
        if node.get(name) is None:
            node[name] = {}
        inner = node[name]
    return inner if isinstance(inner, (dict, list)) else None


def _place(node: list[Any], name: str, key: str, where: str, value: Any) -> int:
    if name.isdecimal() and name.isascii() and int(name[:9]) < len(node):
        return int(name)
    problem = f"{where} is a list of {len(node)}, and {shorten(name)} is no place in it"
    raise SpecError.of(key, value, problem, f"count from 0, or set {where} itself")


def _get(plain: Any, parts: list[str]) -> Any:
    for part in parts:
        plain = plain[int(part)] if isinstance(plain, list) else plain[part]
    return plain


def _is_as_typed(typed: str, value: Any) -> bool:
    if not isinstance(value, (list, dict)):
        return _is_same(typed, value)
    try:
        return _is_same(parse_texts(typed), value)
    except YamlFault:
        return False


def _is_same(typed: Any, value: Any) -> bool:
    """Return whether the reader of `typed`, in which every scalar is text, expects `value`."""
    if isinstance(value, dict):
        return (
            isinstance(typed, dict)
            and typed.keys() == value.keys()
            and all(_is_same(typed[key], inner) for key, inner in value.items())
        )
    if isinstance(value, list):
        return (
            isinstance(typed, list)
            and len(typed) == len(value)
            and all(map(_is_same, typed, value))
        )
    if not isinstance(typed, str):
        return False
    word = typed.strip()
    if value is None or isinstance(value, bool):
        return word.lower() == ("null" if value is None else str(value).lower())
    if isinstance(value, str):
        return word == value
    return _DECIMAL.fullmatch(word) is not None and word != "" and float(word) == value
