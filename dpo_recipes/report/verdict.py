"""The sentence at the top of the report, which says what the run achieved."""

from __future__ import annotations

from dpo_recipes.formats import diverged, finite, format_count, format_number, format_percent, format_short
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.run_result import RunResult
from dpo_recipes.significance import accuracy_interval


def write_verdict(result: RunResult, objective: Objective) -> str:
    """One sentence with the numbers that decide whether the run was worth it."""
    start = _describe_run(result, objective)
    for key, name in (("train_loss", "training loss"), ("eval_loss", "held-out loss")):
        value = result.metrics.get(key)
        if diverged(value):
            return (
                f"{start}, the {name} is {format_number(value)}: "
                "training diverged, and the tuned model should not be used."
            )
    quality = _describe_ranking(result, objective) or _describe_best(result, objective)
    clauses = [quality or _describe_training_only(result, objective), _describe_length(result)]
    return f"{start}, {'; '.join(clause for clause in clauses if clause)}."


def _describe_run(result: RunResult, objective: Objective) -> str:
    text = f"{format_count(result.steps)} {'step' if result.steps == 1 else 'steps'}"
    if result.num_train_rows is not None:
        text += f" on {format_count(result.num_train_rows)} training {objective.row_noun}s"
    if result.ended_early is not None:
        text += ", where training ended early"
    if result.status == "finished":
        return f"After {text}"
    return f"The run did not finish (status: {result.status}); after {text}"


def _describe_ranking(result: RunResult, objective: Objective) -> str | None:
    """How often a model that learns from pairs ranks them as the data do, with the interval of that share."""
    ranking = next((metric for metric in objective.metrics if metric.chance is not None), None)
    if objective.rows != "pair" or ranking is None:
        return None
    accuracy = finite(result.metrics.get(f"eval_{ranking.key}"))
    if accuracy is None:
        return None
    num_pairs = result.num_eval_rows
    counted = bool(num_pairs and num_pairs > 0 and 0 <= accuracy <= 1)
    pairs = "held-out pairs"
    if counted:
        pairs = f"{format_count(num_pairs)} held-out {'pair' if num_pairs == 1 else 'pairs'}"
    text = f"the tuned model ranks the chosen answer above the rejected one in {format_percent(accuracy, 0)} of {pairs}"
    if counted and num_pairs and ranking.chance is not None:
        text += _compare_with_guessing(accuracy, num_pairs, ranking.chance)
    others = [metric for metric in objective.metrics if metric.is_shown_live and metric not in (LOSS, ranking)]
    return text + "".join(_describe_other(metric, result) for metric in others)


def _compare_with_guessing(accuracy: float, num_pairs: float, chance: float) -> str:
    low, high = accuracy_interval(accuracy, num_pairs)
    interval = f"95% interval {format_percent(low, 0)} to {format_percent(high, 0)}"
    if low > chance:
        return f" ({interval}; guessing gives {format_percent(chance, 0)})"
    if high < chance:
        return f" ({interval}), which is worse than guessing"
    return f" ({interval}), which so few pairs cannot tell from guessing"


def _describe_other(metric: Metric, result: RunResult) -> str:
    tuned, base = (part.get(f"eval_{metric.key}") for part in (result.metrics, result.base_metrics))
    if finite(tuned) is None:
        return ""
    text = f", with a mean {metric.live_label} of {metric.format(tuned)}"
    if metric.base_value is not None:
        return f"{text} where the base compared with itself has {format_short(metric.base_value)} by definition"
    return text if finite(base) is None else f"{text} against {metric.format(base)} for the base"


def _describe_best(result: RunResult, objective: Objective) -> str | None:
    """The objective's best metric, and whether the tuned model is better by it than the base."""
    metric = objective.metric(objective.best_metric)
    tuned, base = (finite(part.get(f"eval_{metric.key}")) for part in (result.metrics, result.base_metrics))
    if tuned is None:
        return None
    text = f"the {metric.label.lower()}"
    if result.num_eval_rows:
        noun = objective.row_noun if result.num_eval_rows == 1 else f"{objective.row_noun}s"
        text += f" on {format_count(result.num_eval_rows)} held-out {noun}"
    text += f" is {metric.format(tuned)}"
    if base is None or metric.is_tied_at_base:
        return text
    if metric.is_better(tuned, base):
        return f"{text}, better than {metric.format(base)} for the base"
    if metric.is_better(base, tuned):
        return f"{text}, which is worse than {metric.format(base)} for the base"
    return f"{text}, the same as for the base"


def _describe_length(result: RunResult) -> str | None:
    words = result.answer_words
    if words is None or words.base is None or words.tuned is None:
        return None
    change = f"from {format_number(words.base, 1)} to {format_number(words.tuned, 1)} words"
    return f"its answers went {change} on average"


def _describe_training_only(result: RunResult, objective: Objective) -> str:
    unknown = f"nothing was measured on held-out {objective.row_noun}s, so whether it generalizes is unknown"
    loss = finite(result.metrics.get("train_loss"))
    if loss is None:
        return unknown
    return f"the mean training loss is {format_number(loss)}, but {unknown}"
