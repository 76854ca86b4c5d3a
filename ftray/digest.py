"""Content digests: what names the folders of a content-addressed cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def of_json(value: Any) -> str:
    """16 hex digits that depend on the JSON content of `value` and not on the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return of_chunks([canonical.encode("utf-8", "surrogatepass")])


def of_chunks(chunks: Iterable[bytes]) -> str:
    """16 hex digits of the bytes in `chunks`, one after the other."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()[:16]
