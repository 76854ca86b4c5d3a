"""Demonstrates all of ftray on real data, with the commands that a user types.

    python jobs/demo.py

Fetches the movie reviews, runs `ftray tune` on jobs/movie-sentiment.yaml, and serves the winner
with `ftray serve`. Sends reviews from the test split over HTTP, and compares the winner with a
majority vote and with TF-IDF + logistic regression on the same rows. Ends the processes that it
started.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

FTRAY = [sys.executable, "-m", "ftray"]
JOBS = Path(__file__).parent
SPEC = JOBS / "movie-sentiment.yaml"
DATA = JOBS / "data"
ASKED = 4

Result = dict[str, Any]
Scores = tuple[float, float]
"""Accuracy and macro-F1."""


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, JOBS / "demo_data.py", "--out", DATA], check=True)
    console.rule("ftray tune jobs/movie-sentiment.yaml")
    result = run_json("tune", str(SPEC), "--json")
    reference = f"{result['model']}:{result['version']}"
    test = read_rows(DATA / "movie-reviews-test.jsonl")
    console.rule(f"ftray serve {reference}")
    with served(reference) as url:
        answers = ask(url, [row["text"] for row in test[:ASKED]])
    for row, answer in zip(test, answers, strict=False):
        console.print(f"{answer['label']} {answer['score']:.2f} (is {row['label']})  {row['text']}")
    console.rule("held-out test split")
    console.print(compare(result, read_rows(DATA / "movie-reviews-train.jsonl"), test))
    console.print(f"run      {result['run_dir']}")
    console.print(f"model    {reference} in {result['model_dir']}")
    console.print(f"{len(result['trials'])} trials, all in {time.perf_counter() - started:.0f} s")


def run_json(*arguments: str) -> Result:
    """Runs an ftray command whose last line of stdout is JSON. Its progress goes to the screen."""
    run = subprocess.run([*FTRAY, *arguments], stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(run.returncode)
    return json.loads(run.stdout.splitlines()[-1])


@contextmanager
def served(reference: str) -> Iterator[str]:
    """Serves the model while the block runs. Yields its URL."""
    server = subprocess.Popen(
        [*FTRAY, "serve", reference, "--port", str(free_port()), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit(server.wait())
        yield json.loads(line)["url"]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url: str, texts: list[str]) -> list[Result]:
    request = urllib.request.Request(
        f"{url}/v1/predict",
        data=json.dumps({"inputs": texts}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["outputs"]


def compare(result: Result, train: list[Result], test: list[Result]) -> Table:
    """A table with ftray's test metrics beside those of the baselines."""
    metrics = result["metrics"]["test"]
    table = Table("", "accuracy", "macro-F1", box=None, header_style="bold")
    for name, (accuracy, f1) in {
        "majority label": majority(train, test),
        "TF-IDF + logistic regression": tf_idf(train, test),
        "ftray": (metrics["accuracy"], metrics["f1_macro"]),
    }.items():
        table.add_row(name, f"{accuracy:.4f}", f"{f1:.4f}")
    return table


def majority(train: list[Result], test: list[Result]) -> Scores:
    label = Counter(row["label"] for row in train).most_common(1)[0][0]
    return scores(test, [label] * len(test))


def tf_idf(train: list[Result], test: list[Result]) -> Scores:
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000)
    )
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    return scores(test, list(model.predict([row["text"] for row in test])))


def scores(test: list[Result], predicted: list[str]) -> Scores:
    truth = [row["label"] for row in test]
    macro = f1_score(truth, predicted, average="macro", zero_division=0)
    return float(accuracy_score(truth, predicted)), float(macro)


def read_rows(path: Path) -> list[Result]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
