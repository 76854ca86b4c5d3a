"""The contenders, the rows that all contenders read, and a function that runs one contender.

Every run is a process of its own, so that no thread setting leaks from one run into the next.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftray.cluster.connection import session
from ftray.data.dataset import Dataset, read_dataset
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import dump, load, override
from ftray.spec.schema import Spec
from ftray.train.check import check_inputs
from ftray.train.run import prepare

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "tests" / "bench" / "contenders"
Result = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A script in the folder `contenders`, its options, and the train.precision passed to it."""

    name: str
    script: str
    options: tuple[str, ...] = ()
    precision: str = "auto"


AS_WRITTEN = Contender("HF Trainer as written", "hf_trainer.py", precision="fp32")
TUNED = Contender("HF Trainer tuned", "hf_trainer.py", ("--group-by-length",), "bf16")
ALONE = Contender("ftray, 1 process", "ftray_trainer.py")
WORKERS = Contender("ftray, Ray workers", "ftray_trainer.py", ("--workers",))


BARE = Contender("bare PyTorch loop", "bare_loop.py")


@dataclass(frozen=True)
class Stage:
    """The shared inputs of all runs in one part.

    spec: names the files of the split; folder: its storage root has these rows encoded.
    """

    spec: Spec
    folder: Path
    threads: int

    def run(self, contender: Contender, changes: Mapping[str, Any]) -> Result:
        """Runs a contender with `changes` (dotted path -> value) to the spec.

        Returns the output of its script, the wall time of the whole command, and the machine's load
        before the run.
        """
        load_before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            storage = shutil.copytree(self.folder / "storage", folder / "storage")
            spec = override(self.spec, {**changes, "storage": str(storage)})
            (folder / "spec.yaml").write_text(dump(spec))
            command = [
                sys.executable,
                str(SCRIPTS / contender.script),
                "spec.yaml",
                *contender.options,
            ]
            started = time.perf_counter()
            done = subprocess.run(
                command, cwd=folder, env=self._environment(contender), capture_output=True
            )
            seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{contender.name} failed:\n{done.stderr.decode()[-6000:]}")
        result = json.loads(done.stdout.decode().splitlines()[-1])
        around = {"wall_seconds": seconds, "load_before": load_before}
        return {"contender": contender.name, **changes, **result, **around}

    def _environment(self, contender: Contender) -> dict[str, str]:
        # Ray gives each of its workers one thread per CPU.
        threads = {} if contender is WORKERS else {"OMP_NUM_THREADS": str(self.threads)}
        return {
            **{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
            **threads,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_DATASETS_CACHE": str(self.folder / "datasets"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


@contextmanager
def stage(rows: int, threads: int, held_out: int | None = None) -> Iterator[Stage]:
    """The shipped spec on its first `rows` rows, split by ftray once and encoded.

    `held_out` limits validation and test to so many rows each, for runs in which only speed
    matters.
    """
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        shipped = _shipped(folder, rows)
        files = _write_splits(read_dataset(shipped), folder, held_out)
        changes = {
            **{f"data.{split}": file for split, file in files.items()},
            "model.name_or_path": str(find_pretrained(shipped.model).folder),
            "train.schedule": "linear",  # both sides name it so
            "scale.workers": threads,
            "scale.cpus_per_worker": 1,
            "storage": str(folder / "storage"),
        }
        spec = override(shipped, changes)
        with session():
            prepare(check_inputs(spec))
        yield Stage(spec, folder, threads)


def _shipped(folder: Path, rows: int) -> Spec:
    """The demo's spec on the first `rows` of its training rows."""
    subprocess.run([sys.executable, ROOT / "jobs" / "demo_data.py"], check=True, stdout=sys.stderr)
    spec = load(ROOT / "jobs" / "movie-sentiment.yaml")
    lines = (ROOT / spec.data.train).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "shipped.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    test = str(ROOT / str(spec.data.test))
    return override(spec, {"data.train": str(folder / "shipped.jsonl"), "data.test": test})


def _write_splits(dataset: Dataset, folder: Path, held_out: int | None) -> dict[str, str]:
    """Writes one JSONL file per split, for both sides to read. Returns their paths."""
    files = {}
    for split, rows in dataset.splits.items():
        cut = rows.table() if split == "train" else rows.table().slice(0, held_out)
        files[split] = str(folder / f"{split}.jsonl")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in cut.to_pylist())
        Path(files[split]).write_text("".join(lines), encoding="utf-8")
    return files
