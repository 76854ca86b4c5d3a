"""Builds the Ray Serve application, for `ftray serve`, `serve deploy` and RayService."""

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
"""Seconds that a replica has for ending, in addition to the time in which it still answers."""

_BESIDE = 64
"""Room for requests beside the replica's `max_requests`: requests for health and metrics, and
requests that the replica is refusing."""


def build(args: dict[str, Any]) -> Application:
    """Build the application for `import_path: ftray.serve.app:build`.

    `args` are `model` (a MODEL reference, or a list of them), `storage`, the keys of the spec's
    `serve` section, of which `api_keys` is needed unless `auth` is false, `trust_remote_code` and
    `wait_for_model`. Raises ServeError naming the wrong argument, RegistryError or ModelError for a
    model.
    """
    settings = parse(args)
    # The address on which Serve will listen is not known here: it may be open to other machines.
    require_auth(settings)
    return application(*(find_once_there if settings.wait_for_model else find)(settings))


def application(models: Sequence[ServedModel], spec: ServeSpec) -> Application:
    """Build the application that serves `models` as `spec` says."""
    threads = max(1, math.floor(spec.cpus_per_replica))
    options = {
        "name": app_name(models),
        "ray_actor_options": {
            "num_cpus": spec.cpus_per_replica,
            "num_gpus": spec.gpus_per_replica,
        },
        "max_replicas_per_node": spec.max_replicas_per_node,
        # The replica itself refuses requests beyond `spec.max_requests`, in their protocol's form.
        # Ray Serve admits some more, so that health checks get in too, and queues the rest.
        "max_ongoing_requests": spec.max_requests + _BESIDE,
        "max_queued_requests": spec.max_requests,
        "backpressure_config": {"retry_after_s": 1},
        # Ray Serve replaces a replica that hangs or answers wrongly after three checks.
        "health_check_period_s": 5,
        # Answers that have begun go on for so long while a replica ends.
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
        # `ftray serve` knows the address and sets `loopback`; other ways to start an application do
        # not know it.
        loopback=isinstance(spec, Service) and spec.loopback,
    )


def app_name(models: Sequence[ServedModel]) -> str:
    """Return the name of the application and its deployment."""
    return models[0].name if len(models) == 1 else "models"


def _replicas(spec: ServeSpec) -> Mapping[str, Any]:
    """Return the options for a fixed number of replicas, or for as many as the rows and tokens in
    hand fill. One replica starts in any case, to check the model's golden answers."""
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
