"""Undocumented names of Ray, torch and transformers that ftray uses: each is read here, so that a
release that lacks one fails a test that names it. Those of DeepSpeed: test_deepspeed_state.py."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from torch import nn

ROOT = Path(__file__).parents[2]


def test_the_foreach_operators_of_torch_are_there() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    torch._foreach_add_(tensors, [torch.ones(2), torch.ones(3)])
    torch._foreach_copy_(tensors[:1], [torch.zeros(2)])
    assert [float(norm) for norm in torch._foreach_norm(tensors)] == [0, pytest.approx(12**0.5)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch lacks oneDNN")
def test_onednn_multiplies_with_packed_weights() -> None:
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.eye(3), 2)
    found = torch.ops.mkldnn._linear_pointwise(torch.ones(2, 3), packed, None, "none", [], "")
    assert found.tolist() == [[1.0] * 3] * 2


def test_a_module_keeps_its_parameters_in_a_dictionary() -> None:
    module = nn.Linear(2, 3)
    module._parameters = dict(module._parameters)
    assert set(module._parameters) == {"weight", "bias"}


def test_views_of_one_storage_have_one_key() -> None:
    tensor = torch.zeros(4)
    keys = {part.untyped_storage()._cdata for part in (tensor, tensor[1:], torch.zeros(4))}
    assert len(keys) == 2


def test_fake_tensors_are_followed_without_numbers() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    assert issubclass(FakeTensorMode, TorchDispatchMode)
    with FakeTensorMode():
        (made,) = tree_leaves({"a": [nn.Linear(2, 3)(torch.ones(1, 2))]})
    assert made.shape == (1, 3)


def test_a_config_says_which_attention_it_uses() -> None:
    from transformers import BertConfig, BertModel

    tiny = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    assert BertModel(tiny).config._attn_implementation in ("eager", "sdpa")


def test_a_model_draws_the_weights_of_a_module_anew() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    tiny = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    model = BertForSequenceClassification(tiny)
    weight = model.classifier.weight
    weight.data.zero_()
    weight._is_hf_initialized = True
    model._init_weights(model.classifier)
    assert not weight.any(), "such a parameter is left as it is"
    weight._is_hf_initialized = False
    model._init_weights(model.classifier)
    assert weight.all()


def test_ray_says_how_far_a_cluster_may_grow() -> None:
    from ray._private.state import state

    assert callable(state.get_max_resources_from_cluster_config)


def test_serve_says_where_it_listens_and_what_it_runs() -> None:
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeInstanceDetails

    assert callable(_get_global_client) and callable(ServeControllerClient.get_serve_details)
    assert isinstance(ServeControllerClient.http_config, property)
    assert "applications" in ServeInstanceDetails.model_fields


def test_a_worker_of_ray_train_keeps_the_notice_that_its_node_goes() -> None:
    from dataclasses import fields

    from ray.train import FailureConfig
    from ray.train.v2._internal.execution.context import TrainContext, get_train_context
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert callable(get_train_context)
    assert "preemption_context" in {field.name for field in fields(TrainContext)}
    assert PreemptionContext().preemption_info is None
    assert FailureConfig().max_preemption_failures == -1, "not counted with failures"


def test_ray_train_takes_its_callbacks_from_a_method_of_the_trainer() -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import datasets, placement_group_callback

    assert callable(TorchTrainer._create_default_callbacks)
    assert isinstance(datasets.DatasetsCallback, type)
    assert isinstance(placement_group_callback.PlacementGroupCleanerCallback, type)


def test_python_joins_its_threads_when_asked() -> None:
    assert callable(threading._shutdown)  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["deepspeed", "ray", "torch", "transformers"])
def test_a_package_with_such_names_is_bounded(package: str) -> None:
    lines = re.findall(rf'"({package}(?:\[[\w,]+\])?[<>=][^"]*)"', _read("pyproject.toml"))
    assert lines
    pinned = re.search(rf"^{package}==(\S+)$", _read("constraints.txt"), re.MULTILINE)
    assert pinned
    installed = Version(pinned[1])
    next_minor = f"{installed.major}.{installed.minor + 1}"
    for line in lines:
        allowed = Requirement(line).specifier
        assert allowed.contains(installed)
        assert not allowed.contains(next_minor), f"{line} takes a release that no test has seen"


def _read(name: str) -> str:
    return (ROOT / name).read_text()
