"""From a checkpoint to a model folder: whole weights, test metrics, golden answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftray import __version__
from ftray.data.encode import EncodedDataset
from ftray.models.folder import ModelInfo, publish, staged, write_info
from ftray.models.predictor import Predictor
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import Spec
from ftray.store.location import Location, locate
from ftray.tasks import get_task
from ftray.tasks.base import Metrics
from ftray.train import lora, state

_GOLDEN = 8


@dataclass(frozen=True)
class Export:
    """What to export and where to: the trained values in `checkpoint` over the base model."""

    spec: Spec
    data: EncodedDataset
    checkpoint: Location
    target: Location
    run: str
    trials: tuple[dict[str, Any], ...] = ()
    """The table of the sweep that this model won."""


def export(order: Export) -> ModelInfo:
    """Write the model folder, measured by the very model that it holds.

    This is the one place that reads the test split.
    """
    spec = order.spec
    pretrained, task = find_pretrained(spec.model), get_task(spec.task)
    tokenizer = pretrained.tokenizer()
    model = pretrained.model(task, order.data.labels, spec.seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    with order.checkpoint.as_local() as checkpoint:
        values = state.trained_values(checkpoint)
    adapter = None
    if spec.train.lora:
        tuner = lora.inject(model, spec)
        state.load_parameters(model, values)
        if spec.train.lora.adapter:
            sample = task.collate([order.data.load("test").ids_of(0)], tokenizer.pad_token_id)
            adapter = lora.take_adapter(tuner, sample)
        tuner.merge_and_unload()
    else:
        state.load_parameters(model, values)
    with staged(model, tokenizer) as staging:
        if adapter is not None:
            adapter.write(staging / lora.ADAPTER)
        info = ModelInfo(
            name=spec.name,
            run=order.run,
            task=spec.task,
            labels=order.data.labels,
            max_length=spec.data.max_length,
            base=spec.model,
            data_digest=order.data.digest,
            spec=spec.model_dump(mode="json"),
            metrics={},
            golden=(),
            trials=order.trials,
            ftray_version=__version__,
        )
        write_info(staging, info)
        predictor = Predictor(locate(str(staging)))
        metrics = {
            split: _measure(predictor, order.data, split) for split in ("validation", "test")
        }
        test = order.data.load("test")
        golden = predictor.golden(test.texts(range(min(_GOLDEN, len(test.lengths)))))
        info = info.model_copy(update={"metrics": metrics, "golden": golden})
        publish(staging, info, order.target)
    return info


def _measure(predictor: Predictor, data: EncodedDataset, split: str) -> Metrics:
    rows = data.load(split)
    texts = rows.texts(range(len(rows.lengths)))
    return predictor.evaluate(texts, [data.labels[target] for target in rows.targets])
