"""`ftray serve MODEL`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, ModelNames, Set, Storage, TrustCode, emit, say, verb
from ftray.errors import FtrayError
from ftray.interrupt import handled_by

if TYPE_CHECKING:
    from ftray.serve.local.place import Place
    from ftray.serve.settings import ServedModel, Service, Settings
    from ftray.spec.sections.serving import ServeSpec

_LOOK_S = 2.0
"""Seconds between two readings of the replicas' reports."""

_SECOND_S = 0.5
"""Seconds after the first signal from which on Ctrl-C counts as the second. A terminal, or whatever
runs the command, may send the first one several times."""

STOPPING = "stopping when the answers in progress have ended; Ctrl-C again stops now"


@verb
def serve(
    models: ModelNames,
    storage: Storage = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 0.0.0.0: all. Else 127.0.0.1, or as Serve on the cluster "
            "does already.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Else 8000, or likewise.", show_default=False),
    ] = None,
    route_prefix: Annotated[
        str, typer.Option(help="Path that all others are below: several share a cluster.")
    ] = "/",
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Else serve.replicas of the model's spec.", show_default=False),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody who reaches the service ask.")
    ] = False,
    overrides: Set = None,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Answer over HTTP until interrupted, on this machine or the cluster at $RAY_ADDRESS."""
    from ftray.serve.local.place import Place
    from ftray.serve.settings import find
    from ftray.spec.load import serving

    place = Place(host, port, route_prefix)
    given: dict[str, Any] = {**serving(overrides or (), say), "model": models, "storage": storage}
    given["trust_remote_code"] = trust_remote_code
    if no_auth:
        given["auth"] = False
    if replicas is not None:
        given["replicas"] = {"min": replicas, "max": replicas}
    served, spec = find(_settings(given, place))
    key = "serve.replicas.min" if replicas is None else "--replicas"
    _answer(served, spec, place, key, as_json)


def _answer(
    served: Sequence[ServedModel], spec: Service, place: Place, key: str, as_json: bool
) -> None:
    """Serve the models until a signal asks to stop. key: the key or option to name where the
    cluster has no room for the replicas."""
    import os

    from ftray.cli.display.live import LiveLine
    from ftray.cluster.capacity import require
    from ftray.cluster.connection import Resources, session
    from ftray.serve.local.ingress import fast_ingress

    here = "RAY_ADDRESS" not in os.environ
    if here:
        _check_this_machine(place, spec)
        _warn_of_precision(spec)
    stdout = sys.stdout
    ingress = fast_ingress() if here else nullcontext()
    with ExitStack() as starts, ingress:
        line = starts.enter_context(LiveLine())
        line.stage("starting Ray" if here else "connecting to the cluster")
        with session(watched=True), _interrupts(line.interject) as stop:
            from ftray.serve.local.server import endpoint

            each = Resources(spec.cpus_per_replica, spec.gpus_per_replica)
            require(max(1, spec.replicas.min), each, key)
            with endpoint(served, spec, place, line, stop) as url:
                starts.close()
                if url is None:
                    return
                _say_where(served, url)
                with redirect_stdout(stdout):
                    _print_url(served, url, as_json)
                _watch(served, stop)


def _settings(given: dict[str, Any], place: Place) -> Settings:
    """Parse the options. Raises ServeError, also where other machines could ask without an API
    key."""
    from ftray.serve.http.door import is_loopback
    from ftray.serve.local.place import HOST
    from ftray.serve.settings import parse, require_auth

    settings = parse({**given, "loopback": is_loopback(place.host or HOST)})
    if not settings.loopback:
        require_auth(settings)
    return settings


def _check_this_machine(place: Place, spec: ServeSpec) -> None:
    """Raise ServeError where the port is taken or the file of API keys is faulty. On a cluster, the
    head node owns both and checks them."""
    from ftray.serve.http.auth import read_keys
    from ftray.serve.local.place import HOST, PORT
    from ftray.serve.local.ports import check_port
    from ftray.store.files.location import locate

    check_port(place.host or HOST, place.port or PORT)
    if spec.api_keys is not None:
        read_keys(locate(spec.api_keys))


def _warn_of_precision(spec: ServeSpec) -> None:
    """Say that a replica will be slow, where this machine's processor has no bf16."""
    if spec.precision != "bf16" or spec.gpus_per_replica:
        return
    import torch

    from ftray.cluster.device import has_bf16

    if not has_bf16(torch.device("cpu")):
        say(
            "serve.precision: bf16 is slow here: the processor has none, and answers about a fifth "
            "of the requests that it answers in fp32"
        )


def _print_url(served: Sequence[ServedModel], url: str, as_json: bool) -> None:
    if as_json:
        several = {"models": [*map(_named, served)]} if len(served) > 1 else {}
        emit({"url": url, **_named(served[0]), **several})
    else:
        print(url, flush=True)


def _say_where(served: Sequence[ServedModel], url: str) -> None:
    for model in served:
        if model.info.kind.generates:
            name = model.name if len(served) == 1 else model.address
            say(f"{model.reference} answers OpenAI's clients at {url}/v1, as {name}")
        elif len(served) == 1:
            say(f"{model.reference} answers at {url}/v1/predict")
        else:
            say(f"{model.reference} answers at {url}/v1/models/{model.address}/predict")
    say("stop with Ctrl-C")


def _named(model: ServedModel) -> dict[str, Any]:
    return {"model": model.name, "version": model.version}


class _Stop:
    """Notes that a signal asked to stop. A second signal may interrupt the handler of the first. So
    this class avoids `threading.Event`: its `set` takes a lock and would then wait for itself for
    ever."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """say: tells the person that the first signal has come."""
        self._say = say
        self._first: float | None = None
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._asked = False
        self.at_once = False
        """Whether a person does not wait for answers in progress: a second Ctrl-C has come."""

    def note(self, number: int, frame: FrameType | None) -> None:
        self._signals.put(None)
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._say(STOPPING)
        elif number == signal.SIGINT and now - self._first > _SECOND_S:
            self.at_once = True

    def is_set(self) -> bool:
        return self._asked or not self._signals.empty()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a signal, at most `seconds`. Return whether one has come, now or before."""
        if not self._asked:
            with suppress(Empty):
                self._signals.get(timeout=seconds)
                self._asked = True
        return self._asked


def _watch(served: Sequence[ServedModel], stop: _Stop) -> None:
    """Report changes of the aliases that replicas follow, until `stop`."""
    from ftray.serve.local.news import News

    news = [News(m.alias, m.version) for m in served if m.alias is not None]
    trouble = ""
    while not stop.wait(_LOOK_S if news else None):
        try:
            for line in (line for each in news for line in each.tell()):
                say(line)
            trouble = ""
        except FtrayError as error:
            if str(error) != trouble:
                say(f"what the replicas do is not known just now: {error}")
            trouble = str(error)


@contextmanager
def _interrupts(say: Callable[[str], None]) -> Iterator[_Stop]:
    """Make SIGINT and SIGTERM ask to stop inside the block, in place of ending the process."""
    stop = _Stop(say)
    with handled_by(stop.note):
        yield stop
