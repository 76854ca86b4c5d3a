"""Shards the parameters of a model over the ranks, as ZeRO 3 does, one parameter at a time.

A model loaded in the dtype of its file is memory-mapped: its weights take no memory before they are
read. So no process ever holds the whole model: each parameter is read, cast, sharded and dropped
before the next one is read.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.integrations import HfDeepSpeedConfig

from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.deepspeed_config import Config, deepspeed_config
from ftray.train.engine.deepspeed_state import destroy, import_deepspeed

_MADV_DONTNEED = 4


def partition(
    model: nn.Module,
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    rounded: Collection[str] = (),
) -> None:
    """Shard the parameters of `model` in `dtype`, those of the names `rounded` in their own, and
    move its buffers to `device`. Every rank must call this function; rank 0 gives the values.
    config: the DeepSpeed configuration, of stage 3."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)  # noqa: SLF001 - keeps what is persistent
    deepspeed: Any = import_deepspeed(device)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    deepspeed.zero.Init(module=_OneByOne(model, dtype, rounded), config_dict_or_path=config)


@contextmanager
def sharded(model: nn.Module, spec: TrainSpec, device: torch.device) -> Iterator[None]:
    """Shard the parameters of `model` in fp32 while it answers: each forward pass inside the block
    gathers the weights that it uses, so all ranks must run the same number of passes. The model is
    of no use after the block. Every rank must use this function."""
    config = deepspeed_config(spec, 1, 1, dist.get_world_size())
    zero = config["zero_optimization"]
    without = {"zero_optimization": {k: v for k, v in zero.items() if k != "offload_optimizer"}}
    lean = {**config, **without}
    deepspeed, linear = import_deepspeed(device), nn.functional.linear
    partition(model, lean, device, torch.float32)
    engine, *_ = deepspeed.initialize(model=model, config=lean)
    # As long as this object lives, `generate` runs as many passes as the longest answer of any rank
    # needs.
    known = HfDeepSpeedConfig(lean)
    try:
        yield
    finally:
        del known
        destroy(engine)
        nn.functional.linear = linear


class _OneByOne(nn.Module):
    """Gives the parameters of a model to DeepSpeed, which shards each one before it asks for the
    next."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, rounded: Collection[str]) -> None:
        super().__init__()
        self._own = [(p, None if n in rounded else dtype) for n, p in model.named_parameters()]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        files = _mapped_files()
        for parameter, dtype in self._own:
            stored = parameter.data
            parameter.data = stored if dtype is None else stored.to(dtype)
            yield parameter
            _forget(stored, files)


def _mapped_files() -> list[tuple[int, int]]:
    """Return the address ranges of this process that map a file."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            start, stop = addresses.split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    return ranges


def _forget(tensor: torch.Tensor, files: list[tuple[int, int]]) -> None:
    """Drop the pages of a tensor that maps a file: they would stay in memory until no tensor maps
    the file any more. The tensor can still be read, from the file."""
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    if not any(first <= start and stop <= last for first, last in files):
        return
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED)
