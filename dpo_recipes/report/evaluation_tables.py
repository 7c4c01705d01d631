"""The tables of an evaluation, for its page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dpo_recipes.evaluate.measures import MARGIN, METRICS, REWARD, TOTAL
from dpo_recipes.evaluate.result import Estimate, EvaluationResult, ModelComparison
from dpo_recipes.formats import NO_VALUE, format_count, format_percent
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.report.table import Table

_KNOWN = {metric.key: metric for metric in METRICS}
INTERVALS_NOTE = (
    "The numbers in brackets are 95% intervals: Student's for means, Wilson's for shares, and from 1000 bootstrap "
    "samples of the prompts for BLEU, perplexity and win-rates. Differences are paired by prompt."
)


def list_verdicts(result: EvaluationResult) -> list[str]:
    """For each comparison, a sentence about the mean reward: whether it differs by more than chance explains."""
    return [
        _verdict(result, comparison, key)
        for comparison in result.comparisons
        for key in main_rewards(comparison.differences)
    ]


def main_rewards(values: Mapping[str, Estimate]) -> list[str]:
    """The keys of mean rewards: that of the sum if there are several sources."""
    keys = [key for key in values if key.startswith(REWARD)]
    return [REWARD + TOTAL] if REWARD + TOTAL in keys else keys


def _verdict(result: EvaluationResult, comparison: ModelComparison, key: str) -> str:
    means = {model.name: model.metrics[key].value for model in result.models if key in model.metrics}
    metric, difference = metric_of(key), comparison.differences[key]
    own, other = (metric.format(means.get(name)) for name in (comparison.model, comparison.against))
    shown = f"{show_estimate(difference, _signed(metric))} on {format_count(difference.count)} prompts"
    what = f"{metric.label} of {comparison.model} and {comparison.against}: {own} and {other}"
    if difference.low is None:
        return f"{what}."
    if not difference.excludes_zero:
        return f"{what}, a difference of {shown}, which chance alone can explain."
    return f"{what}, a difference of {shown}, more than chance explains."


def list_main_tables(result: EvaluationResult) -> list[Table]:
    """The values of each model and the win-rates."""
    return [_values(result), *_win_rates(result)]


def list_evaluation_tables(result: EvaluationResult) -> list[Table]:
    """The values of each model, the comparisons, and how good the judges are."""
    return [*list_main_tables(result), *_differences(result), *_judges(result)]


def _values(result: EvaluationResult) -> Table:
    keys = dict.fromkeys(key for model in result.models for key in model.metrics)
    rows = [
        [metric_of(key).label, *(_cell(model.metrics, key, metric_of(key).format) for model in result.models)]
        for key in keys
    ]
    return Table("Values on the same prompts", ["Metric", *(model.name for model in result.models)], rows)


def _win_rates(result: EvaluationResult) -> list[Table]:
    rows = []
    for source in dict.fromkeys(key for comparison in result.comparisons for key in comparison.win_rates):
        rows.append([source, *(_cell(one.win_rates, source, format_percent) for one in result.comparisons)])
        controlled = [_cell(one.length_controlled_win_rates, source, format_percent) for one in result.comparisons]
        rows.append([f"{source}, at equal length", *controlled])
    return [Table(f"Win-rate over {result.comparisons[0].against}", _compared(result), rows)] if rows else []


def _differences(result: EvaluationResult) -> list[Table]:
    others = result.comparisons
    if not others:
        return []
    keys = dict.fromkeys(key for comparison in others for key in comparison.differences)
    rows = [
        [metric_of(key).label, *(_cell(one.differences, key, _signed(metric_of(key))) for one in others)]
        for key in keys
    ]
    return [Table(f"Differences from {others[0].against}", _compared(result), rows)]


def _compared(result: EvaluationResult) -> list[str]:
    """The columns of a table with one column for each comparison."""
    return ["", *(comparison.model for comparison in result.comparisons)]


def _judges(result: EvaluationResult) -> list[Table]:
    rows = [
        [judge.name, show_estimate(judge.accuracy, format_percent), show_estimate(judge.margin, MARGIN.format)]
        for judge in result.judges
    ]
    columns = ["Source of rewards", "Chosen answer preferred", "Reward of the chosen minus the rejected answer"]
    return [Table("The sources of rewards on the pairs of the data", columns, rows)] if rows else []


def metric_of(key: str) -> Metric:
    """The metric of a key, which is also that of a mean reward."""
    return _KNOWN.get(key) or Metric(key, f"Mean reward ({key.removeprefix(REWARD)})", is_signed=True)


def _signed(metric: Metric) -> Callable[[float], str]:
    def show(value: float) -> str:
        text = metric.format(value)
        return text if metric.is_signed or value < 0 or not float(f"{value:.12f}") else f"+{text}"

    return show


def _cell(values: Mapping[str, Estimate], key: str, show: Callable[[float], str]) -> str:
    return show_estimate(values.get(key), show)


def show_estimate(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    """A value with its interval."""
    if estimate is None:
        return NO_VALUE
    if estimate.low is None or estimate.high is None:
        return show(estimate.value)
    return f"{show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}]"
