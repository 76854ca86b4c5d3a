"""Carries the error of a replica that refuses to start to the user.

Ray Serve passes on the exception of a failed constructor as text, with a traceback around it.
`refusal` writes the error into this text in a form that `read_refusal` finds and parses.
"""

from __future__ import annotations

import json

from ftray.errors import FtrayError, from_json

_MARK = "ftray refuses to serve: "


def refusal(error: FtrayError) -> RuntimeError:
    """Return the exception that a replica's constructor raises for `error`."""
    return RuntimeError(_MARK + json.dumps(error.to_json()))


def read_refusal(message: str) -> FtrayError | None:
    """Return the error in Ray Serve's message about a failed deployment; None when the message
    holds no refusal."""
    _, mark, rest = message.rpartition(_MARK)
    if not mark:
        return None
    content, _ = json.JSONDecoder().raw_decode(rest)
    return from_json(content)
