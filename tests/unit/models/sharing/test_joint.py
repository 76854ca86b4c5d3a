"""Rows of several models at once: the same answers, and nothing computed twice that is shared."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftray.models.inference.predictor import Predictor
from ftray.models.sharing.prefix_batching import joint_outputs
from ftray.models.sharing.prefix_hash import Lineage, fingerprints, trace
from ftray.models.sharing.weight_sharing import Pool
from ftray.models.structure.blocks import layer_depths
from ftray.models.structure.cut import Cut, cut_for_now
from ftray.models.structure.groups import Blocks
from ftray.spec.sections.compute import PLAIN
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema
from ftray.tasks.text.texts import IDS
from tests.helpers.models.tiny_model import make_model
from tests.helpers.models.tiny_networks import BLOCKS, STACKED, tiny_batch, tiny_network

IDS_OF = [[5, 6, 7, 8, 9, 2], [11, 2], [5, 6, 7, 8, 9, 2], [13, 14, 15, 2], [17, 18, 2]]
ROWS = [{IDS: ids} for ids in IDS_OF]


class Small(Predictor):
    """A predictor of a small network, which no folder holds."""

    def __init__(self, model: Any, batch_size: int = 2) -> None:
        self.model, self.batch_size, self.device = model.eval(), batch_size, torch.device("cpu")
        self.compute = PLAIN
        self.task = get_task("text-classification")
        self.setup = TaskSetup(SimpleNamespace(pad_token_id=0), Schema(labels=("a", "b", "c")))
        self.features = self.task.features(self.setup)
        self.lineage = trace(model, fingerprints(model), tiny_batch(2, 5))
        self.tokenizing = self._computing = threading.Lock()
        self.seen: Counter[int] = Counter()
        """Block -> rows that it computed."""
        for number, modules in enumerate(self.lineage.blocks.modules if self.lineage else ()):
            modules[-1].register_forward_hook(self._counting(number))

    def _counting(self, number: int) -> Any:
        def count(_module: Any, _args: Any, output: Any) -> None:
            self.seen[number] += len(output if isinstance(output, torch.Tensor) else output[0])

        return count


def tuned(base: Any, family: str, blocks: int) -> Any:
    """A copy with another head, and so many other upper blocks."""
    model, other = copy.deepcopy(base), tiny_network(family, seed=blocks + 10)
    depths, state = layer_depths(base, tiny_batch(2, 5)), other.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if depths[name] <= blocks:
                parameter.copy_(state[name] + 0.1)
    return model


@pytest.mark.parametrize("family", STACKED)
def test_answers_are_those_of_each_model_alone(family: str) -> None:
    base = tiny_network(family)
    models = [Small(tuned(base, family, blocks)) for blocks in (0, 1, 1, 2, BLOCKS)]
    asked = [(models[n % len(models)], row) for n, row in enumerate(ROWS * 5)]
    asked += [(model, ROWS[0]) for model in models]
    together = joint_outputs(asked)
    for (model, row), outputs in zip(asked, together, strict=True):
        (alone,) = model.outputs_of([row])
        assert outputs.keys() == alone.keys() == {"logits"}
        torch.testing.assert_close(outputs["logits"], alone["logits"], rtol=1e-4, atol=1e-5)


def test_blocks_that_are_shared_compute_each_text_once() -> None:
    base = tiny_network("bert")
    models = [Small(tuned(base, "bert", blocks)) for blocks in (0, 1, 2)]
    for model in models:
        assert model.lineage is not None
    lineages = [model.lineage for model in models if model.lineage]
    assert [lineages[0].shared(other) for other in lineages] == [BLOCKS, BLOCKS - 1, BLOCKS - 2]
    assert lineages[1].shared(lineages[2]) == BLOCKS - 2
    joint_outputs([(model, row) for row in ROWS for model in models])
    seen = sum((model.seen for model in models), Counter[int]())
    # Four different texts; the lowest block is all three's, the next one that of two of them.
    assert seen == {0: 4, 1: 4 + len(ROWS), 2: 3 * len(ROWS)}


def test_a_model_of_another_base_goes_alone() -> None:
    one, other = Small(tiny_network("bert")), Small(tiny_network("bert", seed=5))
    assert one.lineage and other.lineage and one.lineage.shared(other.lineage) < 1
    joint_outputs([(one, ROWS[0]), (other, ROWS[0])])
    assert one.seen == other.seen == dict.fromkeys(range(BLOCKS), 1)


@pytest.mark.parametrize("family", ["albert", "bart"])
def test_a_model_without_a_list_of_blocks_goes_alone(family: str) -> None:
    models = [Small(tiny_network(family)) for _ in range(2)]
    assert all(model.lineage is None for model in models)
    found = joint_outputs([(model, row) for row in ROWS for model in models])
    for row, expected in zip(found[::2], models[0].outputs_of(ROWS), strict=True):
        torch.testing.assert_close(row["logits"], expected["logits"], rtol=1e-4, atol=1e-5)


def test_lineages_of_other_shapes_share_nothing() -> None:
    short, long = (Lineage(Blocks((), ()), 0, tuple(prefixes)) for prefixes in ("ab", "xyz"))
    assert short.shared(long) == -1


def test_equal_weights_lie_in_memory_once(tmp_path: Path) -> None:
    folders = [make_model(tmp_path / str(n), seed=n, trained=n) for n in (1, 2)]
    pool, predictors = Pool(), [Predictor(folder) for folder in folders]
    for predictor in predictors:
        pool.add(predictor)
    weights = [{n: p.data_ptr() for n, p in x.model.named_parameters()} for x in predictors]
    shared = {name for name in weights[0] if weights[0][name] == weights[1][name]}
    assert "bert.embeddings.word_embeddings.weight" in shared
    assert "bert.encoder.layer.3.output.dense.weight" in shared
    assert not any(name.startswith(("bert.encoder.layer.4", "classifier.w")) for name in shared)
    assert predictors[0].setup.processor is predictors[1].setup.processor
    for predictor in predictors:
        predictor.check_golden()
    gone = weakref.ref(predictors[0].model)
    predictors.pop(0)
    del predictor
    gc.collect()
    assert gone() is None, "the pool keeps nothing alive"
    predictors[0].check_golden()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_the_file_of_shared_weights_leaves_memory_at_once(tmp_path: Path) -> None:
    folders = [make_model(tmp_path / str(n), seed=n, trained=1) for n in (1, 2)]
    pool, predictors = Pool(), [Predictor(folder) for folder in folders]
    gc.disable()  # a service frees objects that are in a cycle minutes later
    try:
        for predictor in predictors:
            pool.add(predictor)
        mapped = Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
    held = [str(Path(folder.path, "model.safetensors")) in mapped for folder in folders]
    assert held == [True, False]


def test_a_third_model_shares_with_the_second_when_the_first_is_gone(tmp_path: Path) -> None:
    pool = Pool()
    first, second = (Predictor(make_model(tmp_path / str(n), seed=n)) for n in (1, 2))
    pool.add(first)
    pool.add(second)
    del first
    gc.collect()
    third = Predictor(make_model(tmp_path / "3", seed=3))
    pool.add(third)
    name = "bert.embeddings.word_embeddings.weight"
    pointers = {dict(x.model.named_parameters())[name].data_ptr() for x in (second, third)}
    assert len(pointers) == 1


def test_a_model_is_added_while_another_one_is_cut_for_a_pass(tmp_path: Path) -> None:
    pool = Pool()
    first, second = (Predictor(make_model(tmp_path / str(n), seed=n)) for n in (1, 2))
    pool.add(first)
    assert first.lineage is not None
    with cut_for_now(first.model, Cut(2, first.lineage.returns), first.lineage.blocks):
        pool.add(second)
    name = "bert.encoder.layer.0.output.dense.weight"
    pointers = {dict(x.model.named_parameters())[name].data_ptr() for x in (first, second)}
    assert len(pointers) == 1
