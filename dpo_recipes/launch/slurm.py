"""A job in the queue of a SLURM cluster: submitted, followed and cancelled with SLURM's own commands.

Workers report through events.jsonl on the file system that the nodes share; SLURM is asked only for what it alone
knows. No accounting database is needed.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from dpo_recipes.errors import EXIT_INTERRUPTED
from dpo_recipes.launch.files import launch_folder
from dpo_recipes.launch.job import Launcher, LaunchRequest
from dpo_recipes.launch.slurm_commands import QueryTimes, call, find_job, sbatch_command, show_job, submit
from dpo_recipes.launch.slurm_errors import ended_badly, lost, silent_worker
from dpo_recipes.launch.slurm_script import EXIT_RUN_NOT_VISIBLE, batch_script, gpus_of_node
from dpo_recipes.launch.slurm_state import JobView, describe_wait, parse_job
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory, write_text_atomically

_LOOK_AT_FILES_S = 1.0


class ClusterLauncher(Launcher):
    """What is the same for all workers in jobs of a cluster."""

    is_remote = True

    def num_gpus(self, recipe: Recipe) -> int:
        """The GPUs of a node as the recipe describes it."""
        return gpus_of_node(recipe)

    def checks_gpus(self, recipe: Recipe) -> bool:
        """Only if the recipe gives a number; otherwise the job requests a GPU for each process."""
        return bool(recipe.launch.slurm.gpus_per_node)


class SlurmLauncher(ClusterLauncher):
    """A job that is submitted to the queue of a cluster."""

    def command(self, request: LaunchRequest) -> list[str]:
        """The command that submits a prepared run directory."""
        return sbatch_command(_script_path(request.run), request.slurm_settings)

    def start(self, request: LaunchRequest) -> SlurmJob:
        """Write the script to `RUN/launch/job.sbatch` and submit it, or follow the job that an earlier command has
        queued.

        Raises `RunError` T630 and T631, the latter also if SLURM does not know the state of the earlier job."""
        script, meant = _script_path(request.run), batch_script(request, request.slurm_settings)
        earlier = script.read_text(encoding="utf-8") if script.exists() else None
        number, _ = _find_job(request.run) or (None, None)
        if number is not None and earlier == meant:
            request.on_message(f"SLURM job {number} is already in the queue")
            _stop_path(request.run, number).unlink(missing_ok=True)
            return SlurmJob(request, number)
        if number is not None:
            call("scancel", str(number))
            request.on_message(f"SLURM job {number}, which had other settings, was removed from the queue")
        script.parent.mkdir(exist_ok=True)
        write_text_atomically(script, meant)
        number = submit(script, request.slurm_settings)
        write_text_atomically(_number_path(request.run), str(number))
        request.on_message(f"SLURM job {number} from {script}")
        return SlurmJob(request, number)


def is_executed(run: RunDirectory) -> bool:
    """Whether a job that was submitted for this run is running. Not every file system shows the locks of its nodes
    here.

    Raises `RunError` T631 if SLURM does not answer.
    """
    _, view = _find_job(run) or (None, None)
    return view is not None and not view.is_queued


def has_job(run: RunDirectory) -> bool:
    """Whether a job that was submitted for this run waits in the queue or is running. Raises `RunError` T631 if SLURM
    does not answer."""
    return _find_job(run) is not None


def _find_job(run: RunDirectory) -> tuple[int, JobView] | None:
    """The number and state of the run's job, or None if none was submitted or it has ended.

    Raises `RunError` T631 if SLURM does not answer.
    """
    found = find_job(_script_path(run), _number_path(run))
    if found is None:
        return None
    number, text = found
    view = parse_job(text)
    return None if view.is_ending else (number, view)


def _stop_path(run: RunDirectory, number: int | str) -> Path:
    """A file whose presence tells the job's script that a person has stopped the job."""
    return launch_folder(run) / f"stop.{number}"


def _number_path(run: RunDirectory) -> Path:
    return launch_folder(run) / "slurm_job"


def _script_path(run: RunDirectory) -> Path:
    return launch_folder(run) / "job.sbatch"


