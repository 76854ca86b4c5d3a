"""Wraps the reading of a model's files by other libraries: turns any exception that they raise into
a ModelError of one line."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftray.errors import FtrayError, ModelError

KEY = "model.name_or_path"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_REMOTE_CODE = "trust_remote_code"
TRUST = (
    f"if you trust the code that comes with it: model.{_REMOTE_CODE} of a spec that trains, "
    "--trust-remote-code of a command that uses a trained model"
)
_SELDOM = (OSError, ValueError, RuntimeError)
"""Exception classes whose messages say enough without the class name."""


@contextmanager
def translated(name: str, problem: str, fix: str) -> Iterator[None]:
    """Raise ModelError about the model `name` for any exception that a library raises inside: an
    untrusted file can make the library raise any class of exception."""
    try:
        yield
    except (FtrayError, MemoryError):
        raise
    except Exception as error:
        if _REMOTE_CODE in str(error):
            fix = TRUST
        raise ModelError.of(KEY, name, f"{problem}: {reason(error)}", fix) from error


def reason(error: Exception) -> str:
    """Return the reason of an error: the library's message, with the exception class where the
    message says little."""
    said = str(error).strip()
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not {error.encoding.upper()}"
    if isinstance(error, _SELDOM) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def read_config(name: str, content: bytes) -> dict[str, Any]:
    """Parse the content of a config.json. Raises ModelError about the model `name`."""
    with translated(name, "its config.json is not JSON", "mend the file"):
        config = json.loads(content)
    if not isinstance(config, dict):
        raise ModelError.of(
            KEY, name, f"its config.json is a {type(config).__name__}, not an object", "mend it"
        )
    return config


def check_weights(name: str, folder: Path) -> None:
    """Raise ModelError about the model `name` where the weights in its folder cannot be read as
    tensors. Reads the headers of safetensors files alone; unpickles nothing but tensors."""
    found = next((file for file in (*WEIGHTS, *_PICKLED) if (folder / file).is_file()), None)
    if found is None:
        raise ModelError.of(
            KEY,
            name,
            f"it has no weights: none of {', '.join((*WEIGHTS, *_PICKLED))}",
            "name a folder that save_pretrained wrote",
        )
    fix = "save the model again with save_pretrained"
    for file in _shards(name, folder, found):
        with translated(name, f"its {file} cannot be read", fix):
            if found in WEIGHTS:
                _read_header(folder / file)
            else:
                _read_pickled(folder / file)


def _shards(name: str, folder: Path, found: str) -> list[str]:
    """Return the names of the files that hold the weights."""
    if not found.endswith(".json"):
        return [found]
    shards = indexed(name, folder / found, "save the model again")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        problem = f"its {found} names {missing[0]}, which is not there"
        raise ModelError.of(KEY, name, problem, "copy the whole folder")
    return shards


def indexed(name: str, index: Path, fix: str) -> list[str]:
    """Return the names of the files in an index of weights. Raises ModelError about the model
    `name`."""
    with translated(name, f"its {index.name} cannot be read", fix):
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))


def _read_header(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "numpy") as content:
        content.keys()


def _read_pickled(file: Path) -> None:
    import torch

    # Older versions of torch wrote no zip archive; mmap is impossible there: read the file whole.
    torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
