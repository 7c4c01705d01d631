"""Checks of the `sweep` section itself; `validate` also checks the recipe of each trial."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from dpo_recipes.errors import Finding
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.launch_checks import is_installed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.metric_checks import metric_finding
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.sweep import Range, Sweep
from dpo_recipes.recipe.trials import num_combinations

MAX_TRIALS = 1000
_SAME_IN_AN_ARRAY = re.compile(r"launch($|\.)|hardware($|\.(device|profile)$)")
_NOT_SWEPT = {
    "schema": "all trials have the same schema",
    "name": "each trial gets a name from that of the recipe",
    "output_dir": "the trials of a sweep share one folder",
    "extends": "parents are read before a sweep begins",
    "sweep": "a sweep has no sweeps in it",
}


def check_settings(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R360: nothing is varied; R362: a setting that cannot be swept, or is given twice."""
    sweep = recipe.sweep
    if sweep is None:
        return
    if not list(_settings(sweep)) and sweep.seeds == 1:
        yield Finding(
            "R360",
            "the sweep varies nothing",
            composed.where(("sweep",), key=True),
            "it has no setting in `grid`, `zip`, `random` or `tpe`, and one seed",
            "write the values to try, such as `grid: {training.learning_rate: [1e-5, 3e-5]}`, or `seeds: 3`",
        )
    for place in _settings(sweep):
        name = str(place[-1])
        section = re.split(r"[.\[]", name, maxsplit=1)[0]
        reason = _NOT_SWEPT.get(section)
        if sweep.seeds > 1 and name == "training.seed":
            reason = "`seeds` sets it for each run of a trial"
        if recipe.launch.backend == "slurm" and _SAME_IN_AN_ARRAY.match(name):
            reason = "with `backend: slurm` all runs are tasks of one array, which request the same resources"
        if reason is not None:
            where = composed.where(place, key=True)
            yield Finding("R362", f"`{name}` cannot be swept", where, reason, "remove it from the sweep")
    for first, second in itertools.combinations(_settings(sweep), 2):
        yield from _check_overlap(first, second, composed)


def _check_overlap(first: DataPath, second: DataPath, composed: Composed) -> Iterator[Finding]:
    names = sorted((str(first[-1]), str(second[-1])), key=len)
    if names[0] == names[1] or names[1].startswith((f"{names[0]}.", f"{names[0]}[")):
        yield Finding(
            "R362",
            f"`{names[1]}` is swept twice",
            composed.where(second, key=True),
            f"`{names[0]}` is in `sweep.{first[1]}` too, and one would replace the values of the other",
            "keep one of them",
        )


