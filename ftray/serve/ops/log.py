"""Loggers of the replicas. Their lines go to Ray Serve's own log: `replica_*.log` on the replica's
node, one JSON object a line, with the id of the request that the line is about."""

from __future__ import annotations

import logging
from typing import Any


def logger(module: str) -> logging.Logger:
    return logging.getLogger(f"ray.serve.{module}")


def logging_config(requests: bool) -> dict[str, Any]:
    """Return Ray Serve's logging configuration. requests: whether Ray Serve logs a line for each
    request, which takes time."""
    level = "INFO" if requests else "WARNING"
    return {"encoding": "JSON", "log_level": level, "enable_access_log": requests}
