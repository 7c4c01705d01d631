"""The sentence at the top of the report, which says what the run achieved."""

from typing import Any

from dpo_recipes.evaluate.significance import accuracy_interval
from dpo_recipes.formats import (
    diverged,
    finite,
    format_count,
    format_number,
    format_percent,
)

# Below this a margin prints as 0.00, so the base is as good as identical to the reference.
ZERO_MARGIN = 0.005


def base_is_reference(result: dict[str, Any]) -> bool:
    """Whether the base shows no margin, as it must when it is its own reference."""
    margin = finite((result.get("base_metrics") or {}).get("eval_rewards/margins"))
    return margin is None or abs(margin) < ZERO_MARGIN


def write_verdict(result: dict[str, Any]) -> str:
    """One sentence with the numbers that decide whether the run was worth it."""
    metrics = result.get("metrics") or {}
    start = _describe_run(result)
    for key, name in (("train_loss", "training loss"), ("eval_loss", "held-out loss")):
        if diverged(metrics.get(key)):
            return (
                f"{start}, the {name} is {format_number(metrics[key])}: "
                "training diverged, and the tuned model should not be used."
            )
    clauses = [_describe_accuracy(result), _describe_length(result)]
    if clauses[0] is None:
        clauses[0] = _describe_training_only(metrics)
    return f"{start}, {'; '.join(clause for clause in clauses if clause)}."


def _describe_run(result: dict[str, Any]) -> str:
    steps = finite(result.get("steps"))
    text = f"{format_count(result.get('steps'))} {'step' if steps == 1 else 'steps'}"
    if finite(result.get("num_train_pairs")) is not None:
        text += f" on {format_count(result['num_train_pairs'])} training pairs"
    if result.get("status") == "finished":
        return f"After {text}"
    return f"The run did not finish (status: {result.get('status')}); after {text}"


def _describe_accuracy(result: dict[str, Any]) -> str | None:
    accuracy = finite((result.get("metrics") or {}).get("eval_rewards/accuracies"))
    if accuracy is None:
        return None
    num_pairs = finite(result.get("num_eval_pairs"))
    counted = bool(num_pairs and num_pairs > 0 and 0 <= accuracy <= 1)
    pairs = "held-out pairs"
    if counted:
        pairs = f"{format_count(num_pairs)} held-out {'pair' if num_pairs == 1 else 'pairs'}"
    text = f"the tuned model ranks the chosen answer above the rejected one in {format_percent(accuracy, 0)} of {pairs}"
    if counted and num_pairs:
        text += _compare_with_guessing(accuracy, num_pairs)
    return text + _describe_margin(result)


def _compare_with_guessing(accuracy: float, num_pairs: float) -> str:
    low, high = accuracy_interval(accuracy, num_pairs)
    interval = f"95% interval {format_percent(low, 0)} to {format_percent(high, 0)}"
    if low > 0.5:
        return f" ({interval}; guessing gives 50%)"
    if high < 0.5:
        return f" ({interval}), which is worse than guessing"
    return f" ({interval}), which so few pairs cannot tell from guessing"


def _describe_margin(result: dict[str, Any]) -> str:
    margin = finite((result.get("metrics") or {}).get("eval_rewards/margins"))
    if margin is None:
        return ""
    text = f", with a mean margin of {format_number(margin, 2, signed=True)}"
    if base_is_reference(result):
        return f"{text} where the base compared with itself has 0 by definition"
    base = (result.get("base_metrics") or {}).get("eval_rewards/margins")
    return f"{text} against {format_number(base, 2, signed=True)} for the base"


def _describe_length(result: dict[str, Any]) -> str | None:
    words = result.get("answer_words") or {}
    base, tuned = finite(words.get("base")), finite(words.get("tuned"))
    if base is None or tuned is None:
        return None
    change = f"from {format_number(base, 1)} to {format_number(tuned, 1)} words"
    return f"its answers went {change} on average"


def _describe_training_only(metrics: dict[str, Any]) -> str:
    unknown = "no held-out accuracy was recorded, so whether it generalizes is unknown"
    loss = finite(metrics.get("train_loss"))
    if loss is None:
        return unknown
    return f"the mean training loss is {format_number(loss)}, but {unknown}"
