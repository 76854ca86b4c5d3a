"""MLflow's database: chooses it for a storage root, and opens it.

The database is SQLite under a local root, or the tracking server that MLFLOW_TRACKING_URI names.
MLflow is imported when first needed (1.3 s), without its log lines, its telemetry and its minutes
of retries.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftray.errors import RegistryError, shorten, without_passwords
from ftray.store.files.document import lock
from ftray.store.root import Root

if TYPE_CHECKING:
    from mlflow import MlflowClient

# With MLflow's own defaults, a dead server keeps a caller waiting for minutes, and telemetry is on.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def server() -> str | None:
    """Return the address of the tracking server; None where none is set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def tracking_uri(root: Root) -> str:
    """$MLFLOW_TRACKING_URI, else SQLite under a local root. Raises as `require_database`."""
    require_database(root)
    if address := server():
        return address
    from sqlalchemy import URL

    # The URL class quotes characters that are special in URLs: percent signs, question marks. From
    # a URL that begins with sqlite:/// MLflow would make a folder of the quoted name.
    path = root.registry_database.path
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def require_database(root: Root) -> None:
    """Raise RegistryError for a remote root without a server: an object store can hold no
    database."""
    if server() or root.location.is_local:
        return
    raise RegistryError.of(
        "MLFLOW_TRACKING_URI",
        None,
        f"not set, and the registry of a remote storage root ({root}) needs an MLflow server",
        "set it to a tracking server, such as http://mlflow:5000, or use a local storage root",
    )


def open_client(root: Root) -> MlflowClient:
    """Open MLflow's client for `root`; make SQLite's tables where they are missing.

    Raises RegistryError or StorageError when a database cannot be opened. Does not contact a
    server.
    """
    uri = tracking_uri(root)
    local = server() is None
    if local:
        _check_database(root)
    mlflow_client = import_quietly()
    with translated(uri), exclusive(root):
        client = mlflow_client(uri, uri)
        if local:
            # The two halves of MLflow make their tables at first use: here, under the exclusive
            # lock.
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client


@contextmanager
def exclusive(root: Root) -> Iterator[None]:
    """Admit one process and thread at a time to steps that SQLite does not guard: making tables,
    and looking before writing. Does nothing where a server is the database."""
    if server() or not root.location.is_local:
        yield
        return
    try:
        held = lock(Path(root.location.path) / ".registry.lock")
    except OSError:
        yield  # a read-only root: no process writes there
        return
    with held:
        yield


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Translate the errors of MLflow into a RegistryError that names the server or database."""
    try:
        yield
    except Exception as error:
        # This check imports MLflow, so it stands here: Ctrl-C may have come amid an earlier import.
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
    """Name the reason in a few words: MLflow wraps `Connection refused` in 300 characters."""
    text = without_passwords(str(error))
    if errno := re.search(r"\[Errno -?\d+\] ([^'\")]+)", text):
        return errno[1].strip()
    if "timeout exception" in text or "timed out" in text:
        return "no answer"
    return shorten(text, 200)


def _check_database(root: Root) -> None:
    """Fail fast: MLflow retries for minutes to open a SQLite file that it cannot open."""
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
    """Import MLflow now, with its log lines silenced, and return its client class."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        # MLflow also raises the errors that it logs with tracebacks; ftray reports each in one
        # line.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def mlflow_errors() -> tuple[type[Exception], ...]:
    """Return the classes that MLflow raises when its database or server cannot be used."""
    import_quietly()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # A proxy in front of the server may answer with text that is no JSON.
    return MlflowException, SQLAlchemyError, OSError, json.JSONDecodeError
