"""A model is loaded in the precision that it is served in, and is nowhere whole in another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ftray.models.artifact import publish
from ftray.models.inference.rounding import place_rounded, round_weights
from ftray.models.load import load_model
from ftray.spec.sections.compute import Compute
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import make_model
from tests.helpers.models.tiny_networks import tiny_batch, tiny_generator, tiny_network

HALVES = pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
MEASURE = """
import json, sys, threading, time
import torch
from ftray.models.load import load_model
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import locate

def held():
    lines = (line.split() for line in open("/proc/self/status"))
    return {words[0]: int(words[1]) << 10 for words in lines if words[0].startswith("Rss")}

def load(folder):
    return load_model(locate(folder), compute=Compute(precision=sys.argv[3]))

def watch():
    while not over:
        now = held()
        peaks.append(now["RssAnon:"] + now["RssFile:"])
        time.sleep(0.001)

first = load(sys.argv[1])  # what is imported counts for nobody
before, peaks, over = held(), [0], False
watcher = threading.Thread(target=watch)
watcher.start()
model = load(sys.argv[2])
over = True
watcher.join()
size = sum(parameter.nbytes for parameter in model.model.parameters())
print(json.dumps([size, max(peaks) - before["RssAnon:"] - before["RssFile:"]]))
"""


class Arrivals(TorchDispatchMode):
    """Bytes that come to the meta device, by their type."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.is_meta:
            self.bytes[found.dtype] = self.bytes.get(found.dtype, 0) + found.nbytes
        return found


@pytest.mark.parametrize("tied", [False, True])
def test_no_matrix_comes_to_the_device_in_fp32(tied: bool) -> None:
    model = tiny_generator("llama", tie_word_embeddings=tied)
    with Arrivals() as arrivals, torch.no_grad():
        place_rounded(model, torch.device("meta"), torch.bfloat16)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(weight.is_meta and weight.dtype == torch.bfloat16 for weight in matrices)
    rounded = sum(weight.nbytes for weight in matrices)
    everything = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_meta for tensor in everything)
    whole = sum(tensor.nbytes for tensor in everything)
    assert arrivals.bytes == {torch.bfloat16: rounded, torch.float32: whole - rounded}


@HALVES
def test_a_classifier_holds_its_golden_answers(
    tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    found = load_model(make_model(tmp_path / "model"), compute=Compute(precision=precision))
    found.check_golden()
    kinds = {m.weight.dtype for m in found.model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {dtype}
    assert found.model.get_input_embeddings().weight.dtype == torch.float32


@HALVES
def test_a_generator_answers_and_holds_its_golden_answers(
    tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    found = load_model(make_generator(tmp_path / "model"), compute=Compute(precision=precision))
    found.check_golden()
    outcomes = found.outcomes(["the film has", "a"])
    assert all(outcome and outcome.columns["prediction"] for outcome in outcomes)


@pytest.mark.slow
def test_loading_takes_the_memory_of_what_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 280 MB in fp32, in shards of 10: it is never there in fp32 as a whole."""
    monkeypatch.setattr(publish, "SHARD", "10MB")
    shape = {"hidden_size": 768, "num_hidden_layers": 8, "intermediate_size": 3072}
    small = make_generator(tmp_path / "small")
    large = make_generator(tmp_path / "large", **shape)
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 20
    command = [sys.executable, "-c", MEASURE, small.path, large.path, "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, peak = json.loads(done.stdout.splitlines()[-1])
    assert 140e6 < size < 160e6
    assert peak < 1.5 * size, f"{peak / size:.2f} times what is served"


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5"])
def test_training_above_rounded_weights_computes_the_same_bits(family: str) -> None:
    inputs = tiny_batch(rows=3)

    def gradients(rounds: bool) -> list[torch.Tensor]:
        model = tiny_network(family)
        model.config.pad_token_id = 0
        trained = [n for n, _ in model.named_parameters() if n.startswith(("class", "score"))]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        if rounds:
            rounded = round_weights(model, torch.bfloat16, but=trained)
            assert rounded and not rounded & set(trained)
            kept = {n: p.dtype for n, p in model.named_parameters()}
            assert {n for n, dtype in kept.items() if dtype == torch.bfloat16} == rounded
            assert not any("norm" in name.lower() or "embed" in name for name in rounded)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits
        logits.float().square().sum().backward()
        return [logits, *(p.grad for p in model.parameters() if p.grad is not None)]

    plain, rounded = gradients(rounds=False), gradients(rounds=True)
    assert len(plain) > 1
    assert all(torch.equal(one, other) for one, other in zip(plain, rounded, strict=True))
