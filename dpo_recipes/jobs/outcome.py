"""Turns the files of a sweep's runs into its result, and puts the best model beside it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from dpo_recipes.formats import utc_stamp
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.keep import remove_all_but
from dpo_recipes.jobs.ranking import choose_best, judge_settings, mean_and_interval
from dpo_recipes.jobs.sweep_result import RunOutcome, State, SweepResult, TrialOutcome
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.locks import held
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.dump import dump_recipe, read_resolved
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, write_text_atomically, written_to

_BEST_SUFFIX = "-best"


def sweep_metric(recipe: Recipe) -> Metric:
    """The metric by which the trials of a recipe are compared, in the direction that the recipe asks for."""
    sweep, objective = recipe.sweep, objective_of(recipe)
    assert sweep is not None, "the recipe has a sweep"
    metric = objective.metric(sweep.metric or objective.best_metric)
    return replace(metric, higher_is_better=sweep.direction == "maximize") if sweep.direction else metric


def finish(sweep: SweepDirectory, recipe: Recipe, runs: Sequence[TrialRun]) -> SweepResult:
    """Write `best/`, remove what `sweep.keep` says, and write the result of a sweep whose runs have ended. If another
    command was faster, its result is returned. Raises `RunError` T601, T602 and T642."""
    with written_to(RunDirectory(sweep.path)), held(sweep.lock):
        if sweep.result.exists():
            return SweepResult.read(sweep.result)
        metric = sweep_metric(recipe)
        by_trial: dict[int, list[TrialRun]] = {}
        for run in runs:
            if run.find_trial() is not None:  # else the sweep ended before its values were chosen
                by_trial.setdefault(run.number, []).append(run)
        trials = [_trial_outcome(members, metric) for members in by_trial.values()]
        best = choose_best(trials, metric)
        if best is not None:
            _write_best(sweep, recipe, best.run)
        result = SweepResult(
            status="finished" if best else "failed",
            recipe=recipe.name,
            objective=recipe.objective.kind,
            metric=metric.key,
            direction="maximize" if metric.higher_is_better else "minimize",
            trials=trials,
            best=best,
            importances=judge_settings(trials),
            wall_s=round(sum(run.wall_s for trial in trials for run in trial.runs), 1),
            started_at=utc_stamp(sweep.resolved_recipe.stat().st_mtime),
            finished_at=utc_stamp(time.time()),
        )
        if best is not None:
            remove_all_but(best.run, runs)  # before the result, so that a sweep that is killed here is not finished
        result.write(sweep.result)
        return result


def _trial_outcome(runs: Sequence[TrialRun], metric: Metric) -> TrialOutcome:
    outcomes = [_run_outcome(run, metric) for run in runs]
    mean, interval = mean_and_interval([run.value for run in outcomes if run.value is not None])
    states = [outcome.state for outcome in outcomes]
    order: tuple[State, ...] = ("out_of_memory", "failed", "pruned", "not_run")
    state: State = "finished" if mean is not None else next(each for each in order if each in states)
    trial = runs[0].trial
    return TrialOutcome(
        number=trial.number, values=trial.values, state=state, value=mean, interval=interval, runs=outcomes
    )


def _run_outcome(run: TrialRun, metric: Metric) -> RunOutcome:
    failure, value = run.failure() or {}, run.value(metric)
    state: State = "not_run" if run.state == "unfinished" else run.state
    reason = "the sweep ended before" if state == "not_run" else failure.get("reason")
    if state == "finished" and value is None:
        state, reason = "failed", f"it has no finite value of `{metric.key}`"
    return RunOutcome(
        directory=str(run.run.path.relative_to(run.sweep.path)),
        seed=run.seed,
        state=state,
        value=value,
        code=failure.get("code"),
        reason=reason,
        attempts=run.num_attempts(),
        wall_s=round(run.seconds(), 1),
    )


def _write_best(sweep: SweepDirectory, recipe: Recipe, directory: str) -> None:
    """`best/recipe.yaml`, which runs the best trial alone, and `best/model`, a link to its model."""
    run = RunDirectory(sweep.path / directory).shared_run
    best = read_resolved(run.resolved_recipe)
    name = recipe.name[: 100 - len(_BEST_SUFFIX)] + _BEST_SUFFIX
    best = best.model_copy(update={"name": name, "tracking": recipe.tracking})
    partial = sweep.path / "best.partial"
    for folder in (partial, sweep.best):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    write_text_atomically(partial / "recipe.yaml", f"# The best trial of the sweep: {directory}\n{dump_recipe(best)}")
    model = run.path / MODEL_FOLDER
    try:
        (partial / MODEL_FOLDER).symlink_to(os.path.relpath(model, sweep.best), target_is_directory=True)
    except OSError:  # a file system without links
        shutil.copytree(model, partial / MODEL_FOLDER)
    partial.rename(sweep.best)
