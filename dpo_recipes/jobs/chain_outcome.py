"""Turns the files of a chain's steps into its result."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from dpo_recipes.errors import path_text
from dpo_recipes.formats import utc_stamp
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.chain_report import render_chain_report
from dpo_recipes.jobs.chain_result import ChainResult, StepOutcome, StepState
from dpo_recipes.jobs.step_run import StepRun
from dpo_recipes.locks import held
from dpo_recipes.run_dir import RunDirectory, write_text_atomically, written_to


def finish(job: ChainDirectory, name: str, runs: Sequence[StepRun]) -> ChainResult:
    """Write the report and the result of a chain whose steps have ended. A result of the same steps is left as it is.
    Raises `RunError` T601, T602 and T642."""
    steps = [outcome_of(run) for run in runs]
    with written_to(RunDirectory(job.path)), held(job.lock):
        if job.result.exists():
            earlier = ChainResult.read(job.result)
            if earlier.steps == steps:
                return earlier
        result = ChainResult(
            status="finished" if all(step.state == "finished" for step in steps) else "failed",
            recipe=name,
            steps=steps,
            wall_s=round(sum(step.wall_s for step in steps), 1),
            started_at=utc_stamp(job.given_recipe.stat().st_mtime),
            finished_at=utc_stamp(time.time()),
        )
        write_text_atomically(job.report, render_chain_report(job, result))
        result.write(job.result)
        return result


def outcome_of(run: StepRun) -> StepOutcome:
    """The outcome of a step whose run has ended or was never started."""
    step, settings = run.step, run.step.checked.settings
    about = {
        "name": step.name,
        "title": step.title,
        "round": step.round,
        "kind": step.kind.kind,
        "work": step.kind.describe(settings),
        "makes": step.product.kind,
        "needs": {path_text(need.at): need.step.name for need in step.needs},
    }
    if not run.is_ready:
        failed = next(need.step.name for need in run.needs.values() if need.state != "finished")
        return StepOutcome(**about, state="not_run", reason=f"it needs step `{failed}`, which has no result")
    is_finished, failure = run.state == "finished", run.failure() or {}
    state: StepState = "finished" if is_finished else "failed"
    return StepOutcome(
        **about,
        state=state,
        directory=_relative(run, run.run.path),
        product=_relative(run, run.product_path) if is_finished else None,
        figures=step.kind.figures(run.run) if is_finished else [],
        code=failure.get("code"),
        reason=failure.get("reason"),
        attempts=run.num_attempts(),
        wall_s=round(run.seconds(), 1),
    )


def _relative(run: StepRun, path: os.PathLike[str]) -> str:
    return os.path.relpath(path, run.job.path)
