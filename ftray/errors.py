"""The errors that a user sees: one error tree, one shape of message.

Every fault is a `Problem`: the key or file at fault, the value found there, what is wrong with the
value, and a fix. `FtrayError` carries one or more problems. Its constructor arguments are its whole
state, so an FtrayError pickles unchanged and crosses Ray processes intact. `find` unpacks an
FtrayError from the exceptions that Ray wrapped around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_LONGEST = 600
"""Most characters of a problem or a fix: messages of other libraries quote whole files."""
_MOST = 20
"""Most problems of one error that a message shows."""

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Problem:
    """One fault: where (`key`), the value found (`value`), what is wrong, and a fix. URLs in these
    texts have no passwords."""

    key: str
    value: str
    problem: str
    fix: str

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            object.__setattr__(self, name, without_passwords(text))

    def __str__(self) -> str:
        found = f" = {self.value}" if self.value else ""
        return f"{self.key}{found}: {self.problem}. {self.fix}"

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class FtrayError(Exception):
    """A fault that the user can mend. `exit_code`: the command's exit code; `resumable`: whether
    the same command continues a run that ended with this error."""

    exit_code = EXIT_WRONG_INPUT
    resumable = False

    def __init__(self, *problems: Problem) -> None:
        assert problems, "an error without a problem tells the user nothing"
        super().__init__(*problems)
        self.problems = problems

    @classmethod
    def of(cls, key: str, value: object, problem: str, fix: str) -> Self:
        """Make an error with one problem in one line; `value` is shortened, and URLs lose their
        passwords."""
        said = shorten(problem, _LONGEST).rstrip(".")
        shown = (shorten(key), shorten(value), said, _sentence(shorten(fix, _LONGEST)))
        return cls(Problem(*shown))

    def to_json(self) -> dict[str, Any]:
        """Return JSON for `from_json`: unlike a pickle, JSON can smuggle in no code."""
        problems = [problem.to_json() for problem in self.problems]
        return {"kind": type(self).__name__, "problems": problems}

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_MOST]]
        more = len(self.problems) - _MOST
        return "\n".join([*lines, f"and {more} more faults"] if more > 0 else lines)


class SpecError(FtrayError):
    """The YAML file or an override is wrong."""


class DataError(FtrayError):
    """The data set cannot be read or used as the spec says."""


class ModelError(FtrayError):
    """The base model or a model folder cannot be used."""


class NoEstimate(FtrayError):
    """The needs of a run cannot be estimated; that is no sign of a fault in the run."""


class StorageError(FtrayError):
    """The storage root cannot be read or written."""

    resumable = True


class StorageFault(StorageError, OSError):
    """A read or write of the storage failed: an outage, a full disk, no access.

    StorageFault is an OSError too, so that code that handles OSError handles it.
    """

    exit_code = EXIT_FAILED
    transient = False
    """Whether the same request may succeed later without a change by the user."""

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own __reduce__ keeps only two arguments of more.
        return type(self), self.problems, {"transient": self.transient}

    @property
    def strerror(self) -> str:  # type: ignore[override]
        return self.problems[0].problem


class ClusterError(FtrayError):
    """The cluster cannot run the processes that the spec asks for."""

    resumable = True


class RegistryError(FtrayError):
    """A model name, version or alias is not there, or the registry cannot be reached."""

    resumable = True


class ServeError(FtrayError):
    """The endpoint cannot be started as asked."""


class RunFailed(FtrayError):
    """The input was right and the run failed all the same."""

    exit_code = EXIT_FAILED
    resumable = True


class NotTrainable(RunFailed):
    """The model cannot be trained with this spec, for example because the loss diverges: a run
    continued from a checkpoint would end the same way."""

    resumable = False


class RolloutFailed(FtrayError):
    """Replicas that serve an alias do not answer with the version that was promoted to it."""

    exit_code = EXIT_FAILED


class RunTaken(RunFailed):
    """Another process drives the run, so this process may no longer write to the run's folder."""


class Interrupted(FtrayError):
    """The user ended the run, which has saved its progress and can go on."""

    exit_code = EXIT_INTERRUPTED
    resumable = True


def shorten(value: object, limit: int = 120) -> str:
    """Write `value` in one line, as the user would write it, in at most `limit` characters; escape
    the characters that a terminal would not print."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _written(value)
    text = " ".join(text[: _READ * limit].split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_READ = 8
"""Characters read for each character shown: spaces are dropped, and megabytes may follow."""


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def without_passwords(text: str) -> str:
    """Replace scheme://user:password@host in `text` by scheme://host."""
    return re.sub(r"://[^@/\s:]*:[^@/\s]*@", "://", text)


def from_json(content: Mapping[str, Any]) -> FtrayError:
    """Make the error that `FtrayError.to_json` wrote, perhaps in another process."""
    kinds = {kind.__name__: kind for kind in _kinds(FtrayError)}
    return kinds[content["kind"]](*(Problem(**problem) for problem in content["problems"]))


def _kinds(kind: type[FtrayError]) -> Iterator[type[FtrayError]]:
    yield kind
    for lower in kind.__subclasses__():
        yield from _kinds(lower)


def masked(tree: Any) -> Any:
    """Apply `without_passwords` to every text in the JSON tree `tree`, before it is kept or
    shown."""
    if isinstance(tree, str):
        return without_passwords(tree)
    if isinstance(tree, Mapping):
        return {key: masked(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [masked(value) for value in tree]
    return tree


def find(error: BaseException) -> FtrayError | None:
    """Find the FtrayError that `error` is, was raised from, or holds wrapped by Ray; None without
    one."""
    seen: set[int] = set()
    for candidate in _wrapped(error, seen):
        # Ray raises a copy that is an FtrayError too but has a traceback as its text. The copy's
        # `cause` is the original.
        if isinstance(candidate, FtrayError) and not hasattr(candidate, "cause"):
            return candidate
    return None


def resumable(error: BaseException) -> bool:
    """Return whether the same command continues a run that ended with `error`: it does, unless the
    input or the training itself is at fault."""
    known = find(error)
    return True if known is None else known.resumable


def _wrapped(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    inner: list[object] = [error.__cause__, error.__context__]
    # RayTaskError and Ray Train's ControllerError keep one exception.
    inner.extend(getattr(error, name, None) for name in ("cause", "controller_failure"))
    # Ray Train's WorkerGroupError keeps one exception a rank.
    inner.extend(getattr(error, "worker_failures", {}).values())
    for item in inner:
        if isinstance(item, BaseException):
            yield from _wrapped(item, seen)


def _sentence(fix: str) -> str:
    fix = fix[:1].upper() + fix[1:]
    return fix if fix.endswith((".", "?", ")")) else fix + "."
