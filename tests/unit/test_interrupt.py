"""Signals are acknowledged at once, whatever the main thread does, and end the command soon."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

STUCK = """
import os, sys
from ftray.interrupt import acknowledged, softly
import ftray.interrupt as interrupt
interrupt.TERM_S = float(sys.argv[1])

def say(line):
    os.write(1, line.encode() + bytes([10]))

with acknowledged(say):
    try:
        {body}
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
"""
# As in a call into a library that no signal interrupts: they go to another thread.
IN_C = """import signal, threading, time
        threading.Timer(1.0, say, ["begun"]).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        time.sleep(60)"""
IN_PYTHON = "import time; say('begun'); time.sleep(60)"
SOFTLY = """import threading
        asked = threading.Event()
        with softly(asked.set, 'a checkpoint is saved after this step'):
            say('begun')
            while not asked.wait(0.1):
                pass
        say('saved')"""


def start(body: str, term_s: float = 60.0) -> subprocess.Popen[str]:
    script = textwrap.dedent(STUCK).format(body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(term_s)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_acknowledged_and_interrupts(number: int) -> None:
    process = start(IN_PYTHON)
    process.send_signal(number)
    assert line(process) == (
        "stopping: the same command goes on from what is done so far; Ctrl-C again ends at once"
    )
    assert line(process) == "interrupted"
    assert process.wait(120) == 130


def test_it_is_acknowledged_too_while_no_handler_can_run() -> None:
    process = start(IN_C)
    process.send_signal(signal.SIGINT)
    assert line(process).startswith("stopping: ")
    time.sleep(0.2)  # two signals of a kind that come at once are one
    process.send_signal(signal.SIGINT)
    assert line(process) == "ended at once"
    assert process.wait(120) == 130


def test_what_stops_softly_says_what_happens_and_goes_on() -> None:
    process = start(SOFTLY)
    process.send_signal(signal.SIGINT)
    assert line(process).startswith("stopping: a checkpoint is saved after this step; ")
    assert line(process) == "saved"
    assert process.wait(120) == 0


def test_the_time_after_sigterm_ends() -> None:
    process = start(IN_C, term_s=0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert line(process).startswith("stopping: ")
    assert line(process).startswith("ended: ")
    assert process.wait(120) == 130
    assert time.monotonic() - began < 60, "and not after the minutes that the call takes"


def test_an_interrupt_that_python_drops_is_raised_again() -> None:
    """In a weak reference's callback an exception is only printed."""
    import gc
    import weakref

    from ftray.interrupt import acknowledged

    class Thing: ...

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), acknowledged(lambda line: None):
        thing = Thing()
        reference = weakref.ref(thing, interrupted)
        del thing
        gc.collect()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            assert reference() is None
            time.sleep(0.01)


STORM = """
import os, signal, threading, time
from ftray.cli.serve import STOPPING, _interrupts
def storm():
    for _ in range(20_000):
        os.kill(os.getpid(), signal.SIGINT)
said = []
with _interrupts(said.append) as stop:
    sender = threading.Thread(target=storm)
    sender.start()
    while sender.is_alive():
        stop.wait(0.001)
    assert stop.is_set() and stop.wait(60) and said == [STOPPING]
    assert not stop.at_once, "as fast as that nobody asks twice"
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not stop.at_once
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.at_once
print("stopped")
"""


def test_signals_that_come_while_one_is_noted_do_not_keep_a_service() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (0, "stopped\n"), ended.stderr
