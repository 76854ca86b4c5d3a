"""Tells the operator of a service when the replicas change the version with which they answer."""

from __future__ import annotations

from ftray.serve.models.alias import Alias
from ftray.store.deployments.routes import AliasDeployment


class News:
    """Reports each change of one alias once."""

    def __init__(self, alias: Alias, version: int | None) -> None:
        """version: the version with which the replicas began."""
        self._alias = alias
        self._answering = version
        self._known: dict[object, str] | None = None

    def tell(self) -> list[str]:
        """Return one line for each change since the last call. Raises RegistryError for a file that
        is no route or report, and StorageError for a storage that does not answer."""
        lines, route = [], self._alias.route()
        living = (report for report in self._alias.reports() if report.alive() is not False)
        versions = {report.version for report in living}
        if len(versions) == 1 and versions != {self._answering}:
            (now,) = versions
            lines.append(f"version {now} takes over from version {self._answering}")
            self._answering = now
        found = _outcomes(route)
        known, self._known = found if self._known is None else self._known, found
        lines += [line for key, line in found.items() if key not in known]
        return [f"{self._alias.name}@{self._alias.alias}: {line}" for line in lines]


def _outcomes(route: AliasDeployment) -> dict[object, str]:
    """Describe the refused version, and the trial that runs or ran last, one line each."""
    found: dict[object, str] = {}
    if (refused := route.refused) is not None:
        key = "refused", refused.since, refused.trial
        found[key] = f"version {refused.stop.version} is refused: {refused.why}"
    if (trial := route.trial) is not None:
        what = f"{'copies of ' if trial.shadow else ''}{trial.share:.0%} of the requests"
        found[trial.id] = f"version {trial.stop.version} is on trial, with {what}"
    if route.ended:
        found[route.ended] = route.ended
    return found
