"""LoRA: what is adapted, what trains, and that what is exported answers as what was trained."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from ftray.errors import FtrayError, ModelError, Problem, SpecError
from ftray.models.inference.predictor import Predictor
from ftray.models.limits import setup_of
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.blocks import FreezePlan, plan_freeze
from ftray.models.structure.groups import find_blocks
from ftray.spec.load import override, parse
from ftray.spec.schema import Spec
from ftray.spec.sections.lora import LoraOptions
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.train.base import load_base
from ftray.train.engine import lora, state
from ftray.train.engine.deepspeed_config import check_deepspeed
from tests.helpers.models.encoded import write_encoded
from tests.helpers.models.exported import export_state
from tests.helpers.models.tiny_model import BASE, GOLDEN
from tests.helpers.models.tiny_networks import BLOCKS, STACKED, tiny_batch, tiny_network

FAMILIES = ("bert", "distilbert", "gpt2", "llama", "deberta-v2", "modernbert")
# Every kind of option that changes what is trained or how it is merged.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "init_lora_weights": "gaussian"},
    "dora": {"use_dora": True},
    "biases": {"bias": "all", "lora_bias": True},
    "ranks": {"rank_pattern": {"query": 2}, "alpha_pattern": {r"layer\.2\..*dense": 64}},
    "less": {"exclude_modules": ["key"], "init_lora_weights": False},
}

network = lru_cache(tiny_network)


def make_spec(unfreeze: Any = 2, **values: Any) -> Spec:
    return parse(
        {
            "name": "adapted",
            "model": {"name_or_path": BASE},
            "data": {"train": "unused"},
            "train": {"unfreeze": unfreeze, "lora": values},
        }
    )


def injected(family: str = "bert", spec: Spec | None = None) -> tuple[Any, peft.LoraModel]:
    model = copy.deepcopy(network(family))
    return model, lora.inject(model, spec or make_spec())


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def train(model: nn.Module, names: tuple[str, ...]) -> None:
    """Give what trains other values, as training would."""
    parameters = dict(model.named_parameters())
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in names:
            noise = torch.randn(parameters[name].shape, generator=random)
            parameters[name].add_(0.2 * noise)


def logits(model: Any, rows: int = 3) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_batch(rows, seed=5)).logits


def problem(model: nn.Module, spec: Spec) -> Problem:
    with pytest.raises(FtrayError) as caught:
        lora.inject(model, spec)
    (found,) = caught.value.problems
    return found


# ---- what is adapted -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", STACKED)
def test_auto_finds_all_linear_layers_of_each_unfrozen_block(family: str) -> None:
    model, _ = injected(family)
    (names,) = zip(*find_blocks(model).names, strict=True)
    adapted = {n for n, module in model.named_modules() if hasattr(module, "lora_A")}
    for index in range(BLOCKS):
        inside = f"{names[index]}."
        base = network(family).get_submodule(names[index]).named_modules()
        linear = {inside + n for n, m in base if type(m).__name__ in ("Linear", "Conv1D")}
        assert len(linear) >= 4
        found = {name for name in adapted if name.startswith(inside)}
        assert found == (linear if index >= BLOCKS - 2 else set())
    assert all(name.startswith(tuple(f"{n}." for n in names)) for name in adapted)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unfreeze", [1, 2, 3, "all"])
def test_adapters_train_in_place_of_the_weights_of_their_blocks(family: str, unfreeze: Any) -> None:
    model, _ = injected(family, make_spec("all"))
    plan = lora.plan_adapters(model, unfreeze, tiny_batch())
    above = set(plan_freeze(network(family), 0, tiny_batch()).trainable)
    blocks = find_blocks(model)
    first = 0 if unfreeze == "all" else BLOCKS - unfreeze
    adapters = {
        name
        for name, _ in model.named_parameters()
        if ".lora_" in name and (blocks.of(name) or 0) >= first
    }
    assert above
    assert set(plan.trainable) == above | adapters
    sizes = {name: value.numel() for name, value in values_of(model).items()}
    assert plan.trainable_parameters == sum(sizes[name] for name in plan.trainable)
    added = sum(size for name, size in sizes.items() if ".lora_" in name)
    assert plan.total_parameters == added + sum(p.numel() for p in network(family).parameters())


@pytest.mark.parametrize("unfreeze", [1, "all"])
def test_what_is_frozen_runs_without_dropout(unfreeze: Any) -> None:
    spec = make_spec("all", dropout=0.1)
    model, _ = injected("bert", spec)
    plan = lora.plan_adapters(model, unfreeze, tiny_batch())
    plan.set_train_mode(model)
    on = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.training]
    assert "bert.embeddings.dropout" not in on
    blocks = {int(name.split(".")[3]) for name in on if ".lora_dropout." in name}
    assert blocks == ({2} if unfreeze == 1 else {0, 1, 2})


def test_phases_adapt_the_blocks_that_any_of_them_unfreezes() -> None:
    phases = [{"epoch": 0, "blocks": "head"}, {"epoch": 1, "blocks": 1}, {"epoch": 2, "blocks": 2}]
    model, _ = injected("bert", make_spec(phases))
    adapted = {int(n.split(".")[3]) for n in values_of(model) if ".lora_" in n}
    assert adapted == {1, 2}
    assert not [n for n in lora.plan_adapters(model, 0, tiny_batch()).trainable if "lora" in n]


def test_patterns_select_adapters_by_their_names() -> None:
    model, _ = injected("bert", make_spec([r"layer\.1\..*lora_B", "^classifier"]))
    plan = lora.plan_adapters(model, (r"layer\.1\..*lora_B", "^classifier"), tiny_batch())
    adapters = [name for name in plan.trainable if ".lora_" in name]
    assert len(adapters) == 6
    assert all(".layer.1." in name and ".lora_B." in name for name in adapters)
    assert set(plan.trainable) - set(adapters) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ModelError, match="keeps frozen"):
        lora.plan_adapters(model, ("embeddings", "lora_A"), tiny_batch())


def test_the_start_is_the_base_model_and_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    one, _ = injected()
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    two, _ = injected()
    assert torch.equal(torch.rand(3), expected), "the caller's generator is left alone"
    other, _ = injected(spec=override(make_spec(), {"seed": 7}))
    values = values_of(one)
    assert all(value.equal(values_of(two)[name]) for name, value in values.items())
    differ = {n for n, value in values_of(other).items() if not value.equal(values[n])}
    assert differ == {name for name in values if ".lora_A." in name}
    assert torch.equal(logits(one), logits(copy.deepcopy(network("bert"))))


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["query", "attention.output.dense"], {"query", "dense"}),
        (r".*\.(key|value)", {"key", "value"}),
    ],
)
def test_targets_are_names_or_one_expression(targets: Any, found: set[str]) -> None:
    model, _ = injected(spec=make_spec(targets=targets))
    adapted = [n for n, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in adapted} == found
    assert len(adapted) == 4, "two layers in each of two blocks"


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("auto", {"query", "key", "value", "dense", "ffn", "ffn_output"}),
        (["query", "ffn"], {"query", "ffn"}),
        (r".*\.(key|value)", {"key", "value"}),
    ],
)
def test_layers_that_share_weights_are_adapted_all_at_once(targets: Any, found: set[str]) -> None:
    model = tiny_network("albert")
    before = values_of(model)
    lora.inject(model, make_spec("all", targets=targets))
    adapted = [n for n, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in adapted} == found
    plan = lora.plan_adapters(model, "all", tiny_batch())
    above = ("albert.pooler.", "classifier.")
    assert all(".lora_" in name or name.startswith(above) for name in plan.trainable)
    expected = logits(model)
    assert torch.equal(expected, logits(tiny_network("albert")))
    step(model, plan)
    trained = values_of(model)
    moved = {n for n, value in trained.items() if not value.equal(before.get(plain(n), value - 1))}
    assert moved >= set(plan.trainable)
    frozen = {plain(n): value for n, value in trained.items() if n not in plan.trainable}
    assert all(value.equal(before[name]) for name, value in frozen.items())


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("unfreeze", [2, BLOCKS + 1])
def test_adapters_in_the_top_blocks_of_an_encoder_decoder(family: str, unfreeze: int) -> None:
    model = tiny_network(family)
    lora.inject(model, make_spec(unfreeze))
    plan = lora.plan_adapters(model, unfreeze, tiny_batch())
    blocks = find_blocks(model)
    adapters = [name for name in plan.trainable if ".lora_" in name]
    assert {blocks.of(name) for name in adapters} == set(range(2 * BLOCKS - unfreeze, 2 * BLOCKS))
    before = values_of(model)
    step(model, plan)
    assert {n for n, value in values_of(model).items() if not value.equal(before[n])} == {
        *plan.trainable
    }


def plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def step(model: Any, plan: FreezePlan) -> None:
    """Take two optimizer steps: B is zero at first, so that A has a gradient from then on."""
    plan.apply(model)
    plan.set_train_mode(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(2):
        found = model(**tiny_batch(4, seed=seed)).logits
        nn.functional.cross_entropy(found, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    model.eval()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key", "shown", "words"),
    [
        ({"targets": ["query", "qeury"]}, "targets", "qeury", "matches no layer"),
        ({"targets": r"query"}, "targets", "query", "matches no layer"),
        ({"targets": ["classifier"]}, "targets", "classifier", "matches no layer"),
        ({"targets": ["LayerNorm"]}, "targets", "LayerNorm", "not supported"),
        (
            {"options": {"exclude_modules": r".*"}}, "targets", "auto", "leaves no layer",
        ),
        (
            {"options": {"exclude_modules": ["querry"]}},
            "options.exclude_modules", "querry", "matches no layer",
        ),
        (
            {"options": {"rank_pattern": {"querry": 4}}},
            "options.rank_pattern", "querry", "matches no layer",
        ),
    ],
)  # fmt: skip
def test_layers_that_are_not_there_are_refused(
    values: dict[str, Any], key: str, shown: str, words: str
) -> None:
    found = problem(copy.deepcopy(network("bert")), make_spec(**values))
    assert found.key == f"train.lora.{key}"
    assert shown in found.value
    assert words in found.problem


def test_a_number_of_blocks_is_refused_where_blocks_have_no_order() -> None:
    model = tiny_network("albert")
    lora.inject(model, make_spec(2))
    with pytest.raises(ModelError, match="layers share one set of weights"):
        lora.plan_adapters(model, 2, tiny_batch())


@pytest.mark.parametrize(
    ("unfreeze", "values", "key", "words"),
    [
        (0, {}, "train.unfreeze", "nothing to adapt"),
        ("head", {}, "train.unfreeze", "nothing to adapt"),
        ([{"epoch": 0, "blocks": 0}], {}, "train.unfreeze", "nothing to adapt"),
        (1, {"rank": 0}, "train.lora.rank", "above 0"),
        (1, {"dropout": 1}, "train.lora.dropout", "below 1"),
        (1, {"targets": "("}, "train.lora.targets", "a regular expression, and it is none"),
        (1, {"options": {"use_dorra": True}}, "train.lora.options.use_dorra", "unknown key"),
        (1, {"options": {"r": 4}}, "train.lora.options.r", "train.lora.rank says it"),
        (1, {"options": {"lora_alpha": 4}}, "train.lora.options.lora_alpha", "alpha says it"),
        (1, {"options": {"bias": "some"}}, "train.lora.options.bias", "one of none, all"),
        (
            1, {"options": {"use_dora": True, "lora_bias": True}},
            "train.lora.options.lora_bias", "use_dora",
        ),
    ],
)  # fmt: skip
def test_a_spec_that_contradicts_itself_is_refused(
    unfreeze: Any, values: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(unfreeze, **values)
    (found,) = caught.value.problems
    assert found.key == key
    assert words in found.problem


def test_options_have_the_names_and_the_defaults_of_peft() -> None:
    theirs = {f.name: f for f in dataclasses.fields(peft.LoraConfig)}
    config = peft.LoraConfig()
    for name, field in LoraOptions.model_fields.items():
        assert name in theirs
        assert field.default == getattr(config, name)


# ---- what is exported ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_answer_as_the_adapters_do(family: str, tmp_path: Path) -> None:
    check_export(family, make_spec(), tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_survives_the_export(variant: str, tmp_path: Path) -> None:
    check_export("bert", make_spec(options=VARIANTS[variant]), tmp_path)


def check_export(family: str, spec: Spec, folder: Path) -> None:
    """The trained model, merged and opened with transformers alone, and opened with peft over the
    base model with any other head, gives the same answers."""
    base = copy.deepcopy(network(family))
    base.save_pretrained(folder / "base")
    model, tuner = injected(family, spec)
    train(model, lora.plan_adapters(model, 2, tiny_batch()).trainable)
    expected = logits(model)
    assert (expected - logits(base)).abs().max() > 0.1
    lora.take_adapter(tuner, tiny_batch()).write(folder / "adapter")
    tuner.merge_and_unload().save_pretrained(folder / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    assert values_of(merged).keys() == values_of(base).keys()
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    headless = {
        n: v for n, v in load_file(folder / "base/model.safetensors").items() if head_free(n)
    }
    save_file(headless, folder / "base/model.safetensors", {"format": "pt"})
    torch.manual_seed(9)
    fresh = AutoModelForSequenceClassification.from_pretrained(folder / "base")
    opened = peft.PeftModel.from_pretrained(fresh, folder / "adapter")
    assert torch.allclose(logits(opened), expected, atol=1e-5)


def head_free(name: str) -> bool:
    return not name.startswith(("classifier", "score", "pre_classifier", "pooler", "head"))


def write_base(folder: Path) -> str:
    """A tiny pretrained model with MiniLM's tokenizer."""
    tiny_network("bert", vocab_size=30522).base_model.save_pretrained(folder)
    spec = make_spec()
    find_pretrained(spec.model).processor(spec.info).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("adapter", [False, True])
