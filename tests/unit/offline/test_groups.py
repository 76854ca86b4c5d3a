"""`ftray evaluate --by COLUMN`: metrics of the rows of each value of a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import DataError
from ftray.models.artifact.named import NamedModel, find_named
from ftray.offline.evaluate import evaluate
from tests.helpers.models.tiny_model import LABELS, make_model

ROWS = [
    {"text": f"a dull film number {n}", "label": LABELS[n % len(LABELS)], "region": region}
    for n, region in enumerate(["north", "south", 3, "north", None, 3.0, "north", "south"])
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> NamedModel:
    return find_named(make_model(tmp_path_factory.mktemp("by") / "model").path, None, False)


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_each_value_has_the_metrics_of_its_rows_alone(model: NamedModel, tmp_path: Path) -> None:
    twin = {**ROWS[1], "region": "north"}  # is left out as a duplicate
    found = evaluate(model, write(tmp_path, [*ROWS, twin]), {}, None, by="region")
    assert [(group.value, group.rows) for group in found.groups] == [
        ("north", 3),
        ("3", 2),
        ("south", 2),
        ("(none)", 1),
    ]
    north = [row for row in ROWS if row["region"] == "north"]
    alone = evaluate(model, write(tmp_path / "north", north), {}, None)
    for name, value in found.groups[0].metrics.items():
        assert value == pytest.approx(alone.metrics[name], abs=1e-6), name
    assert {"accuracy", "loss"} <= found.groups[0].metrics.keys()
    assert found.to_json()["groups"][1]["value"] == "3"
    assert "groups" not in alone.to_json()


def test_values_of_any_kind_are_groups(model: NamedModel, tmp_path: Path) -> None:
    kinds = [["a", 1], {"x": 2}, True, "  ", None, 1, "1", 1.5]
    rows = [{**row, "region": kind} for row, kind in zip(ROWS, kinds, strict=True)]
    found = evaluate(model, write(tmp_path, rows), {}, None, by="region")
    assert {group.value: group.rows for group in found.groups} == {
        "(none)": 2,
        "1": 2,
        "1.5": 1,
        "['a', 1]": 1,
        "true": 1,
        "{'x': 2}": 1,
    }


def test_a_column_that_tells_no_groups_is_refused(model: NamedModel, tmp_path: Path) -> None:
    path = write(tmp_path, [{**row, "id": n} for n, row in enumerate(ROWS * 20)])
    with pytest.raises(DataError, match=r"--by = regoin: no row of .* has a value"):
        evaluate(model, path, {}, None, by="regoin")
    unlike = [{"text": f"text {n}", "label": LABELS[0], "id": n} for n in range(101)]
    with pytest.raises(DataError, match=r"--by = id: 101 different values"):
        evaluate(model, write(tmp_path, unlike), {}, None, by="id")
