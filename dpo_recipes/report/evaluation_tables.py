"""The tables of an evaluation, for its page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dpo_recipes.evaluate.measures import METRICS, REWARD
from dpo_recipes.evaluate.result import Estimate, EvaluationResult
from dpo_recipes.formats import NO_VALUE, format_percent
from dpo_recipes.objectives.base import Metric
from dpo_recipes.objectives.pair_metrics import MARGIN
from dpo_recipes.report.table import Table

_KNOWN = {metric.key: metric for metric in METRICS}
INTERVALS_NOTE = (
    "The numbers in brackets are 95% intervals: Student's for means, Wilson's for shares, and from 1000 bootstrap "
    "samples of the prompts for BLEU, perplexity and win-rates. Differences are paired by prompt."
)


def list_evaluation_tables(result: EvaluationResult) -> list[Table]:
    """The values of each model, and below them the comparisons."""
    keys = dict.fromkeys(key for model in result.models for key in model.metrics)
    rows = [
        [metric_of(key).label, *(_cell(model.metrics, key, metric_of(key).format) for model in result.models)]
        for key in keys
    ]
    columns = ["Metric", *(model.name for model in result.models)]
    tables = [Table("Values on the same prompts", columns, rows), *_comparison_tables(result)]
    if result.judges:
        judged = [
            [judge.name, show_estimate(judge.accuracy, format_percent), show_estimate(judge.margin, MARGIN.format)]
            for judge in result.judges
        ]
        columns = ["Source of rewards", "Chosen answer preferred", "Reward of the chosen minus the rejected answer"]
        tables.append(Table("The sources of rewards on the pairs of the data", columns, judged))
    return tables


def _comparison_tables(result: EvaluationResult) -> list[Table]:
    if not result.comparisons:
        return []
    others = result.comparisons
    against = others[0].against
    columns = ["", *(comparison.model for comparison in others)]
    keys = dict.fromkeys(key for comparison in others for key in comparison.differences)
    differences = [
        [metric_of(key).label, *(_cell(one.differences, key, _signed(metric_of(key))) for one in others)]
        for key in keys
    ]
    tables = [Table(f"Differences from {against}", columns, differences)]
    sources = dict.fromkeys(key for comparison in others for key in comparison.win_rates)
    rates = []
    for source in sources:
        rates.append([source, *(_cell(one.win_rates, source, format_percent) for one in others)])
        controlled = [_cell(one.length_controlled_win_rates, source, format_percent) for one in others]
        rates.append([f"{source}, at equal length", *controlled])
    if rates:
        tables.insert(0, Table(f"Win-rate over {against}", columns, rates))
    return tables


def metric_of(key: str) -> Metric:
    """The metric of a key, which is also that of a mean reward."""
    return _KNOWN.get(key) or Metric(key, f"Mean reward, {key.removeprefix(REWARD)}", is_signed=True)


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
