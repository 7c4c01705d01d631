"""The tables of sampled preference data, for its page and for the report of a chain."""

from __future__ import annotations

from dpo_recipes.evaluate.result import Estimate, RankedAnswers, SampleResult
from dpo_recipes.formats import format_count, format_number, format_percent
from dpo_recipes.report.evaluation_tables import show_estimate
from dpo_recipes.report.table import Table

SAMPLING_NOTE = (
    "The numbers in brackets are 95% intervals: Student's for means over the prompts, and Wilson's for shares. The "
    "mean reward of a model is that of all its answers; best and worst are the answers that the rows are made of."
)


def list_sampling_tables(result: SampleResult) -> list[Table]:
    """What became of the prompts, the answers of each model, and the best answers beside the worst."""
    return [_prompts(result), _models(result), *_ranked(result)]


def _prompts(result: SampleResult) -> Table:
    rows = [
        ["Prompts that were answered", format_count(result.num_prompts)],
        ["Answers", format_count(result.num_answers)],
        ["Rows of preference data", format_count(result.num_rows)],
        *([f"Left out: {reason}", format_count(count)] for reason, count in result.left_out.items()),
    ]
    return Table("Prompts and rows", ["", "Number"], rows)


def _models(result: SampleResult) -> Table:
    sources = dict.fromkeys(name for model in result.models for name in model.rewards)
    rows = [
        [f"Mean reward ({source})", *(_number(model.rewards.get(source)) for model in result.models)]
        for source in sources
    ]
    rows.append(["Tokens of an answer", *(show_estimate(model.tokens, _tokens) for model in result.models)])
    rows.append(["Answers cut off", *(format_percent(model.cut_off) for model in result.models)])
    return Table("All answers", ["", *(model.name for model in result.models)], rows)


def _ranked(result: SampleResult) -> list[Table]:
    best, worst = result.best, result.worst
    if best is None or worst is None:
        return []
    rows = [
        [f"Mean reward ({source})", _number(best.rewards[source]), _number(worst.rewards.get(source))]
        for source in best.rewards
    ]
    rows.append(["Tokens", *(show_estimate(each.tokens, _tokens) for each in (best, worst))])
    rows.append(["Longer than the other one", *_longer(best, worst)])
    note = ""
    if best.longer is not None and best.longer.low is not None and best.longer.low > _STRONG_BIAS:
        note = _BIAS_NOTE.format(longer="longer")
    elif worst.longer is not None and worst.longer.low is not None and worst.longer.low > _STRONG_BIAS:
        note = _BIAS_NOTE.format(longer="shorter")
    return [Table("The best and the worst answer of each row", ["", "Best", "Worst"], rows, note)]


_STRONG_BIAS = 0.65
_BIAS_NOTE = (
    "The best answer is mostly the {longer} one: a model that learns from these rows may learn its length alone."
)


def _longer(best: RankedAnswers, worst: RankedAnswers) -> list[str]:
    return [show_estimate(each.longer, format_percent) for each in (best, worst)]


def _number(estimate: Estimate | None) -> str:
    return show_estimate(estimate, lambda value: format_number(value, signed=True))


def _tokens(value: float) -> str:
    return format_number(value, 1)
