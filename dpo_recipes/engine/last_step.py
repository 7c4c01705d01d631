"""What was trained outlives a failure to save it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.errors import DpoRecipeError, RunError, in_one_line, is_lack_of_machine


@contextmanager
def last_step_kept(trainer: Any, distributed: DistributedContext, *, is_changed: bool) -> Iterator[None]:
    """A block that saves the model. If it fails, a checkpoint of the last step remains, from which the same command
    resumes: it trains no further step, evaluates, and saves.

    `is_changed`: the block merges an adapter into the trained model itself; the checkpoint is then written before it.

    With several processes nothing is kept: a checkpoint needs all of them, and the others wait elsewhere.

    Raises `RunError` T609, or the failure itself where it is an error with a way out, a full disk, or a lack of memory.
    """
    if distributed.num_processes > 1 or distributed.strategy != "ddp":
        yield
        return
    is_kept = is_changed and _keep(trainer)
    try:
        yield
    except Exception as failure:
        is_kept = is_kept or (not is_changed and _keep(trainer))
        if isinstance(failure, DpoRecipeError) or is_lack_of_machine(failure):
            raise
        raise _describe(failure, is_kept=is_kept) from failure


def _keep(trainer: Any) -> bool:
    """Write a checkpoint of the last step unless there is one; returns whether there is one now.

    A trainer that has loaded the weights of its best checkpoint writes none: these are in that checkpoint.
    """
    state, saving = trainer.state, trainer.checkpoint_state
    if saving.saved_step == state.global_step or state.best_model_checkpoint is not None:
        return True
    try:
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.checkpoints.wait()
    except Exception:  # the model may be saved all the same, and otherwise that failure is the one to report
        traceback.print_exc()
        return False
    saving.saved_step = state.global_step
    return True


def _describe(failure: Exception, *, is_kept: bool) -> RunError:
    kept = "the checkpoints have what was trained, and the same command resumes with saving"
    return RunError.of(
        "T609",
        "the model could not be saved",
        why=in_one_line(failure),
        fix=f"{kept if is_kept else 'no checkpoint of the last step could be written'}; run.log has the whole message: "
        "if it names nothing that you can change, report it",
    )
