"""Linear layers with packed weights: the same outputs, and afterwards the same layers. Where the
processor has no bf16, the operators compute in fp32 here, since they refuse bf16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from ftray.models.backends import packed_linear
from ftray.models.backends.packed_linear import packed_linears

HAS_ONEDNN = torch.backends.mkldnn.is_available()
SHAPES = ((3, 24), (1, 1, 24), (2, 70, 24), (24,))


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def layers() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 7, bias=False), Doubled(7, 5))


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has models compute in the dtype in which layers are packed."""
    rounds = not HAS_ONEDNN or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not rounds:
        monkeypatch.setattr(packed_linear, "_DTYPE", torch.float32)
        monkeypatch.setattr(packed_linear, "_is_of_use", lambda: True)
    with torch.autocast("cpu", torch.bfloat16, rounds, cache_enabled=False):
        yield


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_outputs_are_the_same(shape: tuple[int, ...]) -> None:
    model, states = layers(), torch.randn(shape)
    with torch.inference_mode():
        wanted = model(states)
        with packed_linears(model):
            found = model(states)
    assert found.dtype == wanted.dtype
    most = 4e-3 if wanted.dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(found, wanted, rtol=0, atol=most)


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch was built without oneDNN")
@pytest.mark.usefixtures("packing")
def test_a_graph_has_the_packed_operator_for_each_plain_layer() -> None:
    model = layers()
    with torch.inference_mode(), packed_linears(model):
        graph = torch.jit.freeze(torch.jit.trace(model.eval(), torch.randn(3, 24))).graph
    called = [node.kind() for node in graph.nodes()]
    assert called.count("mkldnn::_linear_pointwise") == 2
    assert called.count("aten::linear") == 1, "a subclass keeps its own forward"


@pytest.mark.usefixtures("packing")
def test_afterwards_the_layers_are_as_before_also_after_an_error() -> None:
    model = layers()
    before = model.state_dict()
    with pytest.raises(ValueError, match="within"), packed_linears(model):
        raise ValueError("within")
    assert not any("forward" in vars(layer) for layer in model.modules())
    assert [name for name, _ in model.named_buffers()] == []
    assert list(model.state_dict()) == list(before)
    model(torch.randn(2, 24)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("lacks", ["an operator", "bf16"])
def test_layers_stay_as_they_are_otherwise(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacks == "an operator":
        monkeypatch.setattr(packed_linear, "_OPERATORS", ("_linear_pointwise", "_not_there"))
    model = layers()
    with (
        torch.autocast("cpu", torch.bfloat16, lacks != "bf16", cache_enabled=False),
        packed_linears(model),
    ):
        assert not any("forward" in vars(layer) for layer in model.modules())


@pytest.mark.usefixtures("packing")
def test_hooks_of_a_layer_still_run() -> None:
    model, seen = layers(), []
    model[0].register_forward_hook(lambda *_: seen.append("after"))
    with torch.inference_mode(), packed_linears(model):
        model(torch.randn(2, 24))
    assert seen == ["after"]
