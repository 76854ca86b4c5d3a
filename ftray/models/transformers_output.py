"""Silences the progress bars and warnings of transformers, in a process that writes to a user's
terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show only errors of transformers. transformers checks whether stdout, which a live display
    may have replaced, supports colours; so stdout is redirected inside."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
