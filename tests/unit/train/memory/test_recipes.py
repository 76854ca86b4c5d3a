"""What the recipes in jobs/recipes say of memory is what `ftray validate --gpus` foresees."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftray.spec.load import load, override
from ftray.tasks.schema import Schema
from ftray.train.memory.hardware import Gpus
from ftray.train.memory.preflight import forecast
from tests.helpers.models.tiny_generator import make_tokenizer

RECIPES = Path(__file__).parents[4] / "jobs/recipes"
QWEN = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
QWEN_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
QWEN_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}


def published(folder: Path, tied: bool, **shape: Any) -> str:
    """Writes a model folder of a published shape. The file of its weights has a header and no byte
    on the disk: the plan reads none."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "qwen3",
        **QWEN,
        **shape,
        tie_word_embeddings=tied,
        max_position_embeddings=40960,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).state_dict()
    header: dict[str, Any] = {}
    end = 0
    for name, weight in weights.items():
        if not (tied and name == "lm_head.weight"):
            places = [end, end := end + 2 * weight.numel()]
            header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": places}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return str(folder)


@pytest.mark.parametrize(
    ("recipe", "gpus", "tied", "shape"),
    [
        ("full-8b", "8xH100", False, QWEN_8B),
        pytest.param("lora-chat", "L4", True, QWEN_4B, marks=pytest.mark.slow),
    ],
)
def test_a_large_model_fits_where_its_recipe_says(
    recipe: str, gpus: str, tied: bool, shape: dict[str, int], tmp_path: Path
) -> None:
    base = published(tmp_path, tied, **shape)
    there = Gpus.of(gpus)
    spec = override(
        load(RECIPES / f"{recipe}.yaml"),
        {"model.name_or_path": base, "scale.workers": there.count},
    )
    found = forecast(spec, Schema(), there)
    assert found.fits
    assert found.memory.decisive.total > 0.5 * there.memory
