"""Compares a sweep of ftray with Ray Tune driving the HF Trainer, on the same trials.

    python -m tests.bench.sweeps.sweep [--rows 2500] [--trials 12] [--repeats 1] [--seed 42]
        [--only NAME ...] [--out F.json]
    python -m tests.bench.sweeps.sweep --model bert-base --rows 240 --trials 16 --depths 3
        12 blocks of random weights: only ftray with and without its cache

Wall time covers the whole command, from the files to the winner's test metrics. No contender stops
a trial early or trains the winner again, so that all do the same work. ftray draws the trials; the
other contenders receive them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ftray.spec.load import dump, override
from ftray.spec.schema import Spec
from tests.bench.common.contest import SCRIPTS, Result, stage
from tests.bench.common.measure import Sample, table

SPACE = {
    "train.learning_rate": {"choice": [1e-4, 2e-4, 4e-4]},
    "train.batch_size": {"choice": [16, 32]},
}
HELD_OUT = 64
PATHS = ("train.learning_rate", "train.batch_size", "train.epochs", "train.unfreeze")


@dataclass(frozen=True)
class Contender:
    """A contender of the sweep.

    cache: train.trunk_cache of ftray, or None for the script hf_sweep.py, called with `options`.
    """

    name: str
    cache: str | None = None
    options: tuple[str, ...] = ()
    precision: str = "auto"


CACHED = Contender("ftray", "on")
UNCACHED = Contender("ftray without the trunk cache", "off")
TUNED = Contender("Ray Tune + HF Trainer, tuned", None, ("--group-by-length",), "bf16")
AS_WRITTEN = Contender("Ray Tune + HF Trainer, as written", precision="fp32")
CONTENDERS = (CACHED, UNCACHED, TUNED, AS_WRITTEN)


def main() -> None:
    options = _options()
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    contenders = [c for c in CONTENDERS if not options.only or c.name in options.only]
    if options.model != "minilm":
        contenders = [CACHED, UNCACHED]
    assert contenders[0] is CACHED, "it draws the trials that the others are given"
    results: list[Result] = []
    # Without trained weights a large test set would only cost time.
    held_out = None if options.model == "minilm" else HELD_OUT
    with stage(options.rows, os.cpu_count() or 1, held_out) as here:
        spec = override(here.spec, _changes(options))
        if options.model == "bert-base":
            model = random_bert(here.folder / "bert-base", spec.model.name_or_path)
            spec = override(spec, {"model.name_or_path": model})
        trials: list[dict[str, Any]] = []
        for turn in range(options.repeats):
            for contender in contenders:
                folder = here.folder / f"{len(results)}"
                folder.mkdir()
                found = run(contender, spec, folder, trials)
                trials = trials or [trial["config"] for trial in found["trials"]]
                results.append({"turn": turn, **found})
                _say(results[-1])
        blocks = AutoConfig.from_pretrained(spec.model.name_or_path).num_hidden_layers
    print(f"\n{_trial_table(trials)}\n\n{_time_table(results)}\n", flush=True)
    if CACHED in contenders and UNCACHED in contenders:
        print(_against_the_formula(results, trials, blocks), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps({"trials": trials, "runs": results}, indent=2))


def run(
    contender: Contender, spec: Spec, folder: Path, trials: Sequence[Mapping[str, Any]]
) -> Result:
    """Runs the whole sweep in an empty folder.

    Returns its seconds, its trials, and the winner's test metrics.
    """
    changes = {"storage": str(folder / "storage"), "train.precision": contender.precision}
    if contender.cache is not None:
        changes["train.trunk_cache"] = contender.cache
    (folder / "spec.yaml").write_text(dump(override(spec, changes)))
    if contender.cache is not None:
        command = [sys.executable, "-m", "ftray", "tune", "spec.yaml", "--json"]
    else:
        (folder / "trials.json").write_text(json.dumps(trials))
        script = str(SCRIPTS / "hf_sweep.py")
        command = [sys.executable, script, "spec.yaml", "trials.json", *contender.options]
    load_before, started = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{contender.name} failed:\n{done.stderr.decode()[-6000:]}")
    told = json.loads(done.stdout.decode().splitlines()[-1])
    return {
        "contender": contender.name,
        "seconds": seconds,
        "test": told["test"] if contender.cache is None else told["metrics"]["test"],
        "trials": told["trials"],
        "load_before": load_before,
    }


def _environment(folder: Path) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
        "CUDA_VISIBLE_DEVICES": "",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Changes to the shipped spec: the sweep of this benchmark."""
    space = {**SPACE, "train.unfreeze": {"choice": options.depths}}
    space["train.epochs"] = {"choice": options.epochs}
    return {
        "seed": options.seed,
        "scale.workers": 1,
        "tune": {"trials": options.trials, "space": space, "scheduler": "fifo", "refit": False},
        "train.baselines": False,
        "train.trunk_precision": "bf16",
    }


