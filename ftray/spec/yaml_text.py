"""Reads YAML as people mean it, and limits its size to what a person writes.

Scalars follow YAML 1.2: `yes`, `010`, `1_000`, `12:30` and dates are text, and 2e-5 is a number. A
key that needs a number or a switch converts such text. The loader refuses a document that is nested
deeply, or that aliases expand to too many values, before it builds anything from the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from ftray.errors import shorten

_DEEPEST = 50
_MOST_VALUES = 100_000
_TAG = "tag:yaml.org,2002:"
_TYPES = ("map", "seq", "str", "int", "float", "bool", "null")


class YamlFault(ValueError):
    """Text from which no spec can be read; the message says why and where in one line."""


def parse_yaml(text: str) -> Any:
    """Return the plain values in a YAML document; keys are strings. Raises YamlFault."""
    return _read(text, yaml.load, _Loader)


def parse_value(text: str) -> Any:
    """Return the number, boolean, null, list or mapping that `text` is in YAML; else `text`."""
    stripped = text.strip()
    is_flow = stripped[:1] in ("[", "{") and stripped[-1:] in ("]", "}")
    if not is_flow and re.search(r"(^|\s)#", stripped):
        return text  # YAML would take the text after # for a comment
    try:
        node = _read(stripped, yaml.compose, _Loader)
        if isinstance(node, yaml.ScalarNode) and node.value != stripped:
            return text  # the text is in quotes, or has a tag or an anchor
        value = parse_yaml(stripped)
    except YamlFault:
        return text
    return text if isinstance(value, str) else value


def parse_texts(text: str) -> Any:
    """Parse `text`, a list or a mapping, with every scalar kept as the text that was typed."""
    return _read(text.strip(), yaml.load, _TextLoader)


def flow(value: Any) -> str:
    """Write a plain value in one line of YAML."""
    written = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return written.removesuffix("...\n").strip()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, reduced to the types that JSON has too."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors = {
        _TAG + name: yaml.SafeLoader.yaml_constructors[_TAG + name] for name in _TYPES
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "an alias within its anchor", mark)
            self._values += self._sizes[node]
        else:
            before = self._values
            self._values += 1
            self._depth += 1
            if self._depth > _DEEPEST:
                problem = f"nested more than {_DEEPEST} levels deep"
                raise yaml.composer.ComposerError(None, None, problem, mark)
            node = super().compose_node(parent, index)
            self._depth -= 1
            if node is not None:
                self._sizes[node] = self._values - before
        if self._values > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES:,} values, those of aliases counted each time"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for place, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
                continue
            if key.value in seen:
                problem = f"the key {shorten(key.value)} is given twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value)
            # Keys are strings, even keys that read as numbers.
            word = yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark)
            node.value[place] = (word, value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError):
            problem = f"{shorten(node.value)} is no {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def _refuse_tag(self, node: yaml.Node) -> Any:
        tag = node.tag.replace(_TAG, "!!")
        problem = f"the tag {shorten(tag)} has no place in a spec"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor(None, _Loader._refuse_tag)
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _firsts = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"({_pattern})$", re.ASCII), _firsts)


class _TextLoader(_Loader):
    yaml_implicit_resolvers: dict[str, Any] = {}


def _read(text: str, read: Callable[[str, Any], Any], loader: type[_Loader]) -> Any:
    try:
        return read(text, loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlFault(_told(error)) from None


def _told(error: Exception) -> str:
    """Put PyYAML's message into one line: PyYAML quotes the text over several lines."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        parts = [part for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return shorten(", ".join(parts), 300) + where
    return shorten(str(error), 300)
