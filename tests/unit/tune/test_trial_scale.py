"""What a trial gets of the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from ftray.cluster import capacity
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.train.resources import trial_resources, worker_resources
from ftray.tune.space import trial_spec


def spec(gpus: Any, tune_gpus: Any) -> Spec:
    return parse(
        {
            "name": "scaled",
            "model": {"name_or_path": "x"},
            "data": {"train": "x.csv"},
            "scale": {"gpus_per_worker": gpus},
            "tune": {"space": {"seed": {"choice": [1, 2]}}, "gpus_per_worker": tune_gpus},
        }
    )


@pytest.mark.parametrize(
    ("gpus", "tune_gpus", "of_training", "of_a_trial"),
    [("auto", "auto", 1, 1), (0, "auto", 0, 0), (1, 0.25, 1, 0.25), ("auto", 0, 1, 0)],
)
def test_a_trial_has_a_share_of_its_own(
    monkeypatch: pytest.MonkeyPatch, gpus: Any, tune_gpus: Any, of_training: float, of_a_trial: Any
) -> None:
    monkeypatch.setattr(capacity, "has_gpus", lambda: True)
    wanted = spec(gpus, tune_gpus)
    assert worker_resources(wanted).gpus == of_training
    assert trial_resources(wanted).gpus == of_a_trial
    group = trial_spec(wanted, {"seed": 2})
    assert worker_resources(group).gpus == (of_training if tune_gpus == 0.25 else of_a_trial)
