"""A service that is deployed before the model that it is to serve."""

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
    """As `find`, as soon as the registry answers and has every model, version and alias that
    `settings` name. The log says now and then what is waited for.

    Raises as `find` what waiting does not mend.
    """
    for reference in settings.model:
        check_reference(reference)
    Registry.open(open_root(settings.storage))  # raises where no registry can be
    said = -_SAY_EVERY_S
    while True:
        try:
            return find(settings)
        except (RegistryError, StorageFault) as error:
            if time.monotonic() - said >= _SAY_EVERY_S:
                _log.warning("waiting for the model: %s", error)
                said = time.monotonic()
        sleep(_EVERY_S)
