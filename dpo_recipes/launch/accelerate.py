"""Several worker processes on GPUs through `accelerate launch`, for machines that are set up for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from dpo_recipes.errors import RecipeError
from dpo_recipes.hardware.machine import gpu_names
from dpo_recipes.launch.files import launch_folder
from dpo_recipes.launch.job import LaunchRequest, request_arguments
from dpo_recipes.launch.torchrun import TorchrunLauncher, meeting_place
from dpo_recipes.run_dir import write_text_atomically

_NAME = "accelerate.yaml"


def accelerate_config(request: LaunchRequest) -> dict[str, Any]:
    """accelerate 1.15's configuration file. It only starts processes: the trainer gets strategy and precision from
    elsewhere, so that they are the same under every launcher."""
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_processes": request.num_processes,
        "num_machines": request.num_nodes,
        "machine_rank": 0,  # c10d assigns the ranks itself
        "mixed_precision": "no",
        "use_cpu": False,
        "debug": False,
        "enable_cpu_affinity": False,
        "same_network": request.num_nodes == 1,  # else the agents of the nodes would have no rendezvous
        "main_training_function": "main",
    }
    if request.num_nodes > 1:
        host, _, port = meeting_place(request).rpartition(":")
        config |= {"main_process_ip": host, "main_process_port": int(port)}
    return config


class AccelerateLauncher(TorchrunLauncher):
    """`accelerate launch`, which uses torchrun."""

    def command(self, request: LaunchRequest) -> list[str]:
        """`accelerate launch` with the worker, the same on every node."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(_path(request))]
        # accelerate 1.15 reads from the configuration file only what has no default on the command line.
        meeting = ["--rdzv_backend", "c10d"] if request.num_nodes > 1 else []
        worker = request_arguments(request)
        return [*launcher, *meeting, *worker]

    def configurations(self, request: LaunchRequest) -> dict[str, dict[str, Any]]:
        """accelerate's configuration file. Raises `RecipeError` R347 if several nodes have no rendezvous."""
        return {_NAME: accelerate_config(request)}

    def prepare(self, request: LaunchRequest) -> None:
        """Write the configuration. Raises `RecipeError` R348 without several GPUs: with a configuration for CPUs,
        accelerate 1.15 silently starts one process."""
        if request.num_processes == request.num_nodes or not gpu_names():
            raise RecipeError.of(
                "R348",
                "`backend: accelerate` needs several GPUs on a machine",
                why="on CPUs `accelerate launch` always starts one process, and for one process it sets nothing up",
                fix="write `backend: auto`, which uses torchrun, or run it on a machine with several GPUs",
            )
        path = _path(request)
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, yaml.safe_dump(accelerate_config(request), sort_keys=False))


def _path(request: LaunchRequest) -> Path:
    return launch_folder(request.run) / _NAME


LAUNCHER = AccelerateLauncher()
