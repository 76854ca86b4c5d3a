"""What a signal does to a run, without the run."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from ftray.train.ray.trainer import stopped_by_signals


class Sender:
    asked = 0

    def stop(self) -> None:
        self.asked += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_does_not_wait(number: signal.Signals) -> None:
    sender, before = Sender(), signal.getsignal(number)
    job: Any = SimpleNamespace(sender=sender)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(job):
        os.kill(os.getpid(), number)
        assert sender.asked == 1
        os.kill(os.getpid(), number)
    assert sender.asked == 1
    assert signal.getsignal(number) is before
