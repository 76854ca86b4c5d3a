"""Loads a `Spec` from a YAML file and overrides; reports one message per fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ftray.errors import Problem, SpecError, without_passwords
from ftray.near import did_you_mean, nearest
from ftray.spec import overrides as settings
from ftray.spec.messages import problems
from ftray.spec.overrides import Tree, put
from ftray.spec.schema import Spec
from ftray.spec.search_space import with_checked_space
from ftray.spec.sections.serving import ServeSpec
from ftray.spec.yaml_text import YamlFault, parse_yaml

_LARGEST = 2**20
"""Largest size of a spec in bytes; a larger file is some other file."""


def load(
    path: str | Path, overrides: Iterable[str] = (), say: Callable[[str], None] = lambda _: None
) -> Spec:
    """Load the spec in the YAML file `path` with `KEY=VALUE` overrides applied. Calls `say` for
    each override whose value was read as another value than was typed.

    Raises SpecError with one problem per fault.
    """
    tree, given = _read(Path(path)), list(overrides)
    settings.apply(tree, given, Spec)
    spec = parse(tree)
    for line in settings.taken(spec.model_dump(mode="json", exclude_unset=True), given, Spec):
        say(line)
    return spec


def serving(overrides: Iterable[str], say: Callable[[str], None] = lambda _: None) -> Tree:
    """Return the keys of the section `serve` that `KEY=VALUE` overrides set; `say` as in `load`.
    Raises SpecError, also for a key of another section."""
    tree: Tree = {}
    given = list(overrides)
    settings.apply(tree, given, Spec)
    for section in tree:
        if section != "serve" or not isinstance(tree[section], dict):
            raise SpecError.of(
                "--set", section, "not a key of the section serve", "for example serve.backend=onnx"
            )
    keys: Tree = tree.get("serve", {})
    try:
        read = ServeSpec.model_validate(keys).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        if any(detail["type"] != "contradiction" for detail in error.errors()):
            raise SpecError(*problems(error, keys, ServeSpec, "serve.")) from None
        return keys  # the model's own serve section may resolve the contradiction
    for line in settings.taken({"serve": read}, given, Spec):
        say(line)
    return keys


def parse(tree: Mapping[str, Any]) -> Spec:
    """Parse the spec in a tree of plain values. Raises SpecError with one problem per fault."""
    if found := list(_with_passwords(tree)):
        raise SpecError(*found)
    try:
        spec = Spec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(*problems(error, tree, Spec)) from None
    return with_checked_space(spec)


def _with_passwords(tree: Any, key: str = "") -> Iterator[Problem]:
    """Yield a problem for each URL with a password: a spec is kept with every run and model."""
    if isinstance(tree, str) and without_passwords(tree) != tree:
        fix = "leave the password out, and set it in the environment (AWS_SECRET_ACCESS_KEY for s3)"
        yield Problem(key, tree, "has a password, and a spec is kept with its runs and models", fix)
    items = enumerate(tree) if isinstance(tree, list | tuple) else ()
    for name, value in tree.items() if isinstance(tree, Mapping) else items:
        yield from _with_passwords(value, f"{key}.{name}".lstrip("."))


def override(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """Return `spec` with the values at dotted paths replaced. Raises SpecError."""
    tree = spec.model_dump(mode="json")
    for key, value in values.items():
        put(tree, key, value, Spec)
    return parse(tree)


def dump(spec: Spec) -> str:
    """Write the spec as YAML, with every default."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise SpecError.of(str(path), None, "no such spec file", _neighbour(path)) from None
    except (OSError, ValueError) as error:
        raise SpecError.of(str(path), None, str(error), "name a readable YAML file") from None
    if len(content) > _LARGEST:
        problem = "larger than a spec is (1 MiB)"
        raise SpecError.of(str(path), None, problem, "name the YAML file of the run")
    try:
        tree = parse_yaml(_decoded(content))
    except UnicodeDecodeError as error:
        raise SpecError.of(
            str(path), None, f"not UTF-8: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from None
    except YamlFault as fault:
        raise SpecError.of(
            str(path), None, f"not YAML: {fault}", "mend the line that is named"
        ) from None
    if not isinstance(tree, dict):
        raise SpecError.of(str(path), tree, "not a mapping of keys", "see `ftray init`")
    return tree


def _decoded(content: bytes) -> str:
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def _neighbour(path: Path) -> str:
    """Advise the spec file of the most similar name in the folder of the missing file, if any."""
    folder = path.parent
    try:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    except (OSError, ValueError):
        names = []
    specs = [name for name in names if name.endswith((".yaml", ".yml"))]
    close = nearest(path.name, specs) or nearest(f"{path.name}.yaml", specs)
    known = str(folder / close) if close else None
    return did_you_mean(known, "name one, or write one with `ftray init`")
