"""An array in the queue of a SLURM cluster: queried, interrupted and cancelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dpo_recipes.launch.slurm_commands import QueryTimes, call, show_job
from dpo_recipes.launch.slurm_state import JobView, describe_wait, parse_array


class SlurmArray:
    """An array that has been submitted. Its tasks read the file `stop`, whose presence says that a person has stopped
    the array."""

    def __init__(self, number: int, stop: Path, on_message: Callable[[str], None]) -> None:
        self.number = number
        self.views: dict[int, JobView] = {}
        """The tasks that SLURM knows or knew, by their numbers."""
        self._has_removed = False
        self._stop = stop
        self._on_message = on_message
        self._reported = ""
        self._queries = QueryTimes()
        self._has_ended = False

    def has_ended(self) -> bool:
        """Whether all tasks have ended, or SLURM no longer knows the array."""
        if not self._has_ended and self._queries.is_due:
            self._ask()
            self._queries.queried()
        return self._has_ended

    @property
    def obeys_second_signal(self) -> bool:
        """Signals come from a person."""
        return True

    def interrupt(self) -> None:
        """Ask the workers to write a checkpoint and end; remove tasks that are still waiting from the queue."""
        self._note_stop()
        self.remove_waiting()
        call("scancel", "--signal=INT", str(self.number))

    def kill(self) -> None:
        """Cancel all tasks."""
        self._note_stop()
        call("scancel", str(self.number))

    def remove_waiting(self) -> None:
        """Remove the tasks that are waiting from the queue."""
        self._has_removed = True
        call("scancel", "--state=PENDING", str(self.number))

    def was_removed(self, task: int) -> bool:
        """Whether `remove_waiting` has ended a task."""
        view = self.views.get(task)
        return self._has_removed and view is not None and view.state == "CANCELLED"

    def _note_stop(self) -> None:
        # This stops scripts that are still setting up, and keeps tasks from requeueing themselves.
        self._stop.touch()
        self._queries.query_at_once()

    def _ask(self) -> None:
        done = show_job(self.number, timeout_s=5)
        if done.returncode or "JobState=" not in done.stdout:
            self._has_ended = "Invalid job id" in done.stderr
            if not self._has_ended:  # the controller is restarting or overloaded
                self._say(f"SLURM does not answer: {done.stderr.strip()}")
            return
        found = parse_array(done.stdout)
        for task, view in sorted(found.items()):
            if task in self.views and view.restarts > self.views[task].restarts:
                self._say(f"task {self.number}_{task} is queued again (restart {view.restarts})")
        self.views |= found
        self._has_ended = all(view.has_ended for view in found.values())
        waiting = [view for view in found.values() if view.waits]
        if waiting and not any(view.runs for view in found.values()):
            self._say(describe_wait(waiting[0]))

    def _say(self, text: str) -> None:
        """Report a change. After a change SLURM is queried often again."""
        if text != self._reported:
            self._reported = text
            self._queries.query_often()
            self._on_message(text)
