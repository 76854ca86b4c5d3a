"""Records a command's terminal output in tmux and checks it: no silence, no wrapped line.

    python -m tests.bench.training.recorded [--verb train tune] [--width 80 100] [--silence 5]
        [--keep DIR]

Runs a small spec on a terminal of each width and captures the screen twice a second. The bench
fails if the screen stays the same for longer than `--silence` seconds, or if a line is wider than
the terminal. `--keep` writes each screen that differs from the one before, with its second.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.training.small_runs import tree

LOOK_EVERY_S = 0.5
HISTORY = 10_000
LONGEST_S = 900
ENDED = "ended with"


def main() -> None:
    options = _options()
    faults: list[str] = []
    for verb in options.verb:
        for width in options.width:
            found = record(verb, width, options.silence, options.keep)
            print(f"{verb} at {width} columns: {'; '.join(found) or 'ok'}", flush=True)
            faults += found
    raise SystemExit(bool(faults))


def record(verb: str, width: int, silence: float, keep: Path | None) -> list[str]:
    """Runs the command and gives the faults of its terminal output."""
    with tempfile.TemporaryDirectory(prefix="rec-", dir="/tmp") as name:
        folder = Path(name)
        terminal = Terminal(f"ftray-{os.getpid()}", width, _command(folder, verb))
        try:
            screens = terminal.watch()
        finally:
            terminal.close()
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        text = "\n".join(f"=== {at:.1f} s\n{screen}" for at, screen in screens)
        (keep / f"{verb}-{width}.txt").write_text(text)
    return [*_silences(screens, silence), *_wrapped(terminal.lines, width)]


def _silences(screens: list[tuple[float, str]], most: float) -> list[str]:
    """The silences longer than `most` seconds.

    screens: each screen that differs from the one before it, with the second at which it appeared.
    """
    return [
        f"{after - before:.1f} s of silence after {before:.1f} s"
        for (before, _), (after, _) in zip(screens, screens[1:], strict=False)
        if after - before > most
    ]


def _wrapped(lines: list[str], width: int) -> list[str]:
    """Lines wider than the terminal. tmux has joined each line that the terminal wrapped."""
    return [f"wrapped: {line[:60]}…" for line in lines if len(line.rstrip()) > width]


def _command(folder: Path, verb: str) -> str:
    spec: dict[str, Any] = tree(
        folder, train={"epochs": 2, "baselines": True}, scale={"workers": 1}
    )
    # a relative path, so that no shown line is longer than on a user's terminal
    spec["storage"] = "storage"
    if verb == "tune":
        space = {
            "train.learning_rate": {"choice": [1e-4, 5e-4, 1e-3]},
            "train.unfreeze": {"choice": [0, 1, 2]},
        }
        spec["tune"] = {"trials": 4, "space": space, "refit": True}
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec))
    settings = {
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "RAY_TMPDIR": str(folder),
        "RAY_ADDRESS": "local",
    }
    exports = " ".join(f"{key}={shlex.quote(value)}" for key, value in settings.items())
    return (
        f"cd {folder} && env {exports} {shlex.quote(sys.executable)} -m ftray {verb} spec.yaml; "
        f"echo {ENDED} $?; sleep 600"
    )


class Terminal:
    """A tmux session with one window in which a command runs."""

    def __init__(self, name: str, width: int, command: str) -> None:
        self._name = name
        self.lines: list[str] = []
        """Lines of the whole history at the end, joined where the terminal wrapped them."""
        self._tmux("kill-session", "-t", name, check=False)
        self._tmux(
            *("new-session", "-d", "-s", name, "-x", str(width), "-y", "50"),
            *("-c", "/tmp", f"bash -c {shlex.quote(command)}"),
        )
        self._tmux("set-option", "-t", name, "history-limit", str(HISTORY))

    def watch(self) -> list[tuple[float, str]]:
        """Each screen that differs from the one before, until the command has ended."""
        began = time.monotonic()
        screens: list[tuple[float, str]] = []
        while time.monotonic() - began < LONGEST_S:
            screen = self._tmux("capture-pane", "-p", "-t", self._name).rstrip()
            if not screens or screens[-1][1] != screen:
                screens.append((time.monotonic() - began, screen))
            if ENDED in screen:
                break
            time.sleep(LOOK_EVERY_S)
        whole = self._tmux("capture-pane", "-p", "-J", "-S", "-", "-t", self._name)
        self.lines = whole.splitlines()
        return screens

    def close(self) -> None:
        self._tmux("kill-session", "-t", self._name, check=False)

    @staticmethod
    def _tmux(*arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", *arguments], check=check, capture_output=True, text=True, errors="replace"
        )
        return done.stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What is seen of a command on a terminal.")
    parser.add_argument("--verb", nargs="+", default=["train", "tune"])
    parser.add_argument("--width", nargs="+", type=int, default=[80, 100])
    parser.add_argument("--silence", type=float, default=5.0, help="seconds")
    parser.add_argument("--keep", type=Path, help="folder for what was seen")
    return parser.parse_args()


if __name__ == "__main__":
    main()
