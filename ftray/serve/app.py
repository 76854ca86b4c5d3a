"""The Serve application: what `ftray serve` runs, and what `serve deploy` and RayService build."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve import Application, deployment

from ftray.serve.replica import Replica
from ftray.serve.settings import ServedModel, find, parse
from ftray.spec.schema import ServeSpec
from ftray.store.location import locate

# The access log would cost a line a request; ftray's own metrics count them.
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def build(args: dict[str, Any]) -> Application:
    """The application for `import_path: ftray.serve.app:build`.

    `args` are `model` (a MODEL reference, or a list of them), `storage`, and the keys of the spec's
    `serve` section. Raises ServeError naming the wrong argument, RegistryError or ModelError for a
    model.
    """
    return application(*find(parse(args)))


def application(models: Sequence[ServedModel], spec: ServeSpec) -> Application:
    """`models` served as `spec` says."""
    threads = max(1, math.floor(spec.cpus_per_replica))
    options = {
        "name": app_name(models),
        "ray_actor_options": {
            "num_cpus": spec.cpus_per_replica,
            "num_gpus": spec.gpus_per_replica,
        },
        # How many rows may wait is the replica's own affair: what it refuses, it refuses at once,
        # and says when to come back.
        "max_ongoing_requests": spec.batch.max_waiting + spec.batch.max_size,
        "logging_config": LOGGING,
        **_replicas(spec),
    }
    return deployment(**options)(Replica).bind(
        tuple(models),
        batching=spec.batch,
        max_models=spec.max_models,
        threads=threads,
        on_gpu=spec.gpus_per_replica > 0,
        bf16=spec.precision == "bf16",
        api_keys=None if spec.api_keys is None else locate(spec.api_keys).url,
    )


def app_name(models: Sequence[ServedModel]) -> str:
    """Of the application and its deployment."""
    return models[0].name if len(models) == 1 else "models"


def _replicas(spec: ServeSpec) -> Mapping[str, Any]:
    """A fixed number, or as many as keep one full batch of requests on each."""
    fewest, most = spec.replicas.min, spec.replicas.max
    if fewest == most:
        return {"num_replicas": fewest}
    scaling = {
        "min_replicas": fewest,
        "max_replicas": most,
        "target_ongoing_requests": spec.batch.max_size,
    }
    return {"autoscaling_config": scaling}
