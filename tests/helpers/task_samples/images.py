"""Sample of image classification."""

from __future__ import annotations

import io

from tests.helpers.task_samples.labels import BAD_LABELS, LABEL_NAMES
from tests.helpers.task_samples.sample import SMALL, Sample, image_processor


def picture(red: int, side: int = 16, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Returns an image with a part of one colour."""
    from PIL import Image

    image, content = Image.new("RGB", (side, side), (90, 120, 60)), io.BytesIO()
    image.paste((red, 10, 200), (0, 0, side // 2, side // 3))
    image.convert(mode).save(content, kind)
    return content.getvalue()


def _too_large() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(content, "PNG")
    return content.getvalue()


_ONE, _OTHER = picture(255), picture(0)
IMAGE_CLASSIFICATION = Sample(
    base={
        "model_type": "vit",
        **{name: SMALL[name] for name in SMALL if name not in ("vocab_size", "pad_token_id")},
        "image_size": 16,
        "patch_size": 8,
    },
    processor=image_processor,
    clean=(
        ({"image": _ONE, "label": "good"}, {"image": _ONE, "label": "good"}),
        (
            {"image": {"bytes": _ONE, "path": None}, "label": "good"},
            {"image": _ONE, "label": "good"},
        ),
        *(({"image": _ONE, "label": raw}, {"image": _ONE, "label": n}) for raw, n in LABEL_NAMES),
    ),
    bad=(
        ({"image": None, "label": "good"}, "missing_image"),
        ({"image": b"", "label": "good"}, "missing_image"),
        ({"image": {"bytes": None}, "label": "good"}, "missing_image"),
        ({"image": 7, "label": "good"}, "not_an_image"),
        ({"image": b"no image", "label": "good"}, "not_an_image"),
        ({"image": b"<svg xmlns='x'/>", "label": "good"}, "not_an_image"),
        ({"image": picture(0, kind="TIFF"), "label": "good"}, "not_an_image"),
        ({"image": _too_large(), "label": "good"}, "image_too_large"),
        *(({"image": _ONE, "label": value}, kind) for value, kind in BAD_LABELS),
    ),
    questions=(({"image": _ONE}, _ONE),),
    blank=(b"",),
    duplicates=({"image": _ONE, "label": "good"}, {"image": _ONE, "label": "bad"}),
    strangers=({"image": _ONE, "label": "good"}, {"image": _OTHER, "label": "good"}),
    rows=(
        {"image": picture(255, 8), "label": "red"},
        {"image": picture(0), "label": "blue"},
        {"image": picture(200, mode="L"), "label": "grey"},
        {"image": picture(250, kind="JPEG"), "label": "red"},
        {"image": picture(10, 300), "label": "blue"},
    ),
    unread=({"image": _ONE[: len(_ONE) // 2], "label": "red"}, "broken_image"),
    unlearnable=({"image": _ONE, "label": "red"}, {"image": _OTHER, "label": "red"}),
    augmenting=({"flip": True, "shift": 0.4}, 0.0),
)
