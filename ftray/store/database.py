"""MLflow's database: which one a storage root uses, and how it is opened.

SQLite under a local root, or the tracking server that MLFLOW_TRACKING_URI names. MLflow is imported
when it is first needed (1.3 s), without its log lines, its telemetry and its minutes of retrying.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ftray.errors import RegistryError, shorten, without_passwords
from ftray.store.root import Root

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's own defaults keep a caller of a dead server for minutes, and its telemetry calls home.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def server() -> str | None:
    """The tracking server's address, where there is one."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def tracking_uri(root: Root) -> str:
    """$MLFLOW_TRACKING_URI, else SQLite under a local root. Raises as `require_database`."""
    require_database(root)
    if address := server():
        return address
    from sqlalchemy import URL

    # It quotes what means something else in a URL: percent signs, question marks. Of a URL that
    # begins with sqlite:/// MLflow would make a folder of the quoted name.
    path = root.registry_database.path
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def require_database(root: Root) -> None:
    """Raises RegistryError for a remote root without a server: no database can be kept in an object
    store."""
    if server() or root.location.is_local:
        return
    raise RegistryError.of(
        "MLFLOW_TRACKING_URI",
        None,
        f"not set, and the registry of a remote storage root ({root}) needs an MLflow server",
        "set it to a tracking server, such as http://mlflow:5000, or use a local storage root",
    )


def open_client(root: Root) -> MlflowClient:
    """MLflow's client for `root`; SQLite's tables are made if they are not there.

    Raises RegistryError or StorageError when a database cannot be opened. A server is not asked.
    """
    uri = tracking_uri(root)
    local = server() is None
    if local:
        _check_database(root)
    mlflow_client = import_quietly()
    with translated(uri), exclusive(root):
        client = mlflow_client(uri, uri)
        if local:
            # Both halves make their tables at first use: here, where no other process does.
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client


@contextmanager
def exclusive(root: Root) -> Iterator[None]:
    """One process and thread at a time for what SQLite does not guard: making tables, and
    looking before writing. Does nothing where a server is the database."""
    if server() or not root.location.is_local:
        yield
        return
    try:
        lock = (Path(root.location.path) / ".registry.lock").open("w")
    except OSError:
        yield  # a read-only root, where nobody writes
        return
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Whatever MLflow raises, as a RegistryError that names the server or database."""
    try:
        yield
    except Exception as error:
        # Asked here and not above: Ctrl-C may have come amid the import of MLflow.
        if not isinstance(error, mlflow_errors()):
            raise
        problem, fix = f"cannot be used: {reason(error)}", "check that the server runs"
        if uri.startswith("sqlite"):
            fix = "see that the file can be read and written"
        if "out-of-date database schema" in str(error):
            problem = "was made by another version of MLflow"
            fix = f"keep a copy and run `mlflow db upgrade '{without_passwords(uri)}'`"
        raise RegistryError.of("registry", without_passwords(uri), problem, fix) from None


def reason(error: BaseException) -> str:
    """What went wrong, in a few words: MLflow wraps `Connection refused` in 300 characters."""
    text = without_passwords(str(error))
    if errno := re.search(r"\[Errno -?\d+\] ([^'\")]+)", text):
        return errno[1].strip()
    if "timeout exception" in text or "timed out" in text:
        return "no answer"
    return shorten(text, 200)


def _check_database(root: Root) -> None:
    """Fail fast: MLflow tries for minutes to open a SQLite file that it cannot open."""
    path = Path(root.registry_database.path)
    try:
        if not path.exists():
            root.probe()
            return
        connection = sqlite3.connect(path.as_uri() + "?mode=ro", uri=True, timeout=20)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise RegistryError.of(
            "registry", str(path), f"cannot be opened: {error}", "restore the file, or move it away"
        ) from None


def import_quietly() -> type[MlflowClient]:
    """MLflow's client class, imported now."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        # What they report, with tracebacks, is raised as well and told in one line by ftray.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its database or server is not to be used."""
    import_quietly()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # A proxy in front of the server may answer with something that is no JSON.
    return MlflowException, SQLAlchemyError, OSError, json.JSONDecodeError
