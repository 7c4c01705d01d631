"""Recognizes failures of the machine: no memory, no disk space, a lost process."""

from __future__ import annotations

from dpo_recipes.errors import Finding, causes, is_no_space, is_out_of_memory
from dpo_recipes.launch.batch import smaller_batch_fix
from dpo_recipes.launch.ranks import LOST_EACH_OTHER, known_ranks
from dpo_recipes.objectives import fixed_micro_batch_reason
from dpo_recipes.resume import read_recipe
from dpo_recipes.run_dir import RunDirectory, read_prediction

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "ProcessGroupNCCL",
    "DistBackend",
)
"""Messages of gloo and NCCL about a process that has ended (torch 2.13)."""


def known_failure(error: BaseException, run: RunDirectory) -> Finding | None:
    """The finding for a library's exception, or None if it can only be a bug in dpo-recipe."""
    for cause in causes(error):
        text = f"{type(cause).__name__}: {cause}"
        if is_no_space(cause):
            return Finding(
                "T602",
                f"no space left while writing to {run.path}",
                why=text.splitlines()[0],
                fix="free some space and run again; nothing that looks finished was left behind",
            )
        if is_out_of_memory(cause):
            return Finding(
                "T603",
                "the run is out of memory",
                why=text.splitlines()[0] + _prediction(run),
                fix=less_memory_fix(run),
            )
        if len(known_ranks(run)) > 1 and any(sign in text for sign in _LOST):
            return Finding(
                LOST_EACH_OTHER,
                "this process lost its connection to the others",
                why=text.splitlines()[0][:300],
                fix="find the process that ended or stopped first in ranks/*/run.log; if a stage only takes "
                "long, raise `launch.timeout_minutes`",
            )
    return None


def less_memory_fix(run: RunDirectory) -> str:
    """Changes by which a run that is out of memory needs less, the cheapest first."""
    if run.gives_answers_only:
        return "lower the batch size of the answers (`--batch-size`), then their length (`--max-new-tokens`)"
    recipe = read_recipe(run)
    if recipe is not None and fixed_micro_batch_reason(recipe):
        return (
            "write `gradient_checkpointing: true`, a smaller optimizer state, or a smaller `data.max_length`; or "
            f"{smaller_batch_fix(recipe)}. `--fit` changes checkpointing and optimizer, but not the micro-batch"
        )
    return (
        f"{smaller_batch_fix(recipe)}; then `gradient_checkpointing: true`; then a smaller `data.max_length`. `--fit` "
        "does this automatically"
    )


def _prediction(run: RunDirectory) -> str:
    """The predicted and the free memory, if the plan was made."""
    prediction = read_prediction(run)
    if not prediction:
        return ""
    peak, free = prediction["peak_bytes"] / 2**30, prediction["device_bytes"] / 2**30
    return f"; {peak:.2f} GiB were predicted, and {free:.2f} GiB were free"