def test_an_exported_folder_is_a_plain_one(adapter: bool, tmp_path: Path) -> None:
    spec = make_spec(adapter=adapter, targets=["query", "value"])
    base_folder = write_base(tmp_path / "base")
    changes = {"model.name_or_path": base_folder, "data.max_length": 32, "train.dropout": 0.37}
    spec = override(spec, changes)
    data = write_encoded(tmp_path, spec, {"validation": GOLDEN, "test": GOLDEN})
    task, pretrained = get_task(spec.task), find_pretrained(spec.model)
    model = pretrained.model(task, data.schema, spec.seed).eval()
    base = copy.deepcopy(model)
    lora.inject(model, spec)
    setup = setup_of(pretrained, spec, data.schema)
    batch = task.collate(setup, data.load("test").examples([0])).inputs
    names = lora.plan_adapters(model, 2, batch).trainable
    train(model, names)
    trained = state.State({n: v for n, v in values_of(model).items() if n in names})
    target = export_state(tmp_path, spec, data, trained)
    with torch.no_grad():
        expected = model(**batch).logits
        plain = AutoModelForSequenceClassification.from_pretrained(target).eval()
        assert torch.allclose(plain(**batch).logits, expected, atol=1e-5)
    assert plain.config.hidden_dropout_prob == base.config.hidden_dropout_prob != 0.37
    Predictor(locate(str(target))).check_golden()
    moved = {n for n, v in values_of(plain).items() if not v.equal(values_of(base)[n])}
    assert {n for n in moved if ".layer." in n} == {
        f"bert.encoder.layer.{block}.attention.self.{part}.weight"
        for block in (1, 2)
        for part in ("query", "value")
    }
    assert "LoRA" in (target / "README.md").read_text()
    assert (target / "adapter").exists() == adapter
    if adapter:
        config = json.loads((target / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == base_folder
        torch.manual_seed(3)
        other = task.load_model(str(pretrained.folder), data.schema)
        opened = peft.PeftModel.from_pretrained(other, target / "adapter").eval()
        with torch.no_grad():
            assert torch.allclose(opened(**batch).logits, expected, atol=1e-5)


def test_an_exported_folder_answers_as_what_was_trained_beside_four_bits(tmp_path: Path) -> None:
    changes = {"model.name_or_path": write_base(tmp_path / "base"), "data.max_length": 32}
    spec = override(make_spec(), {**changes, "train.weights": "nf4"})
    data = write_encoded(tmp_path, spec, {"validation": GOLDEN, "test": GOLDEN})
    base, task = load_base(spec, data.schema), get_task(spec.task)
    lora.inject(base.model, spec)
    batch = task.collate(base.setup, data.load("test").examples([0])).inputs
    names = lora.plan_adapters(base.model, 2, batch).trainable
    train(base.model, names)
    trained = state.State({n: v for n, v in values_of(base.model).items() if n in names})
    target = export_state(tmp_path, spec, data, trained)
    plain = AutoModelForSequenceClassification.from_pretrained(target).eval()
    with torch.no_grad():
        expected = base.model.eval()(**batch).logits
        assert torch.allclose(plain(**batch).logits, expected, atol=1e-5)
    assert plain.dtype == torch.float32
    Predictor(locate(str(target))).check_golden()
    assert "four bits" in (target / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.lora": None}, "cannot train by themselves"),
        ({"train.lora.options.use_dora": True}, "DoRA"),
        ({"train.lora.adapter": True}, "differ"),
    ],
)
def test_what_four_bits_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        override(make_spec(), {"train.weights": "nf4", **changes})
    assert caught.value.problems[0].key == "train.weights"


def test_four_bits_are_not_sharded() -> None:
    four = {"train.weights": "nf4", "scale.workers": 2}
    check_deepspeed(override(make_spec(), {**four, "train.deepspeed.stage": 2}).train, 2)
    with pytest.raises(SpecError, match="shard the weights"):
        check_deepspeed(override(make_spec(), {**four, "train.deepspeed.stage": 3}).train, 2)
