"""Makes load with `wrk`: each client sends its next request as soon as it has its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM_UP_SECONDS = 3
_SCRIPT = Path(__file__).with_name("post.lua")


def check_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: it is a package of Debian and Homebrew")


def load(
    url: str, requests: Sequence[tuple[str, Any]], folder: Path, clients: int, seconds: int
) -> dict[str, Any]:
    """Sends requests (paths with JSON bodies).

    Returns requests per second, milliseconds by percentile, and failures.
    """
    file = folder / "requests"
    file.write_text("".join(f"{path}\t{json.dumps(body)}\n" for path, body in requests))
    command = ["wrk", "-t1", f"-c{clients}", "--timeout", "30s", "-s", str(_SCRIPT)]
    environment = {**os.environ, "REQUESTS": str(file)}
    for duration in (WARM_UP_SECONDS, seconds):
        done = subprocess.run(
            [*command, f"-d{duration}s", url], env=environment, capture_output=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return {"clients": clients, **found}
