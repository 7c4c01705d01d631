"""Failures of the machine rather than of ours: no memory, no space, no other process."""

from __future__ import annotations

import json

from dpo_recipes.errors import Finding, causes, is_no_space, is_out_of_memory
from dpo_recipes.launch.ranks import LOST_EACH_OTHER, known_ranks
from dpo_recipes.run_dir import RunDirectory

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "ProcessGroupNCCL",
    "DistBackend",
)
"""What gloo and NCCL say of a process that is gone (torch 2.13)."""


def known_failure(error: BaseException, run: RunDirectory) -> Finding | None:
    """What a library's exception means to a person; none where it means nothing but a fault of ours."""
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
                fix="halve `training.micro_batch_size` and double `gradient_accumulation_steps`, or halve "
                "`max_tokens_per_pass`; then "
                "`gradient_checkpointing: true`; then a smaller `data.max_length`. `--fit` does this by itself",
            )
        if len(known_ranks(run)) > 1 and any(sign in text for sign in _LOST):
            return Finding(
                LOST_EACH_OTHER,
                "this process lost the others",
                why=text.splitlines()[0][:300],
                fix="look for the one that ended or stood still first, in ranks/*/run.log; where a stage only takes "
                "long, raise `launch.timeout_minutes`",
            )
    return None


def _prediction(run: RunDirectory) -> str:
    """What had been predicted, where the plan came that far."""
    prediction = json.loads(run.plan.read_text(encoding="utf-8")).get("prediction") if run.plan.exists() else None
    if not prediction:
        return ""
    peak, free = prediction["peak_bytes"] / 2**30, prediction["device_bytes"] / 2**30
    return f"; {peak:.2f} GiB were predicted, of {free:.2f} GiB that were free"
