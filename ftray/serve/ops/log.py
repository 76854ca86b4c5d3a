"""What replicas say goes where Ray Serve's own lines go: `replica_*.log` on their node, one JSON
object a line, with the id of the request that it was about."""

from __future__ import annotations

import logging
from typing import Any


def logger(module: str) -> logging.Logger:
    return logging.getLogger(f"ray.serve.{module}")


def logging_config(requests: bool) -> dict[str, Any]:
    """Ray Serve's; `requests`: with a line for each of them, which takes its time."""
    level = "INFO" if requests else "WARNING"
    return {"encoding": "JSON", "log_level": level, "enable_access_log": requests}
