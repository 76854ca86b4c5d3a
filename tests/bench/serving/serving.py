"""Measures requests per second and latency of a served model against other servers.

    python -m tests.bench.serving.serving [--clients 1 8 64] [--seconds 4] [--turns 5]
        [--precision bf16]
        [--infinity BIN/infinity_emb] [--against CHECKOUT] [--out F.json]

The others are LitServe, Infinity, a FastAPI application around a `pipeline`, and the bare forward
pass. Needs `wrk`, and installs LitServe for itself. Infinity, from another environment, takes part
if its command is given, and so does the ftray of another checkout.

All contenders answer the same reviews with the same MiniLM in the same precision, unless their name
says otherwise, with one thread for the model; client and server share the machine. The load goes to
one server at a time, in turns of a few seconds, while the other servers are stopped. A machine's
speed may change from minute to minute, so each ratio is taken between neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ftray.spec.load import dump, override
from tests.bench.common.contest import SCRIPTS, Result, Stage, stage
from tests.bench.common.measure import Sample, table
from tests.bench.common.wrk import check_wrk, load

LITSERVE = "litserve==0.2.19"
BATCH = 32
TEXTS = 512
START_SECONDS = 120.0
SETTLE_SECONDS = 6.0


@dataclass(frozen=True)
class Contender:
    """A server to measure.

    command: arguments with the placeholders MODEL, PORT and PRECISION; path and key: URL path and
    JSON field for the text; more: other fields of the body; has_peers: whether the server needs the
    packages installed for the benchmark alone; program: the executable, this Python by default.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/predict"
    key: str = "text"
    environment: tuple[tuple[str, str], ...] = ()
    more: tuple[tuple[str, Any], ...] = ()
    has_peers: bool = False
    program: str = sys.executable
    takes_lists: bool = False

    def body(self, text: str) -> dict[str, Any]:
        return {self.key: [text] if self.takes_lists else text, **dict(self.more)}


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def halt(self) -> None:
        """Stops all processes of the server (SIGSTOP)."""
        self._tell(signal.SIGSTOP)

    def go_on(self) -> None:
        self._tell(signal.SIGCONT)

    @contextmanager
    def awake(self) -> Iterator[str]:
        """Lets the server run inside the block. Yields its URL."""
        self.go_on()
        try:
            yield self.url
        finally:
            self.halt()

    def _tell(self, sign: signal.Signals) -> None:
        server = psutil.Process(self.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sign)


_FTRAY = ("-m", "ftray", "serve", "MODEL", "--port", "PORT")
FTRAY = Contender("ftray", _FTRAY, "/v1/predict", "inputs")
INT8 = Contender(
    "ftray, int8 in ONNX",
    (*_FTRAY, "--set", "serve.backend=onnx", "--set", "serve.precision=int8"),
    "/v1/predict",
    "inputs",
)
OWN_PROXY = Contender(
    "ftray, Ray's own proxy",
    _FTRAY,
    "/v1/predict",
    "inputs",
    (("RAY_SERVE_ENABLE_HA_PROXY", "0"),),
)
_SCRIPT = ("MODEL", "PORT", "PRECISION")
LIT = Contender("LitServe", (str(SCRIPTS / "serve_litserve.py"), *_SCRIPT), has_peers=True)
FASTAPI = Contender("FastAPI + pipeline", (str(SCRIPTS / "serve_fastapi.py"), *_SCRIPT))
BARE, AGAINST = "bare forward", "ftray (against)"


def infinity(program: str) -> Contender:
    """The command line of Infinity, which takes the model's name from its folder."""
    options = ("--engine", "torch", "--device", "cpu", "--dtype", "PRECISION", "--no-model-warmup")
    served = ("--served-model-name", "m", "--batch-size", str(BATCH), "--no-bettertransformer")
    where = ("--host", "127.0.0.1", "--port", "PORT")
    command = ("v2", "--model-id", "MODEL", *options, *served, *where)
    more = (("model", "m"),)
    environment = (("DO_NOT_TRACK", "1"),)
    return Contender(
        "Infinity", command, "/classify", "input", environment, more, False, program, True
    )


