"""Ray Data without its own screen: users see ftray's progress only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_ray_data(raise_original: bool = False) -> Iterator[None]:
    """No progress bars and no log lines inside the block; with `raise_original`, errors of the
    mapped function come as they were raised instead of wrapped by Ray."""
    from ray.data import DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = raise_original
    logger = logging.getLogger("ray.data")
    level = logger.level
    # Its warnings are about the bars being off, its errors are raised as well.
    logger.setLevel(logging.CRITICAL)
    try:
        with DataContext.current(context), warnings.catch_warnings():
            # Of keywords that Ray means to take otherwise one day, and takes no other way yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
