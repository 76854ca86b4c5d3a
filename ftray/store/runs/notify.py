"""Tells the address of the spec's `notify` how a run ended, as JSON in one POST.

The field `text` is a sentence, which Slack, Mattermost and Teams show; the other fields are for
programs. No address, path or setting of the spec is in the message.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ftray.errors import SpecError
from ftray.spec.schema import Spec

log = logging.getLogger(__name__)

_ANSWER_S = 5.0
_PAUSES_S = (0.5, 2.0)
"""Pauses before the second and the third attempt."""


def check_notify(spec: Spec) -> None:
    """Raise SpecError where `notify` names an environment variable that has no address."""
    if spec.notify is not None and not _address(spec.notify).startswith(("http://", "https://")):
        fix = f"set {spec.notify[1:]} to a URL, or leave notify out"
        raise SpecError.of("notify", spec.notify, "this environment variable has no URL", fix)


def notify(asked: str, message: Mapping[str, Any]) -> None:
    """Post `message` to the address that the spec asked for. Never raises: after three attempts,
    logs one warning with the host."""
    address = _address(asked)
    host = urlsplit(address).hostname or asked
    body = json.dumps(message, ensure_ascii=False, default=str).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "ftray"}
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    for pause in (*_PAUSES_S, None):
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S):
                return
        except (OSError, ValueError) as error:
            if pause is None:
                log.warning("notify: %s was not told that the run ended: %s", host, error)
                return
            time.sleep(pause)


def sentence(name: str, run: str, state: str, more: str) -> str:
    """Say how a run ended: `movie-sentiment 20261121-101500-ab12cd is done: f1_macro 0.81`."""
    ended = {"done": "is done", "failed": "failed", "interrupted": "was interrupted"}[state]
    return f"{name} {run} {ended}" + (f": {more}" if more else "")


def _address(asked: str) -> str:
    return os.environ.get(asked[1:], "") if asked.startswith("$") else asked
