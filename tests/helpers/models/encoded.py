"""Encodes rows without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ftray.data.cleaning.report import CleaningReport, SourceCount
from ftray.data.encoding.encoded import ROW, EncodedDataset, EncodedSplit, Shard
from ftray.data.encoding.lengths import Lengths
from ftray.models.limits import setup_of
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.tasks.classification import LABEL
from ftray.tasks.features import Feature
from ftray.tasks.schema import Schema
from ftray.tasks.text.texts import IDS

LABELS = ("bad", "good", "mixed")
FEATURES = {IDS: Feature("int32", None), LABEL: Feature("int64", (), "target")}
"""The features of a text classifier's examples."""


def write_encoded(folder: Path, spec: Spec, splits: Mapping[str, Sequence[str]]) -> EncodedDataset:
    """Encode the texts of each split with the spec's tokenizer, and write one shard per split.

    The shards are Arrow files. The labels take turns; a text without tokens is left out.
    """
    task = get_task(spec.task)
    setup = setup_of(find_pretrained(spec.model), spec, Schema(labels=LABELS))
    folder.mkdir(exist_ok=True)
    shards, lengths, rejected, kept, counts = {}, {}, {}, {}, {}
    for split, texts in splits.items():
        turns = [LABELS[(1, 0, 2)[row % 3]] for row in range(len(texts))]
        examples = task.examples(setup, {"text": list(texts), "label": turns})
        table = shard(examples.features[IDS], examples.features[LABEL], examples.rows)
        file = folder / f"{split}.arrow"
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
        shards[split] = (Shard(file.name, len(examples), file.stat().st_size),)
        rejected[split] = examples.rejected
        counts[split] = {label: turns.count(label) for label in LABELS}
        kept[split] = tuple(texts[row] for row in examples.rows)
        lengths[split] = Lengths.of(examples.lengths, len(examples), spec.data.max_length)
    read = SourceCount(sum(len(texts) for texts in splits.values()), {})
    return EncodedDataset(
        locate(str(folder)),
        "0" * 16,
        setup.schema,
        task.features(setup),
        shards,
        CleaningReport({"train": read}, counts).to_json(),
        lengths,
        rejected,
        kept.get("test", ()),
    )


def shard(
    ids: Sequence[Sequence[int]], labels: Sequence[int], rows: Sequence[int] | None = None
) -> pa.Table:
    """Return the examples of one shard. rows: number of each example's row; one example a row where
    left out."""
    columns = {
        IDS: pa.array([list(row) for row in ids], pa.list_(pa.int32())),
        LABEL: pa.array(labels, pa.int64()),
        ROW: pa.array(range(len(labels)) if rows is None else rows, pa.int64()),
    }
    return pa.table(columns)


def split_of(ids: Sequence[Sequence[int]], labels: Sequence[int]) -> EncodedSplit:
    """Return a split of one shard in memory."""
    return EncodedSplit([shard(ids, labels)], FEATURES)
