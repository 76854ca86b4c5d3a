"""A model folder opened by what its task makes of it."""

from __future__ import annotations

from ftray.models.folder import read_info
from ftray.models.generator import Generator
from ftray.models.loaded import LoadedModel
from ftray.models.predictor import Predictor
from ftray.spec.compute import PLAIN, Compute
from ftray.store.location import Location
from ftray.tasks import get_task


def load_model(
    folder: Location,
    batch_size: int = 32,
    compute: Compute = PLAIN,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """As `LoadedModel`. Raises ModelError when `folder` is not a model folder."""
    labelled = get_task(read_info(folder).task).has_labels
    kind = Predictor if labelled else Generator
    return kind(folder, batch_size, compute, trust_remote_code)
