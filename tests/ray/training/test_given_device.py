"""The device that real Ray processes get, on a cluster that is told that it has GPUs."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, ray

def look():
    import torch
    from ftray.cluster.device import own_device
    from ftray.errors import ClusterError
    try:
        unseen = str(own_device())
    except ClusterError as error:
        unseen = str(error)
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    return unseen, str(own_device())

ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, logging_level="ERROR")
found = [ray.get(ray.remote(num_gpus=gpus)(look).remote()) for gpus in (0, 0.5)]
print(json.dumps([*found, look()]))
"""


def test_a_process_has_what_ray_gave_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=1200, check=True
    )
    without, sharing, driver = json.loads(run.stdout.splitlines()[-1])
    assert without == driver == ["cpu", "cpu"], "also where torch sees two"
    told, device = sharing
    assert "Ray gave it to this process" in told
    assert device == "cuda:0", "Ray shows a process its own GPU alone"
