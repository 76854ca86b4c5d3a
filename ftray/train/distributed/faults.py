"""Translates exceptions of third-party libraries during training into errors with a fix."""

from __future__ import annotations

from ftray.cluster.device import is_out_of_memory
from ftray.errors import ClusterError, FtrayError, RunFailed, find


def translated(error: BaseException) -> FtrayError | None:
    """Return the FtrayError in `error`, or the FtrayError that `error` translates to; None for an
    error that the user cannot fix."""
    known = find(error)
    if known is not None:
        return known
    if isinstance(error, ImportError):
        return ClusterError.of(
            "package", error.name, f"cannot be imported: {error}", "install it on every node"
        )
    if is_out_of_memory(error):
        return RunFailed.of(
            "train.micro_batch_size",
            None,
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'MemoryError'}",
            "set it to less, set train.gradient_checkpointing, or give a worker more memory",
        )
    return None
