"""Waits for the model of a service that is deployed before its model is registered."""

from __future__ import annotations

import time
from collections.abc import Callable

from ftray.errors import RegistryError, StorageFault
from ftray.serve.ops.log import logger
from ftray.serve.settings import ServedModel, Service, Settings, find
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import check_reference
from ftray.store.root import open_root

_EVERY_S = 5.0
_SAY_EVERY_S = 60.0
_log = logger(__name__)


def find_once_there(
    settings: Settings, sleep: Callable[[float], None] = time.sleep
) -> tuple[tuple[ServedModel, ...], Service]:
    """Do as `find`, once the registry answers and has every model, version and alias in `settings`.
    Meanwhile, log once a minute what is missing.

    Raises as `find` where waiting does not help.
    """
    for reference in settings.model:
        check_reference(reference)
    Registry(open_root(settings.storage))  # raises where there can be no registry
    said = -_SAY_EVERY_S
    while True:
        try:
            return find(settings)
        except (RegistryError, StorageFault) as error:
            if time.monotonic() - said >= _SAY_EVERY_S:
                _log.warning("waiting for the model: %s", error)
                said = time.monotonic()
        sleep(_EVERY_S)
