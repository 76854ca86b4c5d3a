"""A common hand-written sweep script: fine-tuning with Ray Tune and the Hugging Face Trainer.

    python tests/bench/contenders/hf_sweep.py SPEC TRIALS [--group-by-length]

TRIALS is a JSON list of trials, each dotted path -> value. Each trial runs on one core. The last
line of stdout is one JSON object: the validation metrics of each trial's best epoch, and the test
metrics of the winner.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

import ray
import yaml
from hf_trainer import fine_tune, measure
from ray import tune


def changed(spec: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    for path, value in trial.items():
        section, _, key = path.partition(".")
        spec[section][key] = value
    return spec


def run_trial(config: dict[str, Any], spec: dict[str, Any], group_by_length: bool) -> None:
    trainer, rows, _ = fine_tune(changed(spec, config["trial"]), group_by_length)
    validation, test = (measure(trainer, rows, split) for split in ("validation", "test"))
    tune.report({**validation, "test": test})


def main() -> None:
    parser = argparse.ArgumentParser(description="Sweep with Ray Tune and the HF Trainer.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--group-by-length", action="store_true")
    options = parser.parse_args()
    spec, trials = yaml.safe_load(options.spec.read_text()), json.loads(options.trials.read_text())
    here = str(Path(__file__).parent)
    ray.init(
        address="local",
        log_to_driver=False,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *_path()])}},
    )
    metric = spec["train"]["metric"]
    function = tune.with_parameters(run_trial, spec=spec, group_by_length=options.group_by_length)
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(metric=metric, mode="max"),
        run_config=tune.RunConfig(storage_path=str(Path("ray").absolute()), verbose=0),
    ).fit()
    if results.errors:
        raise results.errors[0]
    told = [
        {
            "config": r.config["trial"],
            "metrics": {k: r.metrics[k] for k in ("accuracy", "f1_macro")},
        }
        for r in results
    ]
    best = results.get_best_result().metrics
    print(json.dumps({"trials": told, "test": best["test"]}))


def _path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


if __name__ == "__main__":
    main()
