"""The tables and tiles of the report, as plain rows of text for the template."""

from dataclasses import dataclass, replace
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
    format_short,
    format_time,
    to_number,
)
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.run_result import AnswerWords, Drift, RunResult, SavedModelComparison


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


def list_tiles(result: RunResult, objective: Objective) -> list[Tile]:
    """The key numbers that were recorded; one that is missing has no tile."""
    return [t for t in (*_quality_tiles(result, objective), *_cost_tiles(result, objective)) if t.value != NO_VALUE]


def compare_models(result: RunResult, objective: Objective) -> list[ComparisonRow]:
    """Base against tuned on the held-out rows; a metric that neither has is left out."""
    rows = []
    for metric in objective.metrics:
        key = f"eval_{metric.key}"
        base, tuned = result.base_metrics.get(key), result.metrics.get(key)
        change = NO_VALUE if metric.is_tied_at_base else _change_of(metric, base, tuned)
        rows.append(ComparisonRow(metric.label, key, metric.format(base), metric.format(tuned), change))
    words = result.answer_words or AnswerWords()
    cells = format_number(words.base, 1), format_number(words.tuned, 1), _change(words.base, words.tuned, 1)
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


def list_facts(result: RunResult) -> list[tuple[str, str]]:
    """Model, machine and times as (name, value); what was not recorded is left out."""
    model, machine = result.model, result.environment
    parameters = format_count(model.trainable_parameters)
    if model.trainable_parameters is not None and model.total_parameters:
        share = format_percent(model.trainable_parameters / model.total_parameters, 2)
        parameters = f"{parameters} of {format_count(model.total_parameters)} ({share})"
    facts = [
        ("Base model", model.base),
        ("Reference", model.reference),
        ("Adapter", model.adapter),
        ("Trainable parameters", parameters),
        ("Drift from the base", describe_drift(result.drift)),
        ("Number format", model.dtype),
        ("Device", model.device),
        ("Machine", machine.machine),
        ("Python", machine.python),
        ("Started", format_time(result.started_at)),
        ("Finished", format_time(result.finished_at)),
        ("Saved in", result.model_dir),
        ("Saved model", describe_saved_model(result.saved_model)),
    ]
    return [(name, value) for name, value in facts if value not in (None, "", NO_VALUE)]


def describe_saved_model(saved: SavedModelComparison | None) -> str:
    """Whether the saved model computes what the trained one does; a dash for results of earlier versions."""
    if saved is None:
        return NO_VALUE
    if not saved.checked:
        return f"not compared with the trained model: {saved.reason}"
    largest = f"{saved.largest_logit_difference:.2g}"
    if not saved.equal:
        return f"differs from the trained model: logits by {largest}, and the largest is {saved.largest_logit:.2g}"
    return f"reloaded and compared on {saved.rows} rows: largest logit difference {largest}"


def describe_drift(drift: Drift | None) -> str | None:
    """The divergence with its standard error, and what it was estimated on; None without an estimate."""
    if drift is None:
        return None
    error = "" if drift.standard_error is None else f" ± {drift.standard_error:.2f}"
    return (
        f"{drift.nats_per_answer:.2f}{error} nats per answer, {drift.nats_per_token:.3f} per token (KL divergence, "
        f"estimated on {format_count(drift.answers)} sampled answers)"
    )


def list_samples(result: RunResult) -> list[dict[str, Any]]:
    """The samples with their texts, each with its number of words (None if not made), and with the answers during
    training."""
    samples = []
    for number, sample in enumerate(result.samples):
        texts = dict(sample)
        words = {part: len(text.split()) for part, text in texts.items() if text is not None}
        during = [
            {
                "name": f"Step {format_count(at.step)}",
                "text": at.answers[number],
                "words": len(at.answers[number].split()),
            }
            for at in result.answers_by_step
            if number < len(at.answers)
        ]
        samples.append({**texts, "words": words, "during": during})
    return samples


def _quality_tiles(result: RunResult, objective: Objective) -> list[Tile]:
    """The metrics that are shown live, the loss after the others, and the length of the answers."""
    live = [metric for metric in objective.metrics if metric.is_shown_live]
    words = result.answer_words or AnswerWords()
    return [
        *(_metric_tile(metric, result, objective) for metric in live if metric.key != LOSS.key),
        *(replace(_metric_tile(metric, result, objective), label="Held-out loss") for metric in live if metric == LOSS),
        Tile(
            "Words per answer",
            _arrow(words.base, words.tuned),
            _detail("base → tuned, {} prompts", format_count(words.prompts)),
        ),
    ]


def _metric_tile(metric: Metric, result: RunResult, objective: Objective) -> Tile:
    key = f"eval_{metric.key}"
    if metric.is_tied_at_base:
        detail = _detail(f"on {{}} held-out {objective.row_noun}s", format_count(result.num_eval_rows))
    elif metric.base_value is not None:
        detail = f"base: {format_short(metric.base_value)} by definition"
    else:
        detail = _detail("base: {}", metric.format(result.base_metrics.get(key)))
    return Tile(metric.label, metric.format(result.metrics.get(key)), detail)


def _cost_tiles(result: RunResult, objective: Objective) -> list[Tile]:
    noun = objective.row_noun
    return [
        Tile(
            "Training time",
            format_duration(result.train_runtime_s),
            _detail("{} in all", format_duration(result.wall_s)),
        ),
        Tile(
            "Throughput",
            _with_unit(result.rows_per_second, 2, f" {noun}s/s"),
            _throughput_detail(result),
        ),
        Tile(
            "Peak memory",
            format_bytes(result.peak_memory_bytes),
            _detail("on {}", result.model.device or NO_VALUE),
        ),
        Tile(
            "Steps",
            format_count(result.steps),
            _detail(f"on {{}} training {noun}s", format_count(result.num_train_rows)),
        ),
    ]


def _change_of(metric: Metric, before: float | None, after: float | None) -> str:
    """The change of a metric, of a share in percentage points."""
    scale, suffix = (100, " points") if metric.is_share else (1, "")
    first, second = (None if value is None else value * scale for value in (before, after))
    return _change(first, second, metric.decimals, suffix)


def _change(before: Any, after: Any, decimals: int, suffix: str = "") -> str:
    first, second = finite(before), finite(after)
    if first is None or second is None:
        return NO_VALUE
    return format_number(second - first, decimals, signed=True, suffix=suffix)


def _with_unit(value: Any, decimals: int, unit: str) -> str:
    return NO_VALUE if to_number(value) is None else format_number(value, decimals) + unit


def _throughput_detail(result: RunResult) -> str:
    """Distinct tokens if they were counted, else all; the share of positions saved, and the share of the device's
    rate."""
    distinct = result.distinct_tokens_per_second
    parts = [
        _detail("{} distinct tokens/s", format_number(distinct, 0))
        if distinct is not None
        else _detail("{}", _with_unit(result.tokens_per_second, 0, " tokens/s")),
        _detail("{} of positions saved", format_percent(result.positions_saved)),
        _detail("{} of the device's rate", format_percent(result.matmul_share)),
    ]
    return ", ".join(part for part in parts if part)


def _detail(text: str, value: str) -> str:
    return "" if value == NO_VALUE else text.format(value)


def _arrow(before: Any, after: Any) -> str:
    if to_number(before) is None or to_number(after) is None:
        return NO_VALUE
    return f"{format_number(before, 1)} → {format_number(after, 1)}"
