"""Runs a chain: finds or makes its directory, does the steps that are not done yet, and writes the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_recipes.errors import Finding, RecipeError, RunError
from dpo_recipes.jobs.chain_directory import ChainDirectory, open_or_create
from dpo_recipes.jobs.chain_file import ValidatedChain
from dpo_recipes.jobs.chain_outcome import finish
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.jobs.devices import share_devices
from dpo_recipes.jobs.parallel import work_in_parallel
from dpo_recipes.jobs.step_executor import StepExecutor
from dpo_recipes.jobs.step_run import StepRun, runs_of
from dpo_recipes.jobs.steps.base import Step
from dpo_recipes.jobs.work import work
from dpo_recipes.locks import held
from dpo_recipes.recipe.sweep_checks import nodes_by_hand
from dpo_recipes.run_dir import RunDirectory, find_output_dir, written_to
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions


@dataclass(frozen=True)
class FinishedChain:
    """A chain whose steps have all finished, with its result."""

    directory: ChainDirectory
    result: ChainResult


def run_chain(
    validated: ValidatedChain, on_event: EventHandler, options: RunOptions | None = None, *, resume: bool | None = None
) -> FinishedChain:
    """Do the steps of a chain in the order of need.

    The newest directory of the chain is used again, unless `resume` is False; with True there must be one. A step that
    has finished there with the same inputs is not done again, and one that was interrupted is resumed. If a step fails,
    those that do not need it are done nevertheless. `on_event` gets the events of each run; first of all
    `{"event": "chain", "dir", "steps", "done", "resumed"}`, before each step `{"event": "chain_step", "name", "work"}`,
    and after it `{"event": "chain_step_ended", "name", "state", "text", "figures"}`. If several steps are executed at
    the same time, each event of one has its name as `of`.

    Raises `RecipeError` for what the command or the machine lacks (R316, R317, R368), `RunError` T662 if a step failed,
    T601, T602, T614 and T615, and `Interrupted`.
    """
    options = options or RunOptions()
    _check_permitted(validated.steps, options)
    job, is_resumed = open_or_create(validated, find_output_dir(validated.chain.output_dir), resume=resume)
    runs = runs_of(job, validated.steps, time.time())
    done = [run.step.name for run in runs if run.state == "finished"]
    if len(done) < len(runs):
        with written_to(RunDirectory(job.path)), held(job.lock):
            job.result.unlink(missing_ok=True)
    names = [run.step.name for run in runs]
    on_event({"event": "chain", "dir": str(job.path), "steps": names, "done": done, "resumed": is_resumed})
    environments = _share(validated, [run for run in runs if run.step.name not in done], options)
    if len(environments) > 1:
        on_event({"event": "note", "text": f"up to {len(environments)} steps at a time"})
        work_in_parallel(runs, StepExecutor(), on_event, options, environments)
    work(runs, StepExecutor(), on_event, options)  # all steps, or those that are left because their worker was killed
    result = finish(job, validated.chain.name, runs)
    if result.status == "failed":
        raise _failed(result, job)
    return FinishedChain(job, result)


def _share(validated: ValidatedChain, left: Sequence[StepRun], options: RunOptions) -> list[dict[str, str]]:
    """The environments of the processes that execute the steps that are left: not more of them than steps that do not
    need each other."""
    if not left:
        return [{}]
    wishes = [run.step.kind.devices(run.step.checked.settings) for run in left]
    wanted: int | Literal["auto"] = validated.chain.parallel
    width = _width([run.step for run in left])
    if width == 1:
        return share_devices(wishes, 1, options.flags)
    return share_devices(wishes, wanted if wanted == "auto" else min(wanted, width), options.flags)[:width]


def _width(steps: Sequence[Step]) -> int:
    """The largest number of steps with the same number of steps before them on their longest way from the start."""
    depths: dict[str, int] = {}
    for step in steps:
        before = [depths[need.step.name] + 1 for need in step.needs if need.step.name in depths]
        depths[step.name] = max(before, default=0)
    return max(list(depths.values()).count(depth) for depth in depths.values())


def _check_permitted(steps: Sequence[Step], options: RunOptions) -> None:
    """Raise `RecipeError` R316, R317, R368 and R380 for all steps, before anything is written."""
    findings: dict[Finding, None] = {}
    num_nodes = options.flags.num_nodes or 1
    if num_nodes > 1 and not all(step.kind.devices(step.checked.settings).is_elsewhere for step in steps):
        findings[nodes_by_hand(num_nodes, "step", "chain")] = None
    for step in steps:
        try:
            step.kind.check_permitted(step.checked, options)
        except RecipeError as error:
            findings |= dict.fromkeys(error.findings)
    if findings:
        raise RecipeError(*findings)


def _failed(result: ChainResult, job: ChainDirectory) -> RunError:
    failed = [step for step in result.steps if step.state == "failed"]
    not_run = [step.name for step in result.steps if step.state == "not_run"]
    reasons = [f"{step.name}: {step.reason}{f' ({step.code})' if step.code else ''}" for step in failed]
    without = f"; without it, {', '.join(not_run)} could not begin" if not_run else ""
    named = " and ".join(f"`{step.name}`" for step in failed)
    return RunError.of(
        "T662",
        f"step {named} of the chain failed" if len(failed) == 1 else f"the steps {named} of the chain failed",
        why="; ".join(reasons) + without,
        fix=f"{job.runs}/*.failed.json have the whole errors; correct what they name and run the chain again: what has "
        "finished is kept",
    )
