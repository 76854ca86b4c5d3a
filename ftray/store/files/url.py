"""URLs of storage, with the characters in them that URLs keep for themselves.

A URL may end in options, `s3://bucket/prefix?region=...`: a question mark begins them. A local
path is no URL and is left as it is.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_OWN = "/:@!$&'()*+,;=-._~"  # what stands for itself in a path
_LONE_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")


def quoted(url: str) -> str:
    """`url` with what a person may write in it, and no URL may have, as percent escapes: spaces,
    accents, brackets, a percent sign that begins no escape."""
    base, mark, options = _LONE_PERCENT.sub("%25", url).partition("?")
    return f"{quote(base, safe=_OWN + '%')}{mark}{quote(options, safe=_OWN + '%?')}"


def extended(url: str, name: str) -> str:
    """The URL, or local path, of what is called `name` below `url`."""
    if "://" not in url:
        return f"{url}/{name}"
    base, mark, options = url.partition("?")
    return f"{base}/{quote(name, safe=_OWN)}{mark}{options}"


def shortened(url: str) -> str:
    """The URL, or local path, of the folder that `url` is in."""
    if "://" not in url:
        return url.rpartition("/")[0]
    base, mark, options = url.partition("?")
    return f"{base.rpartition('/')[0]}{mark}{options}"
