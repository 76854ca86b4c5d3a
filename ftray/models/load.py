"""Loads a model folder as a `Generator` or a `Predictor`, by its task."""

from __future__ import annotations

from ftray.models.artifact.manifest import read_info
from ftray.models.generation.generator import Generator
from ftray.models.inference.loaded import LoadedModel, Unfinished
from ftray.models.inference.predictor import Predictor
from ftray.spec.sections.compute import PLAIN, Compute
from ftray.store.files.location import Location


def load_model(
    folder: Location,
    batch_size: int = 32,
    compute: Compute = PLAIN,
    trust_remote_code: bool = False,
    unfinished: Unfinished | None = None,
) -> LoadedModel:
    """Load a model; arguments as in `LoadedModel`. Raises ModelError when `folder` is not a model
    folder."""
    info = unfinished.info if unfinished else read_info(folder)
    kind = Generator if info.kind.generates else Predictor
    return kind(folder, batch_size, compute, trust_remote_code, unfinished)
