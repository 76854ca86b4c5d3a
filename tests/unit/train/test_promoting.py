"""Whether a model that was just trained takes the alias that its spec names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root
from ftray.train.promoting import promote_unless_worse
from tests.helpers.serving.registered import register


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(Root(locate(str(tmp_path / "root"))))


def trained(
    registry: Registry, value: float, metric: str = "accuracy", **changes: Any
) -> tuple[bool, str]:
    """Whether one more version of `m` got the alias `live`, and what was said."""
    said: list[str] = []
    version, info = register(registry, metric, value, **changes)
    got = promote_unless_worse(registry, version, info, "live", said.append)
    held = registry.resolve("m@live").version
    assert got == (held == version.version)
    [line] = said
    return got, line


def test_the_alias_goes_to_the_first_version_and_to_whichever_does_no_worse(
    registry: Registry,
) -> None:
    assert trained(registry, 0.7) == (True, "m@live is version 1")
    assert trained(registry, 0.7) == (True, "m@live is version 2, in place of version 1")
    assert trained(registry, 0.8) == (True, "m@live is version 3, in place of version 2")


def test_it_stays_where_a_version_does_better_on_the_same_rows(registry: Registry) -> None:
    trained(registry, 0.9)
    got, said = trained(registry, 0.8)
    assert not got
    assert "m@live stays version 1" in said
    assert "accuracy 0.9000 against 0.8000 of version 2" in said
    assert "`ftray models promote m:2 --alias live`" in said


def test_of_a_loss_the_lower_is_better(registry: Registry) -> None:
    assert trained(registry, 0.5, "loss")[0]
    assert not trained(registry, 0.6, "loss")[0]
    assert trained(registry, 0.4, "loss")[0]


def test_what_cannot_be_compared_does_not_hold_a_version_back(registry: Registry) -> None:
    trained(registry, 0.9, digest="other")
    got, said = trained(registry, 0.8)
    assert got and "which nothing measured on the same validation rows" in said
    shutil.rmtree(registry.resolve("m@live").folder.path)
    got, said = trained(registry, 0.7)
    assert got and "in place of version 2, which nothing measured" in said


def test_a_better_version_without_the_alias_is_no_reason(registry: Registry) -> None:
    register(registry, "accuracy", 0.99)
    assert trained(registry, 0.7) == (True, "m@live is version 2")


def test_a_version_that_has_the_alias_keeps_it(registry: Registry) -> None:
    version, info = register(registry, "accuracy", 0.7)
    promote(registry, "m:1", "live")
    said: list[str] = []
    assert promote_unless_worse(registry, version, info, "live", said.append)
    assert said == ["m@live is version 1"]


@pytest.mark.parametrize("alias", ["latest", "V2", "two words", "", 3])
def test_a_word_that_is_no_alias_is_refused_before_anything_is_trained(alias: Any) -> None:
    base = {"name": "x", "model": {"name_or_path": "m"}, "data": {"train": "d"}}
    with pytest.raises(SpecError, match="train.promote"):
        parse({**base, "train": {"promote": alias}})
