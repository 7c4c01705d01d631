"""One run of a job with several: its files, its state, and the lock by which a command claims it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.locks import is_held, try_lock
from dpo_recipes.run_dir import RunDirectory, read_json_lines, write_json
from dpo_recipes.supervise import WorkerBug, is_transient

RunState = Literal["finished", "failed", "out_of_memory", "pruned", "unfinished"]
_OUT_OF_MEMORY = ("T603", "T634")


def lock_of(run: Path) -> Path:
    """The lock by which a command claims the run with a directory."""
    return run.with_name(f"{run.name}.lock")


class JobRun:
    """A run of a job. Subclasses say where its files are."""

    @property
    def name(self) -> str:
        """The name of its files."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """The folder of its files: `JobDirectory.runs`."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Whether it can be started now."""
        return True

    @property
    def is_blocked(self) -> bool:
        """Whether it can never be started, because a run that it needs has failed."""
        return False

    @property
    def run(self) -> RunDirectory:
        """The run directory, which may not exist yet."""
        return RunDirectory(self.folder / self.name)

    @property
    def state(self) -> RunState:
        """The state that its files describe."""
        if self.run.result.exists():
            return "finished"
        failure = self.failure()
        if failure is None:
            return "unfinished"
        if failure["is_pruned"]:
            return "pruned"
        return "out_of_memory" if failure["code"] in _OUT_OF_MEMORY else "failed"

    @property
    def is_claimed(self) -> bool:
        """Whether a command is working on it."""
        return is_held(self._lock)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Claim the run for this process, if no other has. Yields whether it did."""
        with self._lock.open("a") as lock:
            yield try_lock(lock)

    def failure(self) -> dict[str, Any] | None:
        """Why it ended without a result (`code`, `reason`, `text`, `is_transient`, `is_pruned`); None if it did not."""
        try:
            return json.loads(self._failure.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def fail(self, error: DpoRecipeError | WorkerBug) -> None:
        """Record that the run has failed."""
        finding: Finding | None = error.findings[0] if isinstance(error, DpoRecipeError) else None
        code, reason = finding.code if finding else None, f"this is a bug in dpo-recipe: {error}"
        reason = finding.what if finding else reason
        self.end({"code": code, "reason": reason, "text": str(error), "is_transient": is_transient(error)})

    def end(self, failure: dict[str, Any], *, is_pruned: bool = False) -> None:
        """Record why the run ended without a result."""
        write_json(self._failure, {**failure, "is_pruned": is_pruned, "ended_at": time.time()})

    def forget_failure(self) -> None:
        """Let the run be tried again if it failed. Only for whoever has claimed it."""
        self._failure.unlink(missing_ok=True)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Record the beginning and the end of an attempt. Only for whoever has claimed the run."""
        notes = read_json_lines(self._attempts)
        if notes and "started_at" in notes[-1]:  # that attempt was killed
            self._note({"ended_at": self._last_sign(notes[-1]["started_at"])})
        self._note({"started_at": time.time()})
        try:
            yield
        finally:
            self._note({"ended_at": time.time()})

    def num_attempts(self) -> int:
        """How often the run was started."""
        return sum("started_at" in note for note in read_json_lines(self._attempts))

    def seconds(self) -> float:
        """The time that all attempts took. One that was killed lasted until its worker's last sign of life."""
        times = [moment for note in read_json_lines(self._attempts) for moment in note.values()]
        if len(times) % 2:
            times.append(time.time() if self.is_claimed else self._last_sign(times[-1]))
        return sum(ended - started for started, ended in zip(times[::2], times[1::2], strict=True))

    def _last_sign(self, started: float) -> float:
        """The time of the last event of a worker, or that of the start if there is none."""
        try:
            return max(started, self.run.events.stat().st_mtime)
        except OSError:
            return started

    def _note(self, note: dict[str, float]) -> None:
        with self._attempts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    @property
    def _lock(self) -> Path:
        return lock_of(self.run.path)

    @property
    def _failure(self) -> Path:
        return self.folder / f"{self.name}.failed.json"

    @property
    def _attempts(self) -> Path:
        return self.folder / f"{self.name}.attempts.jsonl"
