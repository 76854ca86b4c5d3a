"""Reads the rows of a data set on the Hugging Face Hub: OWNER/NAME, optionally
?config=...&split=...&revision=..."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

from ftray.data.readers import files
from ftray.data.readers.batch import Columns, RawBatch
from ftray.data.readers.columnar import most_rows, table_batches
from ftray.data.readers.rows import Source
from ftray.near import looks_local

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PATIENCE_S = 5
_OPTIONS = {"config", "split", "revision"}


def is_hub_id(url: str) -> bool:
    """Return whether `url` has the form OWNER/NAME and is no file or folder on this machine."""
    name, mark, options = url.partition("?")
    if mark and "=" not in options:
        return False  # a file pattern, in which ? matches any character
    is_file = files.suffix(name) in files.READERS or Path(name).exists() or Path(url).exists()
    return not is_file and _ID.fullmatch(name) is not None and not looks_local(name)


def read_hub(source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a Hub data set. Labels that the data set stores as numbers, with a list of
    names, become names again.

    Raises DataError when the data set, its config or its split does not exist, or when the Hub
    cannot be reached and the data set is not in the local cache.
    """
    name, _, query = source.url.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if unknown := set(options) - _OPTIONS:
        raise source.error(
            f"unknown option {', '.join(sorted(unknown))}",
            "write OWNER/NAME?config=...&split=...&revision=...",
        )
    split = options.get("split", source.split)
    dataset = _load(source, name, split, options)
    where = f"{name}/{split}"
    dataset = dataset.select_columns(source.columns_in(dataset.column_names, where))
    names = {
        column: own.names
        for column, feature in dataset.features.items()
        if hasattr(own := getattr(feature, "feature", feature), "names")
    }
    parts = dataset.with_format("arrow").iter(most_rows(source))
    batches = (batch for part in parts for batch in part.to_batches())
    for batch in table_batches(batches, where, source):
        assert isinstance(batch.rows, Columns)
        columns = batch.rows.columns
        named = {name: [_name(v, of) for v in columns[name]] for name, of in names.items()}
        yield replace(batch, rows=Columns({**columns, **named}, len(batch)))


def _load(source: Source, name: str, split: str, options: dict[str, str]) -> Any:
    import datasets

    try:
        with _offline_when_cut_off():
            return datasets.load_dataset(
                name, options.get("config"), split=split, revision=options.get("revision")
            )
    except ConnectionError as error:
        raise source.error(
            f"the Hub cannot be reached for {name}, it is not in the local cache, and no file or "
            f"folder of that name is here ({error})",
            "name a local path or package://MODULE/PATH, or go online without HF_HUB_OFFLINE",
        ) from None
    except FileNotFoundError as error:
        raise source.error(
            f"{name} is neither a file or folder here nor a data set on the Hub that you may read "
            f"({error})",
            "check the path or the id; a private data set needs HF_TOKEN",
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise source.error(
            f"the Hub's data set {name}, split {split}, cannot be loaded: {error}",
            "write OWNER/NAME?config=...&split=... to choose a config and a split",
        ) from None


@contextmanager
def _offline_when_cut_off() -> Iterator[None]:
    """Set HF_HUB_OFFLINE where the Hub does not answer. Otherwise the library tries for half a
    minute, and most often the id is just a mistyped path."""
    import datasets.config
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE or _answers(huggingface_hub.constants.ENDPOINT):
        yield
        return
    modules: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module in modules:
            module.HF_HUB_OFFLINE = False


def _answers(url: str) -> bool:
    try:
        urlopen(Request(url, method="HEAD"), timeout=_PATIENCE_S).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def _name(value: Any, names: list[str]) -> Any:
    """Return the name of a label by its index, or of each in a list."""
    if isinstance(value, list):
        return [_name(each, names) for each in value]
    # The Hub marks rows without a label by -1.
    return None if value is None or value < 0 else names[value]
