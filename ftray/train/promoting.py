"""Gives a newly trained model the alias that its spec names, unless the model does worse."""

from __future__ import annotations

from collections.abc import Callable

from ftray.models.artifact.manifest import ModelInfo
from ftray.store.deployments.promotion import find_route, promote
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion
from ftray.train.evaluation.older_versions import rival_of


def promote_unless_worse(
    registry: Registry,
    version: ModelVersion,
    info: ModelInfo,
    alias: str,
    say: Callable[[str], None],
) -> bool:
    """Point `alias` to `version`, unless the current version under the alias does better.

    Both versions are compared by the metric that picks checkpoints, on the same validation rows.
    `say` receives the decision and its reason. Returns whether `version` has the alias now. Raises
    RegistryError.
    """
    name = f"{version.name}@{alias}"
    route = find_route(registry, version.name, alias)
    known = [] if route is None else registry.versions(version.name)
    held = [each for each in known if route and each.version == route.current.version]
    rival = rival_of(info, held[0]) if held else None
    if rival is not None and rival.on_same_rows and rival.lead > 0:
        say(
            f"{name} stays version {rival.version.version}, which does better on the same "
            f"validation rows: {rival.figures} of version {version.version}. `ftray models promote "
            f"{version.reference} --alias {alias}` promotes it all the same"
        )
        return False
    promote(registry, version.reference, alias)
    before = ""
    if held and held[0].version != version.version:
        before = f", in place of version {held[0].version}"
        if rival is None or not rival.on_same_rows:
            before += ", which nothing measured on the same validation rows"
    say(f"{name} is version {version.version}{before}")
    return True
