"""What Optuna is asked: the next values of a sweep by `tpe`, and whether a run is worse than others.

Its study is built in memory from the files of the trials each time (docs/adr/0019): nothing has to be kept in step with
them. Optuna is loaded only when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.schema.sweep import Pruning, Range

Choices = Mapping[str, int | float]
"""For each setting the index in its list of values, or the value in its range."""


def suggest(
    space: Mapping[str, Any],
    known: Sequence[tuple[Choices, float | None]],
    metric: Metric,
    seed: int,
) -> dict[str, int | float]:
    """The choices for the next trial by a tree-structured Parzen estimator (optuna 5's TPESampler).

    `space` has for each setting a list of values or a `Range`. `known` has the choices of the other trials with their
    values, None for those that are still being executed.
    """
    from optuna.samplers import TPESampler

    distributions = {name: _distribution(values) for name, values in space.items()}
    study = _study(metric, TPESampler(seed=seed))
    _add(study, distributions, known)
    return study.ask(distributions).params


def is_worse_than_others(
    values: Sequence[float], others: Sequence[Sequence[float]], metric: Metric, pruning: Pruning
) -> bool:
    """Whether the best of a run's values so far is worse than a percentile of the values that finished runs had at the
    same evaluation (optuna 5's PercentilePruner)."""
    from optuna.pruners import PercentilePruner
    from optuna.trial import TrialState, create_trial

    study = _study(metric, None)
    for other in others:
        past = dict(enumerate(other, 1))
        study.add_trial(create_trial(value=other[-1] if other else 0.0, intermediate_values=past))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(values, 1))))
    pruner = PercentilePruner(pruning.percentile, pruning.startup_trials, n_warmup_steps=pruning.warmup_evaluations + 1)
    return pruner.prune(study, study.trials[-1])


def _study(metric: Metric, sampler: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=sampler, direction="maximize" if metric.higher_is_better else "minimize")


def _add(study: Any, distributions: dict[str, Any], known: Sequence[tuple[Choices, float | None]]) -> None:
    from optuna.trial import TrialState, create_trial

    for choices, value in known:
        state = TrialState.RUNNING if value is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=value, params=dict(choices), distributions=distributions))


def _distribution(values: list[Any] | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):  # values may be lists and mappings, which Optuna does not take
        return CategoricalDistribution(range(len(values)))
    if values.is_whole:
        step = 1 if values.step is None else int(values.step)
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)
