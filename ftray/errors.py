"""What the user is told when something is wrong: one error tree, one message shape.

Every fault is a `Problem`: the key or file it is about, the value found there, what is wrong with
it and what would do. `FtrayError` carries one or more. Its constructor arguments are its state, so
it pickles as it is and crosses Ray processes intact; `find` digs it out of whatever Ray wrapped
around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_LONGEST = 600
"""Characters of a problem or a fix: third parties' messages quote whole files."""
_MOST = 20
"""Problems of one error that are shown."""

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Problem:
    """One fault: where (`key`), what was found (`value`), what is wrong, what would do; URLs in it
    are without their passwords."""

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
    """A fault that the user can mend. `exit_code` is what the command line exits with;
    `resumable`: whether a run that ends with it goes on by the same command."""

    exit_code = EXIT_WRONG_INPUT
    resumable = False

    def __init__(self, *problems: Problem) -> None:
        assert problems, "an error without a problem tells the user nothing"
        super().__init__(*problems)
        self.problems = problems

    @classmethod
    def of(cls, key: str, value: object, problem: str, fix: str) -> Self:
        """An error with one problem in one line; `value` is shown shortened, URLs without their
        passwords."""
        said = shorten(problem, _LONGEST).rstrip(".")
        shown = (shorten(key), shorten(value), said, _sentence(shorten(fix, _LONGEST)))
        return cls(Problem(*shown))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: no code can be put into it, as it could into a pickle."""
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
    """What a run needs cannot be foreseen; nothing is known to be wrong with it."""


class StorageError(FtrayError):
    """The storage root cannot be read or written."""

    resumable = True


class StorageFault(StorageError, OSError):
    """A read or write of the storage failed: an outage, a full disk, no access.

    It is an OSError too, so that who handles those handles it.
    """

    exit_code = EXIT_FAILED
    transient = False
    """Whether the same may succeed later with nothing changed by the user."""

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own keeps two arguments of more.
        return type(self), self.problems, {"transient": self.transient}

    @property
    def strerror(self) -> str:  # type: ignore[override]
        return self.problems[0].problem


class ClusterError(FtrayError):
    """The cluster cannot run what is asked of it."""

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
    """What was asked cannot be learnt so, as with a loss that diverges: to go on from a checkpoint
    would end the same way."""

    resumable = False


class RolloutFailed(FtrayError):
    """Replicas that serve an alias do not answer with the version that was promoted to it."""

    exit_code = EXIT_FAILED


class RunTaken(RunFailed):
    """Another process drives the run: this one may not write to it any more."""


class Interrupted(FtrayError):
    """The run was asked to end, has saved where it stands, and can go on."""

    exit_code = EXIT_INTERRUPTED
    resumable = True


def shorten(value: object, limit: int = 120) -> str:
    """`value` in one line, as the user would write it, at most `limit` characters; what a terminal
    would not print is escaped."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _written(value)
    text = " ".join(text[: _READ * limit].split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_READ = 8
"""Characters that are looked at for each that is shown: spaces go, and megabytes may follow."""


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def without_passwords(text: str) -> str:
    """`text` with scheme://host in place of scheme://user:password@host."""
    return re.sub(r"://[^@/\s:]*:[^@/\s]*@", "://", text)


def from_json(content: Mapping[str, Any]) -> FtrayError:
    """The error that `FtrayError.to_json` wrote, perhaps in another process."""
    kinds = {kind.__name__: kind for kind in _kinds(FtrayError)}
    return kinds[content["kind"]](*(Problem(**problem) for problem in content["problems"]))


def _kinds(kind: type[FtrayError]) -> Iterator[type[FtrayError]]:
    yield kind
    for lower in kind.__subclasses__():
        yield from _kinds(lower)


def masked(tree: Any) -> Any:
    """`tree` of JSON with every text in it `without_passwords`: as it is kept and shown."""
    if isinstance(tree, str):
        return without_passwords(tree)
    if isinstance(tree, Mapping):
        return {key: masked(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [masked(value) for value in tree]
    return tree


def find(error: BaseException) -> FtrayError | None:
    """The FtrayError that `error` is, was raised from, or was wrapped around by Ray; else None."""
    seen: set[int] = set()
    for candidate in _wrapped(error, seen):
        # Ray raises a copy that is an FtrayError too and says its traceback: its cause is meant.
        if isinstance(candidate, FtrayError) and not hasattr(candidate, "cause"):
            return candidate
    return None


def resumable(error: BaseException) -> bool:
    """Whether a run that ended with `error` goes on by the same command: it does, unless the input
    or the training itself is at fault."""
    known = find(error)
    return True if known is None else known.resumable


def _wrapped(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    inner: list[object] = [error.__cause__, error.__context__]
    # RayTaskError and Ray Train's ControllerError keep one.
    inner.extend(getattr(error, name, None) for name in ("cause", "controller_failure"))
    # Ray Train's WorkerGroupError keeps one exception a rank.
    inner.extend(getattr(error, "worker_failures", {}).values())
    for item in inner:
        if isinstance(item, BaseException):
            yield from _wrapped(item, seen)


def _sentence(fix: str) -> str:
    fix = fix[:1].upper() + fix[1:]
    return fix if fix.endswith((".", "?", ")")) else fix + "."
