"""Measures answers per second and latency of a served generating model against three others:
LitServe, which runs `generate` on batches, FastAPI around a `pipeline`, and `generate` alone.

    python -m tests.bench.serving.generating [--clients 1 8 32] [--seconds 20] [--turns 2]
        [--against CHECKOUT] [--out F.json]

Needs `wrk`, and installs LitServe for itself. All contenders complete the same prompts with 32
tokens by greedy decoding, in fp32, with the same model: a Llama with 25 million random weights,
which takes the time of a trained one. The model has one thread; client and server share the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.common.contest import SCRIPTS, Result
from tests.bench.common.measure import Sample, table
from tests.bench.common.wrk import check_wrk, load
from tests.bench.contenders.generate_bare import TOKENS
from tests.bench.serving.serving import (
    AGAINST,
    LITSERVE,
    Contender,
    checkout,
    for_another,
    run_python,
    running,
)
from tests.helpers.models.tiny_generator import make_generator, write_prompts

PROMPTS = 256
SHAPE = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
}
FTRAY = Contender(
    "ftray",
    ("-m", "ftray", "serve", "MODEL", "--port", "PORT"),
    "/v1/completions",
    "prompt",
    more=(("model", "writer"), ("max_tokens", TOKENS), ("temperature", 0)),
)
LIT = Contender(
    "LitServe + generate",
    (str(SCRIPTS / "generate_litserve.py"), "MODEL", "PORT"),
    key="prompt",
    has_peers=True,
)
FASTAPI = Contender(
    "FastAPI + pipeline",
    (str(SCRIPTS / "generate_fastapi.py"), "MODEL", "PORT"),
    "/generate",
    "prompt",
)
CONTENDERS = (FTRAY, LIT, FASTAPI)
BARE = "generate"


def main() -> None:
    options = _options()
    check_wrk()
    os.environ.pop("RAY_ADDRESS", None)
    contenders = list(CONTENDERS)
    if options.against:
        before = replace(FTRAY, name=AGAINST, environment=checkout(options.against))
        contenders.insert(1, before)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="generating-") as name:
        here = Path(name)
        model = str(make_generator(here / "writer", "writer", **SHAPE))
        another = for_another(model, {}) if options.against else model
        prompts = _prompts(here)
        peers = here / "peers"
        run_python("-m", "pip", "install", "--quiet", "--target", str(peers), LITSERVE)
        for turn in range(options.turns):
            bare = json.loads(
                run_python(str(SCRIPTS / "generate_bare.py"), model, str(here / "asked"))
            )
            results.append({"turn": turn, "contender": BARE, **bare})
            for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
                folder = another if contender.name == AGAINST else model
                with running(contender, folder, peers, here) as server:
                    for clients in options.clients:
                        asked = [(contender.path, contender.body(prompt)) for prompt in prompts]
                        found = load(server.url, asked, here, clients, options.seconds)
                        if found["errors"]:
                            raise SystemExit(f"{contender.name}: {found['errors']} failed")
                        results.append({"turn": turn, "contender": contender.name, **found})
                        print(contender.name, clients, found, file=sys.stderr, flush=True)
    print(report(results, contenders, options.clients), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2))


def _prompts(here: Path) -> list[str]:
    """Sentences of 5 to 12 words, also written as JSON lines to the file `asked`."""
    rows = write_prompts(here / "rows.jsonl", PROMPTS).read_text().splitlines()
    prompts = [json.loads(row)["prompt"] for row in rows]
    (here / "asked").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return prompts


def report(
    results: Sequence[Result], contenders: Sequence[Contender], clients: Sequence[int]
) -> str:
    """A table of answers per second and latency in ms by contender and number of clients.

    The figures are medians over the turns; ratios are taken turn by turn.
    """

    def sample(name: str, count: int, key: str) -> Sample:
        found = [r for r in results if r["contender"] == name and r.get("clients") == count]
        return Sample(tuple(r[key] for r in found))

    rows = []
    for count in clients:
        for contender in contenders:
            rate = sample(contender.name, count, "rate")
            times = [
                f"{sample(contender.name, count, k).median:.0f}" for k in ("p50", "p95", "p99")
            ]
            over = "none answered in time"
            if min(rate.values):
                over = sample(FTRAY.name, count, "rate").over(rate).median_and_range(2)
            over = "" if contender is FTRAY else over
            rows.append([str(count), contender.name, rate.median_and_range(1), *times, over])
    header = ["clients", "", "answers/s", "p50 ms", "p95 ms", "p99 ms", "ftray over it"]
    bare = {
        key: Sample(tuple(r[key] for r in results if r["contender"] == BARE))
        for key in ("single", "batched")
    }
    most = sample(FTRAY.name, max(clients), "rate").over(bare["batched"])
    return "\n".join(
        [
            table(header, rows),
            "",
            f"generate, answers/s: one by one {bare['single'].median_and_range(1)}, "
            f"in batches of 32 {bare['batched'].median_and_range(1)}",
            f"ftray at {max(clients)} clients over these batches: {most.median_and_range(2)}",
        ]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generation served, side by side.")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=int, default=20, help="of each measurement")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--against", metavar="CHECKOUT", help="the root of another checkout")
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
