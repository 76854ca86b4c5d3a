"""Write the lock files that the images install from: every version, with the hashes of its files.

    python cluster/lock.py

Needs uv on PATH. Versions are those of constraints.txt; what it does not have, because it was made
where torch has no CUDA, is the newest that fits.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

CLUSTER = Path(__file__).resolve().parent
GPU = re.compile(r"(torch|triton|nvidia-|cuda-)")
"""Beginnings of the names of torch and of what only its build for CUDA takes."""
HEAD = "# Made by cluster/lock.py from pyproject.toml and constraints.txt.\n"


def resolve(*options: str) -> list[str]:
    """Return one entry a package, with its hashes."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--constraint=constraints.txt", *options]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--python-version=3.11"]
    command += ["--python-platform=x86_64-manylinux_2_28", "--quiet"]
    done = subprocess.run(
        command, cwd=CLUSTER.parent, check=True, stdout=subprocess.PIPE, text=True
    )
    return re.split(r"^(?=\w)", done.stdout, flags=re.MULTILINE)[1:]


def main() -> None:
    serve, train = resolve(), resolve("--extra=train")
    files = {
        "cuda.lock": [entry for entry in serve if GPU.match(entry)],
        "serve.lock": [entry for entry in serve if not GPU.match(entry)],
        "train.lock": [entry for entry in train if entry not in serve],
    }
    for name, entries in files.items():
        (CLUSTER / name).write_text(HEAD + "".join(entries))


if __name__ == "__main__":
    main()
