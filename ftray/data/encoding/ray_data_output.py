"""Silences Ray Data's own output, so that users see only ftray's progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Turn off Ray Data's progress bars and log lines inside the block."""
    from ray.data import DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    # Ray Data's log warnings are about the progress bars being off; it raises its errors, too.
    logger.setLevel(logging.CRITICAL)
    try:
        with DataContext.current(context), warnings.catch_warnings():
            # Ray warns of keywords that it plans to change, but offers no replacement yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