def check_values(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R361: zipped lists of unequal length; R365: too many trials; R366: the same trial twice."""
    sweep = recipe.sweep
    if sweep is None:
        return
    lengths = {name: len(values) for name, values in sweep.zip.items()}
    usual = next(iter(lengths.values()), 0)
    for name, length in lengths.items():
        if length != usual:
            yield Finding(
                "R361",
                f"`{name}` has {length} value{'s' * (length != 1)}, but `{next(iter(lengths))}` has {usual}",
                composed.where(("sweep", "zip", name)),
                "the first values of zipped settings belong together, and so on, so all have equally many",
                "write as many values for each, or use `grid` for all combinations",
            )
    for name, values in sweep.grid.items():
        texts = [json.dumps(value, sort_keys=True) for value in values]
        for index, text in enumerate(texts):
            if text in texts[:index]:
                yield Finding(
                    "R366",
                    f"`{name}` has the value {text} twice",
                    composed.where(("sweep", "grid", name, index)),
                    "the same trials would be computed twice",
                    "remove it; `seeds` repeats each trial with other seeds",
                )
    if (
        len(set(lengths.values())) <= 1
        and min(num_combinations(sweep), sweep.max_trials or MAX_TRIALS + 1) > MAX_TRIALS
    ):
        yield Finding(
            "R365",
            f"the sweep has {num_combinations(sweep):,} trials",
            composed.where(("sweep",), key=True),
            f"all combinations are tried, and at most {MAX_TRIALS} can be",
            "remove values, or give `max_trials`",
        )


def check_metric(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R364: trials cannot be compared by the metric; R367: nothing is held out; R396: a loss that depends on what is
    varied."""
    sweep, objective = recipe.sweep, objective_of(recipe)
    if sweep is None:
        return
    if not recipe.data.eval.is_set:
        yield Finding(
            "R367",
            "the trials of this sweep cannot be compared",
            composed.where(("sweep",), key=True),
            "they are compared on held-out rows, and nothing is held out",
            "add `data.eval`, for example `eval: {fraction: 0.05}`",
        )
    if sweep.metric is not None:
        where, needs_direction = composed.where(("sweep", "metric")), sweep.direction is None
        instead = f"remove `metric` for `{objective.best_metric}`"
        found = metric_finding("R364", sweep.metric, objective, where, instead=instead, needs_direction=needs_direction)
        if found is not None:
            yield found
    varied = [place for place in _settings(sweep) if re.match(r"objective($|\.)", str(place[-1]))]
    if sweep.metric is None and objective.best_metric == "loss" and varied:
        others = [metric.key for metric in objective.metrics[1:] if metric.higher_is_better is not None]
        better = f"choose by a metric that means the same in all trials, such as `metric: {others[0]}`, or "
        yield Finding(
            "R396",
            f"the held-out loss depends on `{varied[0][-1]}` itself",
            composed.where(varied[0], key=True),
            "the loss of one trial is then another function than that of the next one, and a lower value need not "
            "mean a better model",
            (better if others else "") + "write `metric: loss` if you want to choose by the loss",
            "warning",
        )


def check_nodes(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R368: trials on several machines whose commands would each take another trial."""
    if recipe.sweep is not None and recipe.launch.num_nodes > 1 and recipe.launch.backend != "slurm":
        yield replace(nodes_by_hand(recipe.launch.num_nodes), where=composed.where(("launch", "num_nodes")))


def nodes_by_hand(num_nodes: int, noun: str = "trial", whole: str = "sweep") -> Finding:
    """The finding R368 for runs of a job on several nodes that no launcher starts together."""
    return Finding(
        "R368",
        f"a {noun} of a {whole} cannot be started on {num_nodes} nodes by hand",
        why=f"each node's command would take another {noun}",
        fix=f"use `launch.backend: slurm` (or `--via slurm`), which starts all processes of a {noun}, or one node each",
    )


def _settings(sweep: Sweep) -> Iterator[DataPath]:
    """The places of the settings that the sweep varies."""
    for kind in ("grid", "zip", "random", "tpe"):
        for name in getattr(sweep, kind):
            yield ("sweep", kind, name)


def check_sampled(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R363: a range without values; R369: sampled settings beside others, or without a number of trials."""
    sweep = recipe.sweep
    if sweep is None or not (sweep.random or sweep.tpe):
        return
    kind = "tpe" if sweep.tpe else "random"
    where = composed.where(("sweep", kind), key=True)
    others = [other for other in ("grid", "zip", "random") if other != kind and getattr(sweep, other)]
    if others:
        yield Finding(
            "R369",
            f"`{kind}` cannot be combined with `{others[0]}`",
            where,
            "a grid tries all combinations, and `random` and `tpe` a number of their own",
            f"keep one of them; `{kind}` takes lists of values too",
        )
    if sweep.max_trials is None:
        why = f"`{kind}` never comes to an end"
        yield Finding("R369", f"`{kind}` needs the number of trials", where, why, "add `max_trials: 20` to the sweep")
    for name, values in getattr(sweep, kind).items():
        if isinstance(values, Range):
            yield from _check_range(name, values, ("sweep", kind, name), composed)


def check_optuna(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R316: Optuna is not installed; R370: runs are to be ended early that are evaluated only at their end."""
    sweep = recipe.sweep
    if sweep is None:
        return
    for key, is_used, without in (
        ("tpe", sweep.tpe, "use `random`, which needs no library"),
        ("pruning", sweep.pruning, "remove it"),
    ):
        if is_used and not is_installed("optuna"):
            where = composed.where(("sweep", key), key=True)
            fix = f"pip install 'dpo-recipe[sweep]', or {without}"
            yield Finding("R316", "optuna is not installed", where, f"`{key}` comes from it", fix)
    if sweep.pruning and recipe.training.eval_steps is None:
        yield Finding(
            "R370",
            "`pruning` needs evaluations during training",
            composed.where(("sweep", "pruning"), key=True),
            "runs are compared at their evaluations, and without `training.eval_steps` there is one at the end",
            "write `training.eval_steps`, for example `eval_steps: epoch`",
        )


def _check_range(name: str, values: Range, place: DataPath, composed: Composed) -> Iterator[Finding]:
    if values.low >= values.high:
        yield Finding(
            "R363",
            f"the range of `{name}` has no values",
            composed.where((*place, "low")),
            f"`low` is {values.low} and `high` is {values.high}",
            "swap them" if values.low > values.high else "write the value in the recipe instead",
        )
    if values.log and values.low <= 0:
        yield Finding(
            "R363",
            f"the range of `{name}` cannot be logarithmic",
            composed.where((*place, "low")),
            f"`low` is {values.low}, and only positive numbers have a logarithm",
            "raise `low` above 0, or remove `log`",
        )
    if values.log and values.step is not None:
        yield Finding(
            "R363",
            f"the range of `{name}` has both `log` and `step`",
            composed.where((*place, "step"), key=True),
            "equal steps are not equal shares of an order of magnitude",
            "remove one of them, or list the values",
        )
    elif values.step is not None and values.step > values.high - values.low >= 0:
        yield Finding(
            "R363",
            f"the range of `{name}` has the value {values.low} only",
            composed.where((*place, "step")),
            f"one step of {values.step} leads beyond {values.high}",
            "make `step` smaller",
        )


RULES = (check_settings, check_values, check_sampled, check_optuna, check_metric, check_nodes)
