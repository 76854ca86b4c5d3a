"""Image classification with one label for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftray.tasks.base import TaskSetup
from ftray.tasks.classification import LABEL, LABEL_FEATURE, METRICS, Classifier, label_indices
from ftray.tasks.features import Examples, Feature
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.vision.pixels import PIXELS, ImageOptions, Images, image_content


class ImageClassification(Classifier, Images):
    """The task image-classification."""

    info = TaskInfo(
        name="image-classification",
        forms=(("image", "label"),),
        modalities={"image": "image", "label": "category"},
        answers=("label",),
        output="labels",
        metrics=METRICS,
        default_metric="accuracy",
        max_length=1,
        processor="image_processor",
        options=ImageOptions,
        linear_probe=True,
        call='"photo.jpg"',
        ranks=True,
        synonyms={
            "image": "image_column img file filename file_name path pixel_values",
            "label": "label_column labels target target_column class fine_label y",
        },
        lacks={
            "data.max_length": (1, "is for texts", "Leave it out."),
            "train.token_dropout": (0.0, "is for texts", "Set 0, or task_options.flip or shift."),
        },
        starter=Starter(
            name="my-image-classifier",
            model="name_or_path: google/efficientnet-b0",
            data="""\
  train: photos/               # a folder per label; or CSV, JSONL, Parquet that name or hold images
  validation: 0.1              # a share of train (stratified), or a source of its own
  test: 0.1
  columns: {image: image, label: label}   # in a table: paths, or bytes""",
            train="""\
  learning_rate: 1.0e-3
  unfreeze: 1                  # top blocks to train; 0 = head only; all = everything""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-4, 5.0e-3]}
    train.batch_size: {choice: [16, 32]}
    train.unfreeze: {choice: [0, 1, 2, 4]}""",
            serve="  batch: {max_size: 16, wait_ms: 5}",
        ),
    )
    columns = {"image": "image", "label": "category"}
    cleaners = {"image": image_content, "label": label_name}
    auto_class = "AutoModelForImageClassification"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **LABEL_FEATURE}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each image; its target is the label's index in the schema."""
        pixels, places, rejected = self.read(setup, rows["image"])
        indices = label_indices(setup.labels, (rows["label"][place] for place in places))
        return Examples({PIXELS: pixels, LABEL: indices}, places, [0] * len(places), rejected)
