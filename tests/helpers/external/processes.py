"""Finds the processes of a command and kills them."""

from __future__ import annotations

import subprocess

import psutil


def train_workers(driver: psutil.Process) -> list[psutil.Process]:
    """The Ray Train workers of the Ray instance that runs inside `driver`."""
    found = []
    for process in driver.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_with_children(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL first to the driver, as if its machine were lost, then to the Ray inside it."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for member in family:
        if member.is_running():
            member.kill()
    psutil.wait_procs(family, timeout=20)
