"""The workers of a run within a SLURM job that exists: srun starts them as a step of it
(docs/adr/0014-srun-starts-the-processes.md)."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from dpo_recipes.launch import local
from dpo_recipes.launch.files import launch_folder
from dpo_recipes.launch.job import LaunchRequest, ProcessJob, spawn
from dpo_recipes.launch.ranks import processes_here, signal_processes
from dpo_recipes.launch.slurm import ClusterLauncher
from dpo_recipes.launch.slurm_commands import call
from dpo_recipes.launch.slurm_script import are_joined, per_node, task_function
from dpo_recipes.run_dir import RunDirectory

IN_TASK = "DPO_RECIPE_SLURM_TASK"
"""The variable with the name of the array's task (`17_3`) in which this process runs."""


class SrunLauncher(ClusterLauncher):
    """Starts workers in the allocation of the task that this process belongs to."""

    def command(self, request: LaunchRequest) -> list[str]:
        """srun with the worker; several processes get the variables that torchrun would set."""
        each = per_node(request)
        counts = [f"--nodes={request.num_nodes}", f"--ntasks={request.num_processes}", f"--ntasks-per-node={each}"]
        srun = ["srun", *counts, "--kill-on-bad-exit=1", "--export=ALL"]
        worker = local.LAUNCHER.command(request)
        if not are_joined(request):
            return [*srun, *worker]
        return [*srun, "bash", "-c", f'{task_function(request)}task "$@"', "task", *worker]

    def start(self, request: LaunchRequest) -> SrunJob:
        """Start the step."""
        on_request = launch_folder(request.run) / "on_request"
        on_request.parent.mkdir(exist_ok=True)
        on_request.unlink(missing_ok=True)
        environment = {**local.worker_environment(request.recipe, per_node(request)), "on_request": str(on_request)}
        return SrunJob(spawn(request.run, self.command(request), environment), request.run, on_request)


class SrunJob(ProcessJob):
    """A step of a job, on one node or several."""

    def __init__(self, process: subprocess.Popen[bytes], run: RunDirectory, on_request: Path) -> None:
        super().__init__(process)
        self._run = run
        self._on_request = on_request
        self._was_abandoned = False

    def poll(self) -> int | None:
        """The exit code of the worker that failed first, negative for a signal, or None while the step runs."""
        code = super().poll()
        if code is None:
            return None
        if self._was_abandoned:
            return -signal.SIGINT
        if code == 0 and self._on_request.exists():
            return int(self._on_request.read_text(encoding="ascii"))
        return 128 - code if code > 128 else code

    @property
    def obeys_second_signal(self) -> bool:
        """Signals come from SLURM: before the time limit, and again for preemption and at the limit."""
        return False

    def interrupt(self) -> None:
        """Send SIGINT to the workers of all nodes. srun gets none, because it would not pass it on. Before the workers
        exist there is nothing to lose, and srun is killed."""
        if any(processes_here(self._run)):
            call("scancel", "--signal=INT", os.environ[IN_TASK])
        else:
            self._was_abandoned = True
            super().kill()

    def kill(self) -> None:
        """Kill the workers of this node, after which srun ends those of the others; without any, srun itself."""
        if not signal_processes(self._run, signal.SIGKILL):
            super().kill()


LAUNCHER = SrunLauncher()
