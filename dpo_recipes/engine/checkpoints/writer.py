"""Writes checkpoints during training: weights and state at once, checksums and the flush to disk in the background."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dpo_recipes.engine.checkpoints.folder import PREFIX, WRITING, Checkpoint, prune, remove_unfinished, seal
from dpo_recipes.engine.checkpoints.loop_state import save_loop_state
from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.errors import RunError

_NO_SPACE_BYTES = 64 * 2**20
"""If less than this is free after a failed write, the disk is full, whatever error a library raised."""


class CheckpointWriter:
    """The checkpoints of one trainer. Every process calls `save`; the first one seals."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        facts: dict[str, Any],
        distributed: DistributedContext = SINGLE_PROCESS,
        best: Checkpoint | None = None,
        damaged: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.facts = facts
        """The facts about the run for each manifest."""
        self.distributed = distributed
        self.best = best
        """The best checkpoint so far by the metric of `keep_best`. Only the first process updates it."""
        self.damaged = set(damaged)
        """Names of damaged checkpoints, found when the run was resumed."""
        self.blocked_s = 0.0
        """The time for which training has waited for checkpoints."""
        self.last_s = 0.0
        """The time from the start of the last checkpoint until it was sealed."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, trainer: Any, write: Callable[[], None], more: dict[str, Any], facts: dict[str, Any]) -> None:
        """Let `write` fill `<output_dir>/checkpoint-<step>`, add the loop's state, and seal it in the background.

        Raises `RunError` T602 if the disk is full, now or at the next call.
        """
        self.wait()
        began = time.monotonic()
        args, step = trainer.args, trainer.state.global_step
        aside = self.folder / WRITING
        if self.distributed.is_main:
            remove_unfinished(self.folder)
            aside.mkdir(parents=True)
        self.distributed.wait()
        output_dir, args.output_dir = args.output_dir, str(aside)
        written = aside / f"{PREFIX}{step}"
        try:
            write()
            save_loop_state(trainer, written, more)
            trainer.save_more(written)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._explain(error) from error
        finally:
            args.output_dir = output_dir
        self.distributed.wait()
        self.blocked_s += time.monotonic() - began
        if self.distributed.is_main:
            self._thread = threading.Thread(target=self._seal, args=(written, {**self.facts, **facts}, began))
            self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is sealed. Raises `RunError` T602 if that failed."""
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
        except OSError as error:  # an error in a thread is lost, so `wait` raises it
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
            fix="free some space, or lower `checkpoints.save_total_limit`, and run again: it resumes from the last "
            "complete checkpoint",
        )
