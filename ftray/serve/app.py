"""The Serve application: what `ftray serve` runs, and what `serve deploy` and RayService build."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve import Application, deployment

from ftray.serve.deployment import Hosted
from ftray.serve.ops import autoscaling
from ftray.serve.ops.autoscaling import replicas_for_load
from ftray.serve.ops.log import logging_config
from ftray.serve.settings import ServedModel, Service, find, parse, require_auth
from ftray.serve.waiting import find_once_there
from ftray.spec.sections.serving import ServeSpec
from ftray.store.files.location import locate

ENDING_S = 5.0
"""Seconds that a replica has for ending beside those in which it still answers."""

_BESIDE = 64
"""Requests for health and metrics, and those that are just refused."""


def build(args: dict[str, Any]) -> Application:
    """The application for `import_path: ftray.serve.app:build`.

    `args` are `model` (a MODEL reference, or a list of them), `storage`, the keys of the spec's
    `serve` section, of which `api_keys` is needed unless `auth` is false, `trust_remote_code` and
    `wait_for_model`. Raises ServeError naming the wrong argument, RegistryError or ModelError for a
    model.
    """
    settings = parse(args)
    # Where it will listen is not known here.
    require_auth(settings)
    return application(*(find_once_there if settings.wait_for_model else find)(settings))


def application(models: Sequence[ServedModel], spec: ServeSpec) -> Application:
    """`models` served as `spec` says."""
    threads = max(1, math.floor(spec.cpus_per_replica))
    options = {
        "name": app_name(models),
        "ray_actor_options": {
            "num_cpus": spec.cpus_per_replica,
            "num_gpus": spec.gpus_per_replica,
        },
        "max_replicas_per_node": spec.max_replicas_per_node,
        # The replica itself refuses what is too much, in the protocol's form. Ray Serve, which
        # queues what is more than that, lets health checks in, too.
        "max_ongoing_requests": spec.max_requests + _BESIDE,
        "max_queued_requests": spec.max_requests,
        "backpressure_config": {"retry_after_s": 1},
        # A replica that hangs or answers wrongly is replaced after three checks.
        "health_check_period_s": 5,
        # Answers that have begun go on while a replica ends.
        "graceful_shutdown_timeout_s": spec.batch.timeout_seconds + ENDING_S,
        "logging_config": logging_config(spec.log_requests),
        **_replicas(spec),
    }
    return deployment(**options)(Hosted).bind(
        tuple(models),
        batching=spec.batch,
        max_models=spec.max_models,
        max_requests=spec.max_requests,
        generation=spec.generation,
        threads=threads,
        compute=spec.compute,
        api_keys=None if spec.api_keys is None else locate(spec.api_keys).url,
        # Who starts an application in another way says nothing of where it listens.
        loopback=isinstance(spec, Service) and spec.loopback,
    )


def app_name(models: Sequence[ServedModel]) -> str:
    """Of the application and its deployment."""
    return models[0].name if len(models) == 1 else "models"


def _replicas(spec: ServeSpec) -> Mapping[str, Any]:
    """A fixed number, or as many as the rows and tokens in hand fill. The first one starts in any
    case: it proves the model."""
    fewest, most = spec.replicas.min, spec.replicas.max
    if fewest == most:
        return {"num_replicas": fewest}
    scaling = {
        "initial_replicas": max(1, fewest),
        "min_replicas": fewest,
        "downscale_to_zero_delay_s": spec.replicas.idle_seconds,
        "max_replicas": most,
        "target_ongoing_requests": spec.batch.max_size,
        "policy": {"policy_function": f"{autoscaling.__name__}:{replicas_for_load.__name__}"},
    }
    return {"autoscaling_config": scaling}
