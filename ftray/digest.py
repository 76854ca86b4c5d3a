"""Content digests: the names of the folders of a content-addressed cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def of_json(value: Any) -> str:
    """Digest the JSON content of `value` to 16 hex digits; the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return of_chunks([canonical.encode("utf-8", "surrogatepass")])


def of_chunks(chunks: Iterable[bytes]) -> str:
    """Digest the concatenated bytes of `chunks` to 16 hex digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()[:16]
