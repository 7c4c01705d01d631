"""The sentences at the top of a comparison: which configuration is best, by how much, and whether that is noise."""

from __future__ import annotations

from dpo_recipes.formats import format_count, format_number
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.report.comparison import Comparison, Configuration, Difference


def write_comparison_verdict(comparison: Comparison) -> str:
    """One to three sentences."""
    metric, best = comparison.metric, comparison.best
    if metric is None:
        return "These runs share no metric by which they could be ranked."
    name = f"held-out {metric.label[0].lower()}{metric.label[1:]}"
    if best is None:
        measured = [configuration for configuration in comparison.configurations if configuration.value is not None]
        if not measured:
            return f"No run has measured the {name}."
        only = measured[0]
        if len(only.runs) == 1:
            return f"The {name} of {only.label} is {show_mean(metric, only)}; there is no other run to compare it with."
        return (
            f"The {len(only.runs)} runs differ only in their seeds: their mean {name} is {show_mean(metric, only)}, "
            "and there is no other configuration to compare it with."
        )
    others = [c for c in comparison.configurations if c.from_best is not None]
    second = others[0]
    text = f"#{best.number} {best.label} is best by the {name}: {show_mean(metric, best)}"
    assert second.from_best is not None
    if second.from_best.value == 0:
        text += f", the same as #{second.number} {second.label}."
    else:
        text += f", {show_distance(metric, second.from_best)} {_beyond(metric)} #{second.number} {second.label}."
    return " ".join(filter(None, (text, _noise(comparison, second), _others(others))))


def show_mean(metric: Metric, configuration: Configuration) -> str:
    """The value of a configuration, with the interval of the mean if there are several runs."""
    value = metric.format(configuration.value)
    if configuration.half_width is None:
        return value
    return f"{value} ± {_size(metric, configuration.half_width)}"


def show_distance(metric: Metric, difference: Difference) -> str:
    """The size of a difference with its unit: of shares in percentage points."""
    return _size(metric, abs(difference.value)) + (" points" if metric.is_share else "")


def show_difference(metric: Metric, difference: Difference) -> str:
    """A difference with its sign, and what it means."""
    scale = 100 if metric.is_share else 1
    text = format_number(difference.value * scale, metric.decimals, signed=True)
    words = {True: "within noise", False: "beyond noise", None: "noise unknown"}
    return f"{text} ({words[difference.is_noise]})"


def _size(metric: Metric, value: float) -> str:
    """A positive value with the decimals of the metric, or more if these would show a zero."""
    scaled = value * (100 if metric.is_share else 1)
    decimals = metric.decimals
    while 0 < scaled < 10**-decimals and decimals < 6:
        decimals += 1
    return format_number(scaled, decimals)


def _beyond(metric: Metric) -> str:
    return "above" if metric.higher_is_better else "below"


def _noise(comparison: Comparison, second: Configuration) -> str:
    """What the difference to the second one is worth."""
    metric, difference = comparison.metric, second.from_best
    assert metric is not None
    assert difference is not None
    if difference.interval is None:
        return (
            "How much it varies by chance is unknown: repeat runs with other values of training.seed to tell a "
            "difference from noise."
        )
    scale, unit = (100, " points") if metric.is_share else (1, "")
    low, high = (format_number(bound * scale, metric.decimals, signed=True) for bound in difference.interval)
    if comparison.spread is not None:
        degrees = format_count(comparison.spread.degrees)
        source, limit = f"Judged by how much runs with other seeds vary ({degrees} degrees of freedom)", ""
    else:
        count = format_count(second.runs[0].finished.result.num_eval_rows)
        source = f"On {count} held-out {comparison.objective.row_noun}s"
        limit = " It leaves out the variation between seeds."
    meaning = "within noise" if difference.is_noise else "more than noise"
    return f"{source}, the 95% interval of the difference is {low} to {high}{unit}: {meaning}.{limit}"


def _others(others: list[Configuration]) -> str:
    """How many of the others cannot be told from the best one."""
    known = [c for c in others if c.from_best is not None and c.from_best.is_noise is not None]
    if len(known) < 2:
        return ""
    close = sum(c.from_best is not None and c.from_best.is_noise is True for c in known)
    return f"{close} of the {len(known)} others {'is' if close == 1 else 'are'} within noise of it."
