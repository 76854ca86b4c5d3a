"""Keeps a replica at the versions to which its alias points.

A version answers at a replica once the replica has reproduced the version's golden answers and has
marked the version as proven in the route, which every replica reads. Where this write fails, the
replica goes by the route that it read before. Where the golden answers do not come out, the replica
refuses the version for all replicas: the route goes back to the last proven version. If another
replica has proven the refused version by then, the route stays. Then this replica alone is at
fault: it reports the refusal, and tries again later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from ftray.errors import FtrayError, ModelError
from ftray.serve.models.alias import Alias
from ftray.serve.models.backoff import Backoff
from ftray.serve.models.canary import verdict
from ftray.serve.models.live import Live
from ftray.serve.models.reporter import Reporter
from ftray.serve.models.versions import CountShadow, VersionRouter
from ftray.serve.ops.log import logger
from ftray.store.deployments.reports import Counts, TrialCounts
from ftray.store.deployments.routes import AliasDeployment, Refusal, VersionRef

_EVERY_S = 2.0
_log = logger(__name__)

Load = Callable[[VersionRef], Live]
"""Loads a version. Raises ModelError when the version does not reproduce its golden answers."""


class Watcher:
    """Follows one alias. The constructor loads the versions to which the alias points. One thread
    at a time calls `poll`."""

    def __init__(
        self, alias: Alias, load: Load, reporter: Reporter, count_shadow: CountShadow
    ) -> None:
        """Raises as `load` where neither the alias's current version nor the last proven version
        reproduces its golden answers."""
        self._alias, self._load, self._reporter = alias, load, reporter
        self._refusal: Refusal | None = None
        self._failed = Backoff()
        self._judged: TrialCounts | None = None
        route, first = self._begin(alias.route())
        self._since = route.since
        self.shelf = VersionRouter(first, count_shadow)
        self._try(route)
        self._report()

    def follow(self) -> None:
        """Poll and report in threads, until the version router is closed."""
        # The reporting thread refers to no model: while it waits for the storage, models can go.
        report = partial(self._reporter.keep_on, self.shelf.over)
        for work in (self._keep_polling, report):
            threading.Thread(target=work, name="ftray-alias", daemon=True).start()

    def poll(self) -> None:
        """Read the route, load and switch to its versions, judge the trial, and report the versions
        held. Raises as `Alias`."""
        route = self._alias.route()
        self._failed.forget_but((route.since, route.current), route.trial and route.trial.id)
        self._advance(route)
        self._try(route)
        self._judge()
        self._report()

    def _keep_polling(self) -> None:
        while not self.shelf.over.wait(_EVERY_S):
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - a replica must not stop following its alias
                # For example, the storage does not answer: the versions stay, and the next poll
                # asks the storage again.
                _log.exception("the alias cannot be followed just now")

    def _begin(self, route: AliasDeployment) -> tuple[AliasDeployment, Live]:
        while True:
            try:
                model = self._load(route.current)
            except ModelError as error:
                now = self._refuse(route, error)
                if now.current == route.current:
                    raise
                route = now
                continue
            now = self._prove(route)
            if now.current == route.current:
                return now, model
            model.close()
            route = now

    def _advance(self, route: AliasDeployment) -> None:
        stop, old = route.current, self.shelf.current
        if stop.version == old.version:
            if route.proven != stop:
                self._prove(route)
            self._since = route.since
            return
        if self._failed.left_s((route.since, stop)):
            return
        model = self._loaded(route, stop)
        if model is None:
            return
        if self._prove(route).current != stop:
            if self.shelf.on_trial(stop.version) is not model:
                model.close()
            return
        self.shelf.advance(model)
        self._since = route.since
        if self._refusal is not None and self._refusal.since == route.since:
            self._refusal = None
        _log.warning("version %s answers in place of %s", stop.version, old.version)

    def _loaded(self, route: AliasDeployment, stop: VersionRef) -> Live | None:
        if (tried := self.shelf.on_trial(stop.version)) is not None:
            return tried
        try:
            return self._load(stop)
        except ModelError as error:
            self._refuse(route, error)
        except Exception as error:  # noqa: BLE001 - an outage, or no memory for two versions
            self._remember(route.current, route.since, error)
        self._failed.again((route.since, stop))
        return None

    def _prove(self, route: AliasDeployment) -> AliasDeployment:
        """Mark the current version as proven in the route: its golden answers came out. Return the
        route after the change."""
        return self._written(route, lambda: self._alias.proved(route.current))

    def _refuse(self, route: AliasDeployment, error: ModelError) -> AliasDeployment:
        refusal = self._remember(route.current, route.since, error)
        return self._written(route, lambda: self._alias.refused(refusal))

    def _remember(self, stop: VersionRef, since: int, error: Exception, trial: str = "") -> Refusal:
        why = str(error) or repr(error)
        self._refusal = Refusal(stop=stop, since=since, why=why, trial=trial)
        _log.error("version %s does not answer: %s", stop.version, self._refusal.why)
        return self._refusal

    def _written(
        self, seen: AliasDeployment, change: Callable[[], AliasDeployment]
    ) -> AliasDeployment:
        """Write a change of the route and return the changed route. Where the write fails, log the
        failure and return `seen`, the route as this replica read it."""
        try:
            return change()
        except (FtrayError, OSError) as error:
            _log.warning("the other replicas are not told: %s", error)
            return seen

    def _try(self, route: AliasDeployment) -> None:
        trial, held = route.trial, self.shelf.trial
        if trial is not None and trial.same(held):
            return
        self.shelf.end_trial()
        if trial is None or trial.stop.version == self.shelf.current.version:
            return
        if self._failed.left_s(trial.id):
            return
        try:
            model = self._load(trial.stop)
        except Exception as error:  # noqa: BLE001 - the fault of the version or of this replica
            self._failed.again(trial.id)
            why = self._remember(trial.stop, route.since, error, trial.id).why
            if isinstance(error, ModelError) and not trial.proven:
                self._written(route, lambda: self._alias.trial_ended(trial, why))
            return
        if trial.same(self._written(route, lambda: self._alias.trial_proven(trial)).trial):
            self.shelf.try_out(trial, model)
        else:
            model.close()

    def _judge(self) -> None:
        """End the trial where the counts of all replicas give a reason. Do nothing while this
        replica's counts are the same as at the last call."""
        trial, own = self.shelf.trial, self.shelf.counts
        if trial is None or own is None or own == self._judged:
            return
        self._judged = own
        others = [r.trial for r in self._alias.reports() if r.replica != self._reporter.replica]
        counts = [own, *(c for c in others if c is not None and c.id == own.id)]
        why = verdict(
            sum((c.current for c in counts), Counts()), sum((c.tried for c in counts), Counts())
        )
        if why:
            _log.error("the trial of version %s ends: %s", trial.stop.version, why)
            self._failed.again(trial.id)
            self.shelf.end_trial()
            self._alias.trial_ended(trial, why)

    def _report(self) -> None:
        version = self.shelf.current.version
        assert version is not None, "what an alias means has a number"
        self._reporter.tell(version, self._since, self._refusal, self.shelf.counts)
