"""Makes a small causal language model with its own tokenizer and a chat template.

Its random weights learn sentences of `small_runs` within seconds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from ftray import __version__
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.artifact.publish import finish, place, staged, write_info
from ftray.models.generation.generator import Generator
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import parse
from ftray.store.files.location import Location, locate
from ftray.tasks import get_task
from ftray.tasks.schema import Schema
from tests.helpers.training.small_runs import BAD, FILLER, GOOD, write_rows

PAD, END = "<|pad|>", "<|end|>"
CHAT = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_TOKENS = 24
GOLDEN = ("the film has", "a wonderful plot and", "dull")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")


def make_base(folder: Path, family: str = "llama", seed: int = 0, **options: Any) -> Path:
    """Writes a model folder as save_pretrained does."""
    tokenizer = make_tokenizer()
    shape = {
        "llama": {
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 128,
        },
        "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    }[family]
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            **shape,
            **options,
        },
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [f" {word}" for word in (*GOOD, *BAD, *FILLER, "positive", "negative", "film:")]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    made.chat_template = CHAT if chat else None
    return made


def write_prompts(path: Path, rows: int, seed: int = 0) -> Path:
    """Writes the sentences of `write_rows` as JSONL prompts, with their labels as completions."""
    plain = write_rows(path.with_suffix(".labels"), rows, seed)
    with path.open("w") as file:
        for line in plain.read_text().splitlines():
            row = json.loads(line)
            text = row["text"].rsplit(" ", 1)[0]
            told = {"prompt": f"{text} film:", "completion": f" {row['label']}"}
            file.write(json.dumps(told) + "\n")
    plain.unlink()
    return path


def make_generator(target: Path, name: str = "tiny", seed: int = 0, **options: Any) -> Location:
    """Writes `target` as `ftray train` does, with golden answers.

    The model generates nonsense. options: changes to the model's config.
    """
    with tempfile.TemporaryDirectory() as temporary:
        base = make_base(Path(temporary) / "base", seed=seed, **options)
        spec = parse(
            {
                "name": name,
                "task": "text-generation",
                "model": {"name_or_path": str(base)},
                "data": {"train": "rows.jsonl", "max_length": 64},
                "serve": {"max_tokens": MAX_TOKENS},
            }
        )
        found = find_pretrained(spec.model)
        model = found.model(get_task(spec.task), Schema(), seed=seed)
        info = ModelInfo(
            name=name,
            run="20250101-000000-tiny",
            task=spec.task,
            labels=(),
            max_length=spec.data.max_length,
            base=spec.model,
            data_digest="0" * 16,
            spec=spec.model_dump(mode="json"),
            metrics={"test": {"loss": 2.5, "perplexity": 12.2, "accuracy": 0.4}},
            golden=(),
            ftray_version=__version__,
        )
        location = locate(str(target))
        with staged(model, found.processor(spec.info), 128) as folder:
            write_info(folder, info)
            golden = Generator(locate(str(folder))).golden(GOLDEN)
            info = info.model_copy(update={"golden": golden})
            finish(place(folder, info, location), location)
    return location
