"""Every task with a few rows and a tiny base model with random weights, made on the spot."""

from __future__ import annotations

from base64 import b64encode

import numpy as np

from tests.helpers.task_kinds import bases, rows
from tests.helpers.task_kinds.kind import Kind

_TABLE = "new://table?layers=3&width=32&heads=2"


def _picture() -> str:
    return b64encode(rows.image(2, np.random.default_rng(7))).decode()


KINDS = {
    "entailment": Kind(
        "text-classification",
        rows.entailed,
        bases.bert,
        lambda: {"text": "plot film end", "text_pair": "film"},
        {"max_length": 32, "columns": {"text_pair": "text_pair"}},
    ),
    "regression": Kind(
        "text-regression", rows.scored, bases.bert, lambda: "a film film", {"max_length": 32}
    ),
    "pairs": Kind(
        "text-regression",
        rows.compared,
        bases.bert,
        lambda: {"text": "plot film", "text_pair": "film"},
        {"max_length": 32, "columns": {"text_pair": "text_pair"}},
    ),
    "answers": Kind(
        "question-answering",
        rows.asked,
        bases.bert,
        lambda: {"question": "where does bob live", "context": "bob lives in rome ."},
        {"max_length": 32, "group": "question"},
        {"stride": 8},
    ),
    "label sets": Kind(
        "multi-label-classification",
        rows.flagged,
        bases.bert,
        lambda: "plot film end",
        {"max_length": 32, "columns": {"labels": ["film", "plot"]}},
    ),
    "tags": Kind(
        "token-classification",
        rows.tagged,
        bases.bert,
        lambda: "the plot alice smith lives in rome",
        {"max_length": 32},
        {"stride": 8},
    ),
    "short": Kind(
        "text2text-generation",
        rows.shortened,
        bases.encoder_decoder,
        lambda: "the plot . bob lives in rome",
        {"max_length": 32},
        {"target_length": 8, "beams": 2},
    ),
    "chats": Kind(
        "text-generation",
        rows.told,
        bases.decoder,
        lambda: "where is",
        {"max_length": 64, "columns": {"messages": "messages"}},
        {"learn": "all"},
    ),
    "preferences": Kind(
        "preference-tuning", rows.preferred, bases.decoder, lambda: "plot film", {"max_length": 48}
    ),
    "completions": Kind(
        "text-generation", rows.continued, bases.decoder, lambda: "plot film", {"max_length": 48}
    ),
    "packed": Kind(
        "text-generation",
        rows.continued,
        bases.decoder,
        lambda: "plot film",
        {"max_length": 48},
        {"packing": True},
    ),
    "hidden words": Kind(
        "fill-mask", rows.written, bases.bert, lambda: "plot film [MASK] end", {"max_length": 16}
    ),
    "embeddings": Kind(
        "feature-extraction", rows.belonging, bases.bert, lambda: "alice 3 plot", {"max_length": 16}
    ),
    "rankings": Kind(
        "text-ranking",
        rows.judged,
        bases.bert,
        lambda: {"query": "bob of rome", "passages": ["ann in oslo", "a person in rome"]},
        {"max_length": 32, "columns": {"positive": "positive"}},
    ),
    "table": Kind(
        "tabular-classification",
        rows.loans,
        lambda folder: folder,
        lambda: {"age": 33, "job": "smith", "since": "2020-01-31", "note": "unread"},
        {"columns": {"label": "bad"}},
        {"costs": {"false_negative": 5}},
        new_base=_TABLE,
    ),
    "table of numbers": Kind(
        "tabular-regression",
        rows.rents,
        lambda folder: folder,
        lambda: {"rooms": 3, "city": "nowhere", "built": "1950-01-31"},
        {"columns": {"score": "rent"}},
        new_base=_TABLE,
    ),
    "hidden cells": Kind(
        "tabular-fill-mask",
        rows.loans,
        lambda folder: folder,
        lambda: {"age": 33, "job": "cook", "since": "2020-01-31", "note": "unread", "bad": None},
        new_base=_TABLE,
    ),
    "histories": Kind(
        "next-item-prediction",
        rows.listed,
        bases.item_decoder,
        lambda: {"items": ["plot", "actor", "nobody knows this"]},
        {"max_length": 16, "split": {"by": "last"}, "validation": 0.5, "test": 0.5},
    ),
    "convolutions": Kind("image-classification", rows.pictured, bases.convolutions, _picture),
    "vit": Kind("image-classification", rows.pictured, bases.transformer, _picture),
}
"""Tasks by a name of their own: a task may have several kinds of rows or of models."""