def random_bert(folder: Path, like: str) -> str:
    """Writes a model folder with bert-base's shape, random weights, and the tokenizer of `like`."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    BertModel(BertConfig()).save_pretrained(folder)
    return str(folder)


def _trial_table(trials: Sequence[Mapping[str, Any]]) -> str:
    return table(list(PATHS), [[str(trial[path]) for path in PATHS] for trial in trials])


def _time_table(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(result["contender"] for result in results))
    by = {name: [r for r in results if r["contender"] == name] for name in names}
    ours = Sample(tuple(r["seconds"] for r in by[CACHED.name]))
    rows = []
    for name in names:
        seconds = Sample(tuple(r["seconds"] for r in by[name]))
        accuracy = Sample(tuple(r["test"]["accuracy"] for r in by[name]))
        rows.append(
            [
                name,
                seconds.median_and_range(0),
                seconds.over(ours).median_and_range(2),
                accuracy.mean_and_deviation(),
            ]
        )
    return table(["", "seconds", "x ftray's", "the winner's test accuracy"], rows)


def _against_the_formula(
    results: Sequence[Result], trials: Sequence[Mapping[str, Any]], blocks: int
) -> str:
    """Compares the trials' measured time with the time predicted by counting block passes.

    With L blocks, an epoch over the rows costs L + 2k where k blocks train, and 3k from the cache.
    Filling the cache costs L - k of the shallowest trial, once. The measured time is that of the
    trials, including filling the cache, without the start of Ray.
    """
    depths = [
        (
            trial["train.epochs"],
            blocks if trial["train.unfreeze"] == "all" else trial["train.unfreeze"],
        )
        for trial in trials
    ]
    without = sum(epochs * (blocks + 2 * k) for epochs, k in depths)
    cached = blocks - min(k for _, k in depths) + sum(epochs * 3 * k for epochs, k in depths)
    walls = {r["contender"]: r["seconds"] for r in results}
    busy = {
        r["contender"]: sum(trial["seconds"] for trial in r["trials"]) / (os.cpu_count() or 1)
        for r in results
        if "seconds" in r["trials"][0]
    }
    found = walls[UNCACHED.name] / walls[CACHED.name]
    return (
        f"counting blocks allows {without / cached:.2f}x; the whole command is {found:.2f}x as "
        f"fast with the cache, its trials alone {busy[UNCACHED.name] / busy[CACHED.name]:.2f}x"
    )


def _say(result: Result) -> None:
    print(
        f"{result['contender']}: {result['seconds']:.0f} s, test accuracy "
        f"{result['test']['accuracy']:.4f}, load before {result['load_before']:.1f}",
        file=sys.stderr,
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A sweep, side by side with Ray Tune and HF.")
    parser.add_argument("--rows", type=int, default=2500, help="to train and validate on")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--depths", nargs="+", type=int, default=[0, 1, 2, 4])
    parser.add_argument("--epochs", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--model", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the contenders")
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
