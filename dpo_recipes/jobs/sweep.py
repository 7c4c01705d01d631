"""Runs a sweep: finds or makes its directory, works on its runs until all have ended, and chooses the best trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.jobs.array import work_in_array
from dpo_recipes.jobs.devices import DeviceWish, share_devices
from dpo_recipes.jobs.directory import SweepDirectory, open_or_create
from dpo_recipes.jobs.keep import remove_all_but, remove_losers
from dpo_recipes.jobs.outcome import finish, sweep_metric
from dpo_recipes.jobs.parallel import work_in_parallel
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.jobs.trial_executor import TrialExecutor
from dpo_recipes.jobs.trial_run import TrialRun, runs_of
from dpo_recipes.jobs.work import work
from dpo_recipes.preparation import check_permitted
from dpo_recipes.recipe.sweep_checks import nodes_by_hand
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.run_dir import RunDirectory, find_output_dir, written_to
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep whose runs have ended, with its result."""

    directory: SweepDirectory
    result: SweepResult


def run_sweep(
    validated: Validated, on_event: EventHandler, options: RunOptions | None = None, *, resume: bool | None = None
) -> FinishedSweep:
    """Run all trials of a recipe with a sweep, and choose the best.

    An unfinished sweep of the same recipe is resumed, or joined if another command works on it, unless `resume` is
    False; with True there must be one. A trial that fails is recorded with its reason, and the next one starts.
    `on_event` gets the events of each run; first of all `{"event": "sweep", "dir", "num_runs", "metric", "resumed"}`,
    before each run `{"event": "trial", "name", "number", "values", "seed"}`, and after it `{"event": "trial_ended",
    "name", "number", "values", "state", "value", "text"}`. If several runs are executed at the same time, or by SLURM,
    each event of one has its name as `of`.

    Raises `RecipeError` for what the command or the machine lacks (R316, R317, R368), `RunError` T650 if all trials
    failed, T601, T602, T611, T614, T615, those of SLURM (`work_in_array`), and `Interrupted`.
    """
    options = options or RunOptions()
    recipe = validated.recipe
    _check_nodes(validated, options)
    functions = options.reward_functions
    check_permitted(validated, trust_remote_code=options.trust_remote_code, reward_functions=functions)
    sweep, is_resumed = open_or_create(validated, find_output_dir(recipe.output_dir), resume=resume)
    runs = runs_of(sweep, validated)
    first = {"event": "sweep", "dir": str(sweep.path), "num_runs": len(runs), "metric": sweep_metric(recipe)}
    on_event({**first, "resumed": is_resumed})
    if is_resumed:
        _forget_transient_failures(runs)
        remove_losers(runs, sweep_metric(recipe))  # `keep` may have changed, for example because the disk was full
    if recipe.launch.backend == "slurm":
        work_in_array(runs, on_event, options)
    else:
        _work_here(runs, on_event, options)
    result = finish(sweep, recipe, runs)
    if result.best is None:
        raise _all_failed(result, sweep)
    remove_all_but(result.best.run, runs)  # this command may have had a run when another one wrote the result
    return FinishedSweep(sweep, result)


def _work_here(runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> None:
    recipe = runs[0].validated.recipe
    environments = share_devices([DeviceWish.of(recipe)], recipe.sweep.parallel if recipe.sweep else 1, options.flags)
    if len(environments) > 1:
        on_event({"event": "note", "text": f"{len(environments)} runs at a time"})
        work_in_parallel(runs, TrialExecutor(), on_event, options, environments)
    work(runs, TrialExecutor(), on_event, options)  # all runs, or those that are left because their worker was killed


def _forget_transient_failures(runs: Sequence[TrialRun]) -> None:
    with written_to(RunDirectory(runs[0].sweep.path)):
        for run in runs:
            with run.claimed() as is_ours:
                if is_ours and (run.failure() or {}).get("is_transient"):
                    run.forget_failure()


def _check_nodes(validated: Validated, options: RunOptions) -> None:
    num_nodes = options.flags.num_nodes or 1
    if num_nodes > 1 and validated.recipe.launch.backend != "slurm":
        raise RecipeError(nodes_by_hand(num_nodes))


def _all_failed(result: SweepResult, sweep: SweepDirectory) -> RunError:
    reasons: dict[str, list[int]] = {}
    for trial in result.trials:
        for run in trial.runs:
            if run.reason:
                code = f" ({run.code})" if run.code else ""
                reasons.setdefault(f"{run.reason}{code}", []).append(trial.number)
    shown = [
        f"trial{'s' * (len(set(numbers)) > 1)} {', '.join(map(str, dict.fromkeys(numbers)))}: {reason}"
        for reason, numbers in reasons.items()
    ]
    return RunError.of(
        "T650",
        f"none of the {len(result.trials)} trials has a result",
        why="; ".join(shown),
        fix=f"{sweep.runs}/*.failed.json have the whole errors; correct the recipe and run it again",
    )
