"""Tracking in MLflow: a thread sends the parameters and metrics of runs.

MLflow keeps a copy for people to look at; the record is metrics.jsonl in the run folder. So an
MLflow that fails or hangs neither fails the training nor delays it by more than a few seconds at
the end of the run.
"""

from __future__ import annotations

import logging
import threading
import time

from ftray.errors import FtrayError, Problem
from ftray.store.database import server, tracking_uri, translated
from ftray.store.root import Root
from ftray.store.tracking.base import Status, Tracker
from ftray.store.tracking.mlflow_client import Mlflow
from ftray.store.tracking.mlflow_run import MlflowRun

log = logging.getLogger(__name__)

_SEND_EVERY = 1.0  # seconds between two batches
_RETRY_AFTER = 5.0  # seconds until a server that failed is tried again
_PATIENCE = 2.0  # seconds without an answer after which `close` gives a server up
_LOCAL_PATIENCE = 30.0  # the patience for SQLite and for importing MLflow: slow, not dead
_LONGEST_CLOSE = 60.0  # seconds that a slow server may take in all for `close`
_KILLED_CLOSE = 4.0  # the longest close of a run that was asked to end: a person waits


class MlflowTracker(Tracker):
    """One run in MLflow and its child runs, sent by one thread. A resumed run continues in its
    earlier MLflow run.

    While MLflow does not answer, the tracker keeps the values and sends them once it answers.
    """

    run: MlflowRun

    def __init__(self, root: Root, run_name: str, experiment: str) -> None:
        self._root, self._experiment = root, experiment
        self._changed = threading.Condition()
        self.run = MlflowRun(run_name, None, self._changed)
        self._runs = [self.run]
        self._closing = False
        self._mlflow: Mlflow | None = None
        self._closed = 0.0
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"mlflow {run_name}", daemon=True)
        self._thread.start()

    def child(self, name: str) -> MlflowRun:
        run = MlflowRun(name, self.run, self._changed)
        with self._changed:
            self._runs.append(run)
            self._changed.notify()
        return run

    def close(self, status: Status = "FINISHED") -> None:
        """Send the remaining values and end the run in MLflow.

        Gives up on a silent server after 2 seconds (after 30 for SQLite or while MLflow is being
        imported), on a slow server after 60 in all, and for a killed run after 4 in any
        case."""
        self.run.end(status)
        for child in self._runs[1:]:
            child.end("KILLED")
        with self._changed:
            self._closing = True
            self._changed.notify()
        closed = time.monotonic()
        longest = _KILLED_CLOSE if status == "KILLED" else _LONGEST_CLOSE
        while self._thread.is_alive():
            self._thread.join(0.02)
            now = time.monotonic()
            answered = max(closed, self._mlflow.answered if self._mlflow else 0.0)
            silent = now - answered > self._patience()
            if self._thread.is_alive() and (silent or now - closed > longest):
                self._warn(Problem("registry", server() or "", "cannot be used: no answer", ""))
                break
        if lacking := sum(run.points for run in self._runs):
            log.warning("MLflow lacks %d points of run %s", lacking, self.run.name)

    def _patience(self) -> float:
        opening = self._mlflow is None
        return _LOCAL_PATIENCE if opening or server() is None else _PATIENCE

    def _work(self) -> None:
        """Run the sending thread: send when values are pending, at most once a second."""
        pause = 0.0
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=pause)
                self._changed.wait_for(lambda: self._closing or self._pending())
                closing = self._closing
            try:
                with translated(tracking_uri(self._root)):
                    self._send()
                pause = _SEND_EVERY
            except FtrayError as error:
                self._warn(error.problems[0])
                pause = _RETRY_AFTER

    def _pending(self) -> bool:
        return any(run.pending for run in self._runs)

    def _send(self) -> None:
        if self._mlflow is None:
            self._mlflow = Mlflow(self._root, self._experiment)
        for run in [run for run in self._runs if run.pending]:
            run.send(self._mlflow)
        with self._changed:
            self._runs = [run for run in self._runs if run is self.run or not run.sent]

    def _warn(self, problem: Problem) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow: %s %s. Run %s goes on without it: its metrics are kept in metrics.jsonl, "
                "and sent if MLflow comes back.",
                problem.value,
                problem.problem,
                self.run.name,
            )
