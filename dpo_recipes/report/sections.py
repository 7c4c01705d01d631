"""The tables and tiles of the report, as plain rows of text for the template."""

from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.report import describe_conversion
from dpo_recipes.formats import (
    NO_VALUE,
    finite,
    format_bytes,
    format_count,
    format_duration,
    format_number,
    format_percent,
    format_time,
    to_number,
)
from dpo_recipes.report.verdict import base_is_reference


@dataclass(frozen=True)
class Tile:
    """One key number: its name, its value, and the value to compare it with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """One metric of the base and of the tuned model."""

    label: str
    key: str
    base: str
    tuned: str
    change: str


# Label, key, decimals, whether signed, factor, unit.
_COMPARED = (
    ("Loss", "eval_loss", 3, False, 1, ""),
    ("Reward accuracy", "eval_rewards/accuracies", 1, False, 100, "%"),
    ("Reward margin", "eval_rewards/margins", 3, True, 1, ""),
    ("Reward of the chosen answer", "eval_rewards/chosen", 3, True, 1, ""),
    ("Reward of the rejected answer", "eval_rewards/rejected", 3, True, 1, ""),
    ("Log-probability of the chosen answer", "eval_logps/chosen", 1, False, 1, ""),
    ("Log-probability of the rejected answer", "eval_logps/rejected", 1, False, 1, ""),
)


def list_tiles(result: dict[str, Any]) -> list[Tile]:
    """The key numbers that were recorded; one that is missing has no tile."""
    return [t for t in (*_quality_tiles(result), *_cost_tiles(result)) if t.value != NO_VALUE]


def compare_models(result: dict[str, Any]) -> list[ComparisonRow]:
    """Base against tuned on the held-out pairs; a metric that neither has is left out."""
    metrics, base = result.get("metrics") or {}, result.get("base_metrics") or {}
    rows = []
    for label, key, decimals, signed, scale, suffix in _COMPARED:
        pair = [_scaled(values.get(key), scale) for values in (base, metrics)]
        before, after = (format_number(v, decimals, signed=signed, suffix=suffix) for v in pair)
        change = _change(pair[0], pair[1], decimals, " points" if suffix else "")
        if key == "eval_rewards/accuracies" and base_is_reference(result):
            # Equal rewards are ties, which the trainer counts as misses: nothing to subtract.
            change = NO_VALUE
        rows.append(ComparisonRow(label, key, before, after, change))
    words = result.get("answer_words") or {}
    before, after = words.get("base"), words.get("tuned")
    cells = format_number(before, 1), format_number(after, 1), _change(before, after, 1)
    rows.append(ComparisonRow("Words per generated answer", "answer_words", *cells))
    return [row for row in rows if (row.base, row.tuned) != (NO_VALUE, NO_VALUE)]


def list_splits(data_report: dict[str, Any]) -> list[dict[str, str]]:
    """One row for each split: rows read, kept, dropped, the reasons with their counts, and conversions in words."""
    rows = []
    for name, split in ((data_report or {}).get("splits") or {}).items():
        dropped = (split or {}).get("dropped") or {}
        counts = [finite(count) or 0 for count in dropped.values()]
        reasons = [f"{reason}: {format_count(count)}" for reason, count in dropped.items()]
        rows.append(
            {
                "name": str(name),
                "rows_in": format_count((split or {}).get("rows_in")),
                "rows_kept": format_count((split or {}).get("rows_kept")),
                "num_dropped": format_count(sum(counts)),
                "reasons": ", ".join(reasons) or NO_VALUE,
                "conversions": "; ".join(map(describe_conversion, (split or {}).get("conversions") or ())),
            }
        )
    return rows


def list_findings(data_report: dict[str, Any]) -> list[dict[str, str]]:
    """What was found in the rows of all splits while they were tokenized: code, what, why and the way out."""
    found = []
    for split in ((data_report or {}).get("splits") or {}).values():
        for finding in (split or {}).get("findings") or ():
            found.append({name: str(finding.get(name) or "") for name in ("code", "what", "why", "fix")})
    return found


def list_facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Model, machine and times as (name, value); what was not recorded is left out."""
    model, machine = result.get("model") or {}, result.get("environment") or {}
    total = finite(model.get("total_parameters"))
    trainable = finite(model.get("trainable_parameters"))
    parameters = format_count(trainable)
    if trainable is not None and total:
        share = format_percent(trainable / total, 2)
        parameters = f"{format_count(trainable)} of {format_count(total)} ({share})"
    facts = [
        ("Base model", model.get("base")),
        ("Reference", model.get("reference")),
        ("Adapter", model.get("adapter")),
        ("Trainable parameters", parameters),
        ("Number format", model.get("dtype")),
        ("Device", model.get("device")),
        ("Machine", machine.get("machine")),
        ("Python", machine.get("python")),
        ("Started", format_time(result.get("started_at"))),
        ("Finished", format_time(result.get("finished_at"))),
        ("Saved in", result.get("model_dir")),
        ("Saved model", describe_saved_model(result.get("saved_model"))),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "", NO_VALUE)]