def contenders(options: argparse.Namespace) -> list[Contender]:
    found = [FTRAY, INT8, OWN_PROXY, LIT, FASTAPI]
    if options.against:
        found.append(replace(FTRAY, name=AGAINST, environment=checkout(options.against)))
    if options.infinity:
        found.append(infinity(options.infinity))
    return [each for each in found if not options.only or each.name in options.only]


def checkout(root: str) -> tuple[tuple[str, str], ...]:
    """The environment in which the ftray of another checkout runs."""
    return (("PYTHONPATH", str(Path(root).resolve())),)


def main() -> None:
    options = _options()
    check_wrk()
    os.environ.pop("RAY_ADDRESS", None)
    asking = contenders(options)
    results: list[Result] = []
    with stage(600, 1, held_out=TEXTS) as here:
        # Services ask their model for its golden answers again and again: all of them, or none.
        golden = "off" if options.against else "rows"
        model = trained(here, {"serve.precision": options.precision, "export.golden": golden})
        peers = here.folder / "peers"
        run_python("-m", "pip", "install", "--quiet", "--target", str(peers), LITSERVE)
        texts = _texts(here, TEXTS)
        texts_file = str(here.folder / "texts")
        folders = dict.fromkeys(asking, model)
        known = {"precision": options.precision, "batch": {"max_size": BATCH}}
        folders.update({c: for_another(model, known) for c in asking if c.name == AGAINST})
        with ExitStack() as all_of_them:
            servers: dict[Contender, Server] = {}
            for contender in asking:
                server = running(
                    contender, folders[contender], peers, here.folder, options.precision
                )
                servers[contender] = all_of_them.enter_context(server)
                # Halting a server that still starts would let its startup deadlines expire.
                time.sleep(SETTLE_SECONDS)
                servers[contender].halt()
            for turn in range(options.turns):
                script = str(SCRIPTS / "serve_bare.py")
                bare = run_python(script, model, texts_file, options.precision)
                results.append({"turn": turn, "contender": BARE, **json.loads(bare)})
                for clients in options.clients:
                    for contender in asking[:: 1 if turn % 2 == 0 else -1]:
                        asked = [(contender.path, contender.body(text)) for text in texts]
                        with servers[contender].awake() as url:
                            found = load(url, asked, here.folder, clients, options.seconds)
                        if found["errors"]:
                            raise SystemExit(f"{contender.name}: {found['errors']} failed")
                        results.append({"turn": turn, "contender": contender.name, **found})
                        _say(results[-1])
    print(report(results, [c.name for c in asking], options.clients), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2))


def trained(here: Stage, more: Mapping[str, Any] | None = None) -> str:
    """Trains a model and returns its folder.

    By default only the head is trained, because the answers do not matter here. more: changes to
    the spec.
    """
    changes = {
        "train.unfreeze": 0,
        "train.epochs": 1,
        "train.baselines": False,
        "scale.workers": 1,
        "serve.precision": "bf16",
        "serve.batch.max_size": BATCH,
        **(more or {}),
    }
    spec = here.folder / "spec.yaml"
    spec.write_text(dump(override(here.spec, changes)))
    folder: str = json.loads(run_python("-m", "ftray", "train", str(spec), "--json"))["model_dir"]
    return folder


def for_another(model: str, serve: Mapping[str, Any]) -> str:
    """Copies the model with these serve settings, no golden answers and the shortest spec:
    another ftray may not know the other keys."""
    folder = f"{model}-against"
    shutil.copytree(model, folder)
    manifest = json.loads((Path(folder) / "ftray.json").read_text())
    name, base, data = (manifest["spec"][key] for key in ("name", "model", "data"))
    manifest["golden"] = []
    manifest["spec"] = {
        "name": name,
        "model": {"name_or_path": base["name_or_path"]},
        "data": {key: data[key] for key in ("train", "max_length")},
        "serve": serve,
    }
    (Path(folder) / "ftray.json").write_text(json.dumps(manifest))
    return folder


