"""Measures the latency of other clients while one client is hostile or the storage hangs.

    python -m tests.bench.serving.hostile [--seconds 15] [--only NAME ...]

Four clients send requests all the time, and the bench compares every answer with the model's own.
`ftray serve` follows an alias of a MiniLM on moto's S3, registered at an MLflow server.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import yaml

from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from tests.bench.common.measure import table
from tests.helpers.external.mlflow_server import MlflowServer
from tests.helpers.external.object_store import KEYS, Fault, ObjectStore
from tests.helpers.serving.hostile import http, requests
from tests.helpers.serving.served import served
from tests.helpers.serving.upgrades import ALIAS, Callers, answers_of
from tests.helpers.training.small_runs import tree

CALLERS, SLOW_SENDERS = 4, 500
MB = 2**20

Act = Callable[[str, threading.Event], None]


def main() -> None:
    options = _options()
    os.environ.pop("RAY_ADDRESS", None)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    os.environ.update(KEYS)
    acts = {
        "nothing": _nothing,
        "a hundred malformed requests, over and over": _malformed,
        f"{SLOW_SENDERS} who send a byte a second": _slow,
        "texts of 4 MB a request": _long_texts,
        "64 long rows a request, and nobody waits for them": _abandoned,
        "bodies of 64 MB": _huge,
        "the storage refuses connections": _during(lambda: store.stopped()),
        "the storage takes requests and says nothing": _during(lambda: store.failing(Fault.SILENT)),
        "nothing again": _nothing,
    }
    chosen = {name: act for name, act in acts.items() if not options.only or name in options.only}
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, ExitStack() as on_exit:
        tracking = MlflowServer(Path(folder))
        tracking.start()
        on_exit.callback(tracking.kill)
        os.environ["MLFLOW_TRACKING_URI"] = tracking.uri
        registry = _trained(Path(folder), store)
        with served(f"small@{ALIAS}", f"--storage={store.url()}") as (url, _):
            callers = Callers(url, answers_of(registry, (1,), "small"))
            with callers.asking(CALLERS):
                time.sleep(5)
                rows = [
                    _row(name, act, url, callers, options.seconds) for name, act in chosen.items()
                ]
    print(table(["meanwhile", "answers/s", "p50 ms", "p99 ms", "longest ms", "not 200"], rows))
    refused = [wrong for wrong in callers.wrong if wrong.startswith(("503", "429"))]
    print(f"{len(callers.seen)} right answers, {len(callers.wrong) - len(refused)} wrong ones")
    for wrong in sorted(set(callers.wrong))[:5]:
        print(f"  {wrong}")


def _trained(folder: Path, store: ObjectStore) -> Registry:
    """Trains only the head of a model, registers it and sets the alias."""
    spec = tree(
        folder,
        storage=store.spec_url(),
        train={"unfreeze": 0, "epochs": 1, "promote": ALIAS},
        scale={"workers": 1},
    )
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "ftray", "train", str(folder / "spec.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    print(json.loads(done.stdout.splitlines()[-1])["model_dir"], file=sys.stderr)
    return Registry(open_root(store.url()))


def _row(name: str, act: Act, url: str, callers: Callers, seconds: float) -> list[str]:
    before, wrong = len(callers.waits), len(callers.wrong)
    over = threading.Event()
    hostile = threading.Thread(target=act, args=(url, over))
    hostile.start()
    time.sleep(seconds)
    waits = 1000 * np.array(callers.waits[before:])
    faults = len(callers.wrong) - wrong
    over.set()
    hostile.join()
    time.sleep(3)
    p50, p99, longest = np.percentile(waits, [50, 99, 100]) if len(waits) else (np.nan,) * 3
    rate = f"{len(waits) / seconds:.0f}"
    print(f"{name}: {rate}/s, p99 {p99:.0f} ms", file=sys.stderr, flush=True)
    return [name, rate, f"{p50:.0f}", f"{p99:.0f}", f"{longest:.0f}", str(faults)]


def _nothing(url: str, over: threading.Event) -> None:
    over.wait()


def _malformed(url: str, over: threading.Event) -> None:
    while not over.is_set():
        for request in requests():
            if not over.is_set():
                _exchange(url, request.content)


def _slow(url: str, over: threading.Event) -> None:
    content = http(b'{"inputs": "a"}')
    with ExitStack() as wires:
        senders = [wires.enter_context(_connected(url)) for _ in range(SLOW_SENDERS)]
        for byte in content:
            for wire in senders:
                with suppress(OSError):  # the server closed the connection
                    wire.send(bytes([byte]))
            if over.wait(1):
                return
        over.wait()


def _long_texts(url: str, over: threading.Event) -> None:
    content = http(json.dumps({"inputs": ["a wonderful film " * 5_800] * 42}).encode())
    while not over.is_set():
        _exchange(url, content)


def _abandoned(url: str, over: threading.Event) -> None:
    content = http(json.dumps({"inputs": ["a long review " * 50] * 64}).encode())
    while not over.wait(0.05):
        with suppress(OSError), _connected(url) as wire:
            wire.sendall(content)


def _huge(url: str, over: threading.Event) -> None:
    content = http(b'{"inputs": "' + b"a" * 64 * MB + b'"}')
    while not over.is_set():
        _exchange(url, content)


def _during(trouble: Callable[[], AbstractContextManager[None]]) -> Act:
    def act(url: str, over: threading.Event) -> None:
        with trouble():
            over.wait()

    return act


def _exchange(url: str, content: bytes) -> None:
    with suppress(OSError), _connected(url) as wire:
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(content)
        wire.recv(65536)


@contextmanager
def _connected(url: str) -> Iterator[socket.socket]:
    found = urlsplit(url)
    assert found.hostname and found.port
    with socket.create_connection((found.hostname, found.port), 20) as wire:
        yield wire


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Others' waits while one is hostile.")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of what happens meanwhile")
    return parser.parse_args()


if __name__ == "__main__":
    main()
