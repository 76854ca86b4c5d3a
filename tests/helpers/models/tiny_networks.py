"""Small networks with random weights, one per model family, made from configurations, offline."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

BLOCKS = 3
LABELS = 3
VOCABULARY = 97

_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 1, "head_dim": 8, "attention_dropout": 0.2}

# Families with one list of blocks, by transformers' name.
STACKED: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "pad_token_id": 0},
    "electra": {**_ENCODER, "embedding_size": 12},
    "deberta-v2": {
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
    "distilbert": {"dim": 16, "n_layers": BLOCKS, "n_heads": 2, "hidden_dim": 24},
    "mpnet": {**_ENCODER, "pad_token_id": 0},
    "modernbert": {**_ENCODER, "attention_dropout": 0.2, "mlp_dropout": 0.2, "local_attention": 4},
    "gpt2": {"n_embd": 16, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64},
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "mistral": _DECODER,
    "gemma2": {**_DECODER, "sliding_window": 4},
    "phi3": _DECODER,
}

# Families that keep the range of their activations in buffers and pass more than hidden states to
# each block.
RANGED: dict[str, dict[str, Any]] = {"ibert": {**_ENCODER, "pad_token_id": 0}}

_IMAGES = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
# Families whose inputs are images.
SEEING: dict[str, dict[str, Any]] = {
    "vit": _IMAGES,
    "dinov2": _IMAGES,
    "beit": {**_IMAGES, "use_mean_pooling": True, "use_relative_position_bias": True},
}

# Families in STACKED that generate text.
GENERATING = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3")

# Families whose blocks have no order: their layers share one set of weights.
UNSTACKED: dict[str, dict[str, Any]] = {"albert": {**_ENCODER, "embedding_size": 12}}

_BART = {
    "d_model": 16,
    "encoder_layers": BLOCKS,
    "decoder_layers": BLOCKS,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
}
# Families with an encoder and a decoder, of BLOCKS blocks each.
TWO_STACKS: dict[str, dict[str, Any]] = {
    "bart": _BART,
    "mbart": _BART,
    "marian": _BART,
    "pegasus": _BART,
    "t5": {
        "d_model": 16,
        "num_layers": BLOCKS,
        "num_heads": 2,
        "d_kv": 8,
        "d_ff": 24,
        "decoder_start_token_id": 0,
    },
}


def tiny_network(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A classifier of this family in eval mode, with weights drawn from `seed`."""
    if family in SEEING:
        config = AutoConfig.for_model(family, **SEEING[family], num_labels=LABELS, **options)
        torch.manual_seed(seed)
        return AutoModelForImageClassification.from_config(config).float().eval()
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = {**STACKED, **RANGED, **UNSTACKED, **TWO_STACKS}[family]
    config = AutoConfig.for_model(
        family, **{"vocab_size": VOCABULARY, **special, **shape, "num_labels": LABELS, **options}
    )
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).float().eval()


def tiny_generator(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A causal language model of this family in eval mode, with weights drawn from `seed`.

    The weights are large, so that each generated token depends on all tokens before it.
    """
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(
        family, **{"vocab_size": VOCABULARY, **special, **STACKED[family], **options}
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(10)
    return model


def tiny_translator(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """An encoder-decoder of this family in TWO_STACKS that writes text, in eval mode, with weights
    drawn from `seed`."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = {"vocab_size": VOCABULARY, **special, **TWO_STACKS[family], **options}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **shape)
    return AutoModelForSeq2SeqLM.from_config(config).float().eval()


def tiny_batch(rows: int = 1, tokens: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids, with no special token but the closing one, and their mask: (rows, tokens)."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=random)
    ids[:, -1] = 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tiny_images(rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random images for a family in `SEEING`: (rows, 3, 16, 16)."""
    random = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=random)}
