"""The input side of tasks that read one image a row: decodes, resizes, normalizes, augments."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.errors import ModelError
from ftray.tasks.base import (
    Augment,
    BadRow,
    BaseTask,
    Question,
    Row,
    Spend,
    TaskSetup,
    free,
    is_missing,
)
from ftray.tasks.features import Batch, Example, Feature, stacked
from ftray.tasks.info import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = "pixel_values"
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Formats that are decoded, by Pillow's names. Decoders of other formats never run."""
MOST_PIXELS = 50_000_000
"""Most pixels of an image, before it is resized: 200 MB while it is decoded."""


class ImageOptions(BaseModel):
    """Augmentation of training images, anew in each epoch. It turns the trunk cache off."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    flip: bool = Field(False, description="Mirror half of the images.")
    shift: float = Field(
        0.0, ge=0, lt=1, description="Move an image by up to that share of its width and height."
    )


def opened(content: bytes) -> Image:
    """Open an image without decoding it. Raises BadRow for anything but an image of one of
    `FORMATS` with at most `MOST_PIXELS` pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise BadRow("not_an_image", f"one of {', '.join(FORMATS)} is read") from None
    except Image.DecompressionBombError:
        raise BadRow("image_too_large", f"{MOST_PIXELS:,} pixels are read at most") from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadRow("image_too_large", f"{width} x {height}; {MOST_PIXELS:,} pixels at most")
    return image


def decoded(content: bytes) -> Image:
    """Return an image upright and in RGB. Raises BadRow where it is damaged or cut short."""
    from PIL import ImageOps

    image = opened(content)
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadRow("broken_image", str(error)[:80]) from None


@lru_cache(maxsize=8)
def pixel_shape(processor: Any) -> tuple[int, ...]:
    """Return the shape of one image as the processor gives it: (3, height, width)."""
    return tuple(_resized(processor, _plain(0)).shape)


@lru_cache(maxsize=8)
def _normalization(processor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and offset, (3, 1, 1) float32 each, by which the processor turns a resized
    pixel's value, 0 to 255, into the model's input. Raises ModelError where it does anything
    else."""
    black, grey, white = (
        np.asarray(processor(images=_plain(value), return_tensors="np")[PIXELS][0], np.float64)
        for value in (0, 51, 255)
    )
    factor, offset = (white - black)[:, :1, :1] / 255, black[:, :1, :1]
    if not np.allclose(grey, 51 * factor + offset, atol=1e-4):
        raise ModelError.of(
            "model.name_or_path",
            type(processor).__name__,
            "its image processor does more than resize and normalize",
            "name a model whose processor does no more",
        )
    return factor.astype(np.float32), offset.astype(np.float32)


def _plain(value: int) -> Image:
    from PIL import Image

    return Image.new("RGB", (64, 64), (value, value, value))


def _resized(processor: Any, image: Image) -> np.ndarray:
    """Return the image in the model's size, (3, height, width) uint8."""
    found = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels: np.ndarray = np.clip(np.rint(found[PIXELS][0]), 0, 255).astype(np.uint8)
    return pixels


def image_content(value: Any) -> bytes:
    """Return the image of a source row. Raises BadRow."""
    if isinstance(value, Mapping):  # an image of Hugging Face's datasets
        value = value.get("bytes")
    if is_missing(value) or value == b"":
        raise BadRow("missing_image")
    if not isinstance(value, bytes):
        raise BadRow("not_an_image", repr(value)[:80])
    opened(value)
    return value


class Images(BaseTask):
    """Rows of an image, whose content is in the row or in a file that the row names."""

    def ask(self, values: Mapping[str, Any]) -> Question:
        return image_content(values["image"])

    def is_blank(self, question: Question) -> bool:
        return not question

    def key(self, row: Row) -> str:
        return hashlib.sha256(row["image"]).hexdigest()

    def size(self, question: Question) -> int:
        return len(question)

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {PIXELS: Feature("uint8", pixel_shape(setup.processor))}

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        found: list[list[Example]] = []
        for question in questions:
            try:
                found.append([{PIXELS: _resized(setup.processor, decoded(question))}])
            except BadRow:
                found.append([])
        return found

    def read(
        self, setup: TaskSetup, images: Sequence[bytes]
    ) -> tuple[list[Any], list[int], dict[int, str]]:
        """Decode images. Returns their pixels, the index of each, and the indices of those that
        cannot be decoded, each with the kind of its fault."""
        pixels, places, rejected = [], [], {}
        for place, content in enumerate(images):
            try:
                pixels.append(_resized(setup.processor, decoded(content)))
                places.append(place)
            except BadRow as fault:
                rejected[place] = fault.kind
        return pixels, places, rejected

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        """Make a batch with normalized pixels, (B, 3, height, width) float32."""
        import torch

        batch = stacked(examples, self.features(setup), {})
        factor, offset = map(torch.from_numpy, _normalization(setup.processor))
        pixels = batch.inputs[PIXELS].to(torch.float32).mul_(factor).add_(offset)
        return batch._replace(inputs={**batch.inputs, PIXELS: pixels})

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return {PIXELS: np.full(pixel_shape(setup.processor), 128, np.uint8)}

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        from PIL import Image

        side = max(8, size)
        content = io.BytesIO()
        pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
        return content.getvalue()

    def augmented_by(self, options: BaseModel, token_dropout: float) -> str | None:
        assert isinstance(options, ImageOptions)
        if options.flip:
            return "task_options.flip true"
        return f"task_options.shift {options.shift:g}" if options.shift else None

    def augmentation(self, setup: TaskSetup, token_dropout: float) -> Augment | None:
        options = setup.options
        assert isinstance(options, ImageOptions)
        if self.augmented_by(options, token_dropout) is None:
            return None

        def change(example: Example, draw: np.random.Generator) -> Example:
            pixels = np.asarray(example[PIXELS])
            if options.flip and draw.random() < 0.5:
                pixels = pixels[:, :, ::-1]
            if options.shift:
                pixels = _shifted(pixels, options.shift, draw)
            return {**example, PIXELS: pixels}

        return change


def _shifted(pixels: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Move an image by a random part of `share` of its size; its border is repeated."""
    height, width = pixels.shape[1:]
    rows, columns = round(share * height), round(share * width)
    padded = np.pad(pixels, ((0, 0), (rows, rows), (columns, columns)), mode="edge")
    top, left = draw.integers(0, 2 * rows + 1), draw.integers(0, 2 * columns + 1)
    found: np.ndarray = padded[:, top : top + height, left : left + width]
    return found
