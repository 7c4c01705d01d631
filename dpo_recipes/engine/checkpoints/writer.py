"""Writes checkpoints while training goes on: weights and state at once, checksums and the disk's answer behind it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dpo_recipes.engine.checkpoints.folder import PREFIX, WRITING, Checkpoint, prune, remove_unfinished, seal
from dpo_recipes.engine.checkpoints.loop_state import save_loop_state
from dpo_recipes.engine.processes import ALONE, Processes
from dpo_recipes.errors import RunError

_NO_SPACE_BYTES = 64 * 2**20
"""With less free than this after a failed write, the disk is full, whatever a library called it."""


class CheckpointWriter:
    """The checkpoints of one trainer. Every process calls `save`; the first one seals."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        facts: dict[str, Any],
        processes: Processes = ALONE,
        best: Checkpoint | None = None,
        damaged: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.facts = facts
        """What each manifest tells of the run."""
        self.processes = processes
        self.best = best
        """The one with the lowest held-out loss, where that is looked for. The first process alone keeps it up."""
        self.damaged = set(damaged)
        """Names of those that were found so when the run went on."""
        self.blocked_s = 0.0
        """How long training has waited for checkpoints."""
        self.last_s = 0.0
        """How long the last one took until it was sealed."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, trainer: Any, write: Callable[[], None], more: dict[str, Any], facts: dict[str, Any]) -> None:
        """Have `write` fill `<output_dir>/checkpoint-<step>`, add the loop's state, and seal it in the background.

        Raises `RunError` T602 where the disk is full, now or at the next call.
        """
        self.wait()
        began = time.monotonic()
        args, step = trainer.args, trainer.state.global_step
        aside = self.folder / WRITING
        if self.processes.is_main:
            remove_unfinished(self.folder)
            aside.mkdir(parents=True)
        self.processes.wait()
        output_dir, args.output_dir = args.output_dir, str(aside)
        written = aside / f"{PREFIX}{step}"
        try:
            write()
            save_loop_state(trainer, written, more)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._explain(error) from error
        finally:
            args.output_dir = output_dir
        self.processes.wait()
        self.blocked_s += time.monotonic() - began
        if self.processes.is_main:
            self._thread = threading.Thread(target=self._seal, args=(written, {**self.facts, **facts}, began))
            self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is sealed. Raises `RunError` T602 where that failed."""
        began = time.monotonic()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.blocked_s += time.monotonic() - began
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._explain(failure) from failure

    def _seal(self, written: Path, facts: dict[str, Any], began: float) -> None:
        try:
            sealed = seal(written, self.folder / written.name, facts)
            written.parent.rmdir()
            if facts.get("is_best"):
                self.best = sealed
            self.damaged.discard(sealed.path.name)
            prune(self.folder, self.keep, sealed, self.best.path.name if self.best else None, self.damaged)
        except OSError as error:  # a thread has nobody to raise to: `wait` does it
            self._failure = error
        self.last_s = time.monotonic() - began

    def _explain(self, error: BaseException) -> BaseException:
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes > _NO_SPACE_BYTES and not isinstance(error, OSError):
            return error
        return RunError.of(
            "T602",
            f"a checkpoint could not be written to {self.folder}",
            why=f"{str(error).splitlines()[0]}; {free_bytes / 1e6:.0f} MB are free",
            fix="free some space, or lower `checkpoints.save_total_limit`, and run again: it goes on from the last "
            "checkpoint that is whole",
        )
