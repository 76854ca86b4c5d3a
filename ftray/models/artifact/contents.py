"""Checks a trained model's folder: its weights are safetensors, and no link leads out of it.

A pickle can run any code in the process that reads it. A link can lead to any file that the reading
user may read.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ftray.errors import ModelError
from ftray.models.border import WEIGHTS, indexed

_ADAPTER = "adapter_config.json"
_FIX = "serve a folder that `ftray train` wrote"


def check_contents(folder: Path) -> None:
    """Raise ModelError for a folder from which loading would read more than its own tensors."""
    whole = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(whole):
            raise _refused(folder, f"its {path.relative_to(folder)} is a link out of it")
    if (folder / _ADAPTER).exists():
        # transformers would apply the adapter to the weights that the manifest describes.
        raise _refused(folder, f"its {_ADAPTER} changes the weights beside it")
    index = folder / WEIGHTS[1]
    for shard in indexed(str(folder), index, _FIX) if index.is_file() else ():
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise _refused(folder, f"its weights are in {shard}, and only safetensors are read")


def _refused(folder: Path, problem: str) -> ModelError:
    return ModelError.of("model", str(folder), problem, _FIX)