class SlurmJob:
    """A job that has been submitted."""

    def __init__(self, request: LaunchRequest, number: int) -> None:
        self._run: RunDirectory = request.run
        self._recipe = request.recipe
        self._folder = launch_folder(request.run)
        self._on_message = request.on_message
        self._number = str(number)
        self._asked_to_stop = False
        self._reported = ""
        self._restarts = 0
        self._exit_code: int | None = None
        self._is_executing = False
        self._look_at = 0.0
        self._queries = QueryTimes()

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, or None while it waits or runs.

        Raises `RunError` T632 (no worker started), T633 to T636 (time limit, memory, node, cancelled by another person)
        and T637 (SLURM no longer knows the job).
        """
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + _LOOK_AT_FILES_S
        code = self._read_exit_code()
        if code == 0 and self._run.result.exists():  # without a result, SLURM may know why
            return 0
        if code == self._exit_code and not self._queries.is_due:
            return None
        self._exit_code = code
        ending = self._ask()
        self._queries.queried()
        return ending

    @property
    def is_executing(self) -> bool:
        """Whether the job was running when SLURM was last queried, without a restart in between."""
        return self._is_executing

    @property
    def obeys_second_signal(self) -> bool:
        """Signals come from a person."""
        return True

    def interrupt(self) -> None:
        """Ask the workers to write a checkpoint and end; remove a job that is still waiting from the queue."""
        self._note_stop()
        view = self._view()
        waits = view is not None and view.waits
        call("scancel", *(() if waits else ("--signal=INT",)), self._number)

    def kill(self) -> None:
        """Cancel it: SIGTERM, and SIGKILL after the site's KillWait."""
        self._note_stop()
        call("scancel", self._number)

    def _note_stop(self) -> None:
        self._asked_to_stop = True
        # This stops a script that is still setting up, and keeps the job from requeueing itself.
        _stop_path(self._run, self._number).touch()
        self._queries.query_at_once()

    def _ask(self) -> int | None:
        done = self._show()
        if done.returncode or "JobState=" not in done.stdout:
            if "Invalid job id" not in done.stderr:  # the controller is restarting or overloaded
                self._say(f"SLURM does not answer: {done.stderr.strip()}")
                return None
            if self._exit_code is not None or self._run.result.exists():
                return self._exit_code or 0
            raise lost(self._number)
        view = parse_job(done.stdout)
        self._is_executing = view.runs and view.restarts == self._restarts
        if view.restarts > self._restarts:
            self._restarts = view.restarts
            self._say(f"SLURM job {self._number} is queued again (restart {view.restarts})")
        if not view.has_ended:
            self._say(describe_wait(view) if view.waits else f"on {view.nodes}" if view.runs else "")
            return None
        return self._ending(view)

    def _ending(self, view: JobView) -> int:
        if view.state == "COMPLETED":
            return 0
        if view.state != "FAILED":
            if self._asked_to_stop and view.state in ("CANCELLED", "PREEMPTED"):
                return EXIT_INTERRUPTED if self._worker_said("error") else -signal.SIGINT
            raise ended_badly(view, self._run.log, self._recipe)
        if view.exit_code == EXIT_RUN_NOT_VISIBLE or not self._worker_said("stage"):
            if self._asked_to_stop:
                return -signal.SIGINT
            raise silent_worker(view, self._run.path, self._run.log)
        if view.exit_code > 128 and not self._worker_said("error"):
            return 128 - view.exit_code
        return -view.signal if view.signal else view.exit_code

    def _worker_said(self, event: str) -> bool:
        """Whether a worker has emitted an event of this kind."""
        try:
            return f'{{"event": "{event}"' in self._run.events.read_text(encoding="utf-8")
        except OSError:
            return False

    def _view(self) -> JobView | None:
        done = self._show()
        return parse_job(done.stdout) if done.returncode == 0 and "JobState=" in done.stdout else None

    def _show(self) -> subprocess.CompletedProcess[str]:
        # While this waits, the caller cannot report the workers' events.
        return show_job(self._number, timeout_s=5)

    def _read_exit_code(self) -> int | None:
        """The exit code that the script writes last, or None before that and while it is only partly written."""
        try:
            return int((self._folder / f"exit_code.{self._number}").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _say(self, text: str) -> None:
        """Report a change. After a change SLURM is queried often again."""
        if text and text != self._reported:
            self._reported = text
            self._queries.query_often()
            self._on_message(text)


LAUNCHER = SlurmLauncher()
