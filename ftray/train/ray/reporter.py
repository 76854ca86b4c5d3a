"""Tells what a training worker does: to the driver, to Ray Train and to the watchdog."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import ray
import torch

from ftray.cluster.machine import held_memory
from ftray.store.runs.metrics import EVALUATION
from ftray.train.context import TrainContext
from ftray.train.distributed.context import DistContext
from ftray.train.distributed.events import stage
from ftray.train.distributed.watchdog import Watchdog
from ftray.train.orders import WorkerArgs
from ftray.train.progress import Progress

_LOOK_EVERY_S = 1.0


class Reporter:
    """The loop's Observer: sends events to the driver from rank 0, reports each epoch to Ray Train
    on every rank, and feeds the watchdog."""

    def __init__(
        self, job: WorkerArgs, ranks: DistContext, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.ranks = ranks
        self._report = report
        self.setup: TrainContext | None = None
        self._sender = job.sender if ranks.rank == 0 else None
        self._started = False
        self._looked = -math.inf
        self._used = (time.monotonic(), time.process_time())
        self._stepped = time.monotonic()
        self._alarms = job.sender
        self.watchdog = Watchdog(60 * job.spec.scale.hang_minutes, self._alarm)

    def _alarm(self, kind: str, stack: str) -> None:
        """Send an alarm to the driver from any rank: rank 0, which sends all other events, may be
        the rank that hangs."""
        if self._alarms is not None:
            where = f"{socket.gethostname()}, pid {os.getpid()}"
            event = {"kind": kind, "rank": self.ranks.rank, "where": where, "stack": stack}
            self._alarms.alarm(event)

    def alive(self) -> None:
        self.watchdog.alive()

    def warn(self, line: str) -> None:
        self._send({"kind": "warning", "message": line}, now=True)

    def stage(self, name: str) -> None:
        """Tell the driver the stage of work that begins now."""
        self._send(stage(name), now=True)

    def baseline(self, event: dict[str, Any]) -> None:
        self._send(event, now=True)

    def phase(self, progress: Progress) -> None:
        assert self.setup is not None, "the loop runs what was set up"
        phased = self.setup.phased
        event = {
            "kind": "phase" if self._started else "start",
            "epoch": progress.epoch,
            "step": progress.step,
            "trainable_parameters": phased.plan.trainable_parameters,
            "total_parameters": phased.plan.total_parameters,
            "parts": [list(part) for part in phased.plan.parts],
        }
        if not self._started:
            nodes = self.ranks.gather(ray.get_runtime_context().get_node_id())
            event |= {
                "steps": self.setup.steps,
                "workers": self.ranks.world,
                "nodes": len(set(nodes)),
                "blocks": phased.plan.blocks,
                "trunk": self.setup.trunk.cache.cut.blocks if self.setup.trunk else 0,
                "precision": "bf16" if phased.engine.module.autocast else "fp32",
            }
        self._started = True
        self._send(event, now=True)

    def step(self, event: dict[str, Any]) -> None:
        now = self._stepped = time.monotonic()
        if self._sender is not None and now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            event = event | self._held() | {"cores": self._cores()}
        self._send({"kind": "step", **event})

    def _cores(self) -> float:
        """Return how many cores this process kept busy on average since the last look."""
        (then, used), self._used = self._used, (time.monotonic(), time.process_time())
        return round((self._used[1] - used) / (self._used[0] - then), 2)

    def _held(self) -> dict[str, int]:
        """Return the bytes of memory that this rank holds: its process, and on its GPU."""
        assert self.setup is not None, "the loop runs what was set up"
        device, held = self.setup.engine.ranks.device, held_memory()
        found = {} if held is None else {"memory": held}
        if device.type == "cuda":
            found["gpu_memory"] = torch.cuda.memory_reserved(device)
        return found

    def epoch(self, metrics: dict[str, Any]) -> None:
        seconds = time.monotonic() - self._stepped
        self._report(metrics)
        self._send({"kind": "epoch", **metrics, EVALUATION: seconds}, now=True)

    def stopping(self) -> bool:
        return self._sender is not None and self._sender.stopping()

    def close(self) -> None:
        """Flush: wait until the driver's mailbox has received all events."""
        if self._sender is not None:
            self._sender.flush()

    def _send(self, event: dict[str, Any], now: bool = False) -> None:
        if self._sender is not None:
            self._sender.send(event, now)
