"""How a replica that refuses to start tells the user why.

Ray Serve passes on why a constructor failed as text, with a traceback around it. A refusal puts the
error into that text in a form that can be found and read again.
"""

from __future__ import annotations

import json

from ftray.errors import FtrayError, from_json

_MARK = "ftray refuses to serve: "


def refusal(error: FtrayError) -> RuntimeError:
    """What a replica's constructor raises for `error`."""
    return RuntimeError(_MARK + json.dumps(error.to_json()))


def read_refusal(message: str) -> FtrayError | None:
    """The error in Ray Serve's message about a failed deployment; None when it has another one."""
    _, mark, rest = message.rpartition(_MARK)
    if not mark:
        return None
    content, _ = json.JSONDecoder().raw_decode(rest)
    return from_json(content)
