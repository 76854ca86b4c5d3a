"""URLs of storage, and the escapes of characters that are special in URLs.

A question mark begins the options at the end of a URL: `s3://bucket/prefix?region=...`. A local
path is no URL, and the functions here leave it as it is.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_OWN = "/:@!$&'()*+,;=-._~"  # the characters that a URL's path keeps unescaped
_LONE_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")


def quoted(url: str) -> str:
    """Escape with percent signs the characters that people write but URLs forbid: spaces, accents,
    brackets, a percent sign that begins no escape."""
    base, mark, options = _LONE_PERCENT.sub("%25", url).partition("?")
    return f"{quote(base, safe=_OWN + '%')}{mark}{quote(options, safe=_OWN + '%?')}"


def extended(url: str, name: str) -> str:
    """Return the URL, or local path, of the entry `name` below `url`."""
    if "://" not in url:
        return f"{url}/{name}"
    base, mark, options = url.partition("?")
    return f"{base}/{quote(name, safe=_OWN)}{mark}{options}"


def shortened(url: str) -> str:
    """Return the URL, or local path, of the folder that contains `url`."""
    if "://" not in url:
        return url.rpartition("/")[0]
    base, mark, options = url.partition("?")
    return f"{base.rpartition('/')[0]}{mark}{options}"