def describe_saved_model(saved: dict[str, Any] | None) -> str:
    """Whether the saved model computes what the trained one does; a dash for results of earlier versions."""
    if not saved:
        return NO_VALUE
    if not saved["checked"]:
        return f"not compared with the trained model: {saved['reason']}"
    largest = f"{saved['largest_logit_difference']:.2g}"
    if not saved["equal"]:
        return f"differs from the trained model: logits by {largest}, and the largest is {saved['largest_logit']:.2g}"
    return f"reloaded and compared on {saved['pairs']} pairs: largest logit difference {largest}"


def list_samples(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples with their texts, each with its number of words (None if not made)."""
    samples = []
    for sample in result.get("samples") or []:
        texts = {}
        for part in ("prompt", "base", "tuned", "chosen", "rejected", "completion"):
            text = sample.get(part)
            texts[part] = None if text is None else str(text)
        words = {part: len(text.split()) for part, text in texts.items() if text is not None}
        samples.append({**texts, "words": words})
    return samples


def _quality_tiles(result: dict[str, Any]) -> list[Tile]:
    metrics, base = result.get("metrics") or {}, result.get("base_metrics") or {}
    words = result.get("answer_words") or {}
    base_margin = format_number(base.get("eval_rewards/margins"), 2, signed=True)
    if base_is_reference(result):
        base_margin = "0 by definition"
    return [
        Tile(
            "Reward accuracy",
            format_percent(metrics.get("eval_rewards/accuracies")),
            _detail("on {} held-out pairs", format_count(result.get("num_eval_pairs"))),
        ),
        Tile(
            "Reward margin",
            format_number(metrics.get("eval_rewards/margins"), 2, signed=True),
            f"base: {base_margin}",
        ),
        Tile(
            "Held-out loss",
            format_number(metrics.get("eval_loss")),
            _detail("base: {}", format_number(base.get("eval_loss"))),
        ),
        Tile(
            "Words per answer",
            _arrow(words.get("base"), words.get("tuned")),
            _detail("base → tuned, {} prompts", format_count(words.get("prompts"))),
        ),
    ]


def _cost_tiles(result: dict[str, Any]) -> list[Tile]:
    device = (result.get("model") or {}).get("device")
    return [
        Tile(
            "Training time",
            format_duration(result.get("train_runtime_s")),
            _detail("{} in all", format_duration(result.get("wall_s"))),
        ),
        Tile(
            "Throughput",
            _with_unit(result.get("pairs_per_second"), 2, " pairs/s"),
            _throughput_detail(result),
        ),
        Tile(
            "Peak memory",
            format_bytes(result.get("peak_memory_bytes")),
            _detail("on {}", str(device or NO_VALUE)),
        ),
        Tile(
            "Steps",
            format_count(result.get("steps")),
            _detail("on {} training pairs", format_count(result.get("num_train_pairs"))),
        ),
    ]


def _scaled(value: Any, scale: float) -> float | None:
    number = to_number(value)
    return None if number is None else number * scale


def _change(before: Any, after: Any, decimals: int, suffix: str = "") -> str:
    first, second = finite(before), finite(after)
    if first is None or second is None:
        return NO_VALUE
    return format_number(second - first, decimals, signed=True, suffix=suffix)


def _with_unit(value: Any, decimals: int, unit: str) -> str:
    return NO_VALUE if to_number(value) is None else format_number(value, decimals) + unit


def _throughput_detail(result: dict[str, Any]) -> str:
    """Distinct tokens if they were counted, else all; the share of positions saved, and the share of the device's
    rate."""
    distinct = result.get("distinct_tokens_per_second")
    parts = [
        _detail("{} distinct tokens/s", format_number(distinct, 0))
        if to_number(distinct) is not None
        else _detail("{}", _with_unit(result.get("tokens_per_second"), 0, " tokens/s")),
        _detail("{} of positions saved", format_percent(result.get("positions_saved"))),
        _detail("{} of the device's rate", format_percent(result.get("matmul_share"))),
    ]
    return ", ".join(part for part in parts if part)


def _detail(text: str, value: str) -> str:
    return "" if value == NO_VALUE else text.format(value)


def _arrow(before: Any, after: Any) -> str:
    if to_number(before) is None or to_number(after) is None:
        return NO_VALUE
    return f"{format_number(before, 1)} → {format_number(after, 1)}"