def run_python(*command: str) -> str:
    """The last line that a Python command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.decode()[-4000:]}")
    return (done.stdout.decode().splitlines() or [""])[-1]


def _texts(here: Stage, count: int) -> list[str]:
    """Reviews from the test split, also written as JSON lines to the file `texts`."""
    lines = Path(str(here.spec.data.test)).read_text(encoding="utf-8").splitlines()[:count]
    texts = [json.loads(line)["text"] for line in lines]
    (here.folder / "texts").write_text("".join(json.dumps(text) + "\n" for text in texts))
    return texts


@contextmanager
def running(
    contender: Contender, model: str, peers: Path, folder: Path, precision: str = "fp32"
) -> Iterator[Server]:
    """Starts the contender's server and yields it once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MODEL": model, "PORT": port, "PRECISION": precision}
    if contender.program != sys.executable:
        places["PRECISION"] = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    environment = {
        **os.environ,
        **dict(contender.environment),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **({"PYTHONPATH": str(peers)} if contender.has_peers else {}),
    }
    told = folder / f"{contender.name}.log"
    with told.open("w") as log:
        server = subprocess.Popen(
            [contender.program, *(places.get(word, word) for word in contender.command)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await(contender, url, server, told)
            yield Server(url, server.pid)
        finally:
            if server.poll() is None:
                Server(url, server.pid).go_on()
                server.send_signal(signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _await(contender: Contender, url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    body = json.dumps(contender.body("a film")).encode()
    headers = {"content-type": "application/json"}
    while server.poll() is None and time.monotonic() < end:
        try:
            request = urllib.request.Request(url + contender.path, body, headers)
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"{contender.name} does not answer:\n{log.read_text()[-4000:]}")


def report(results: Sequence[Result], names: Sequence[str], clients: Sequence[int]) -> str:
    """A table of requests per second and latency in ms by contender and number of clients.

    The figures are medians over the turns. The lines below the table give ratios, turn by turn.
    """

    def sample(name: str, count: int, key: str) -> Sample:
        found = [r for r in results if r["contender"] == name and r["clients"] == count]
        return Sample(tuple(r[key] for r in found))

    def bare(key: str) -> Sample:
        return Sample(tuple(r[key] for r in results if r["contender"] == BARE))

    rows = []
    for count in clients:
        for name in names:
            rate = sample(name, count, "rate")
            times = [f"{sample(name, count, key).median:.1f}" for key in ("p50", "p95", "p99")]
            ratio = sample(FTRAY.name, count, "rate").over(rate) if FTRAY.name in names else rate
            over = "" if name == FTRAY.name else ratio.median_and_range(2)
            rows.append([str(count), name, rate.median_and_range(0), *times, over])
    header = ["clients", "", "requests/s", "p50 ms", "p95 ms", "p99 ms", "ftray over it"]
    lines = [table(header, rows), "", "bare forward, rows/s: "]
    kinds = {"single": "one by one", "batched": f"batches of {BATCH}", "sorted": "of like length"}
    lines[-1] += ", ".join(f"{text} {bare(k).median_and_range(0)}" for k, text in kinds.items())
    if FTRAY.name in names:
        most = sample(FTRAY.name, max(clients), "rate").over(bare("batched"))
        lines.append(
            f"ftray at {max(clients)} clients over the batches: {most.median_and_range(2)}"
        )
        if 1 in clients:
            alone = [1000 / rate for rate in bare("single").values]
            p50 = sample(FTRAY.name, 1, "p50").values
            more = Sample(tuple(a - b for a, b in zip(p50, alone, strict=True)))
            lines.append(f"ftray's p50 for one client, beyond the forward: {more.median:.1f} ms")
    return "\n".join(lines)


def _say(result: Result) -> None:
    line = f"{result['contender']}, {result['clients']}: {result['rate']:.0f}/s"
    print(f"{line}, p50 {result['p50']:.1f} ms", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serving, side by side.")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--infinity", metavar="PROGRAM", help="Infinity's command, `infinity_emb`")
    parser.add_argument("--against", metavar="CHECKOUT", help="the root of another checkout")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the contenders")
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
