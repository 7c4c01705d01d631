"""Renders the page of `dpo-recipe data --html`, which shows the training data, as one self-contained HTML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpo_recipes.data.inspect.lengths import worth_showing
from dpo_recipes.data.report import describe_conversion
from dpo_recipes.formats import format_count, format_number, format_percent
from dpo_recipes.report.bars import BarChart, lay_out_bars
from dpo_recipes.report.displacement import displacement_section
from dpo_recipes.report.sections import Tile
from dpo_recipes.report.table import Table
from dpo_recipes.report.templates import load_templates

_TITLES = {"train": "Training", "eval": "Held-out", "test": "Test"}
_WAYS = ("drop", "truncate_prompt_start", "truncate_completion_end")


@dataclass(frozen=True)
class SplitSection:
    """One split of the page."""

    name: str
    title: str
    tiles: list[Tile]
    observations: list[dict[str, Any]]
    charts: list[BarChart]
    tables: list[Table] = field(default_factory=list)


def render_data_page(inspection: dict[str, Any]) -> str:
    """The page as the text of one HTML file, from the object that `dpo-recipe data --json` prints."""
    splits = inspection["splits"]
    rows = [{**row, "counts": _counts(row)} for split in splits.values() for row in split["shown"]]
    page = load_templates().get_template("data_page.html.jinja")
    text = page.render(
        page=inspection,
        verdict=describe_splits(inspection),
        findings=inspection["warnings"],
        splits=[_section(name, split, inspection["max_length"]) for name, split in splits.items()],
        rows=rows,
        displacement=displacement_section(inspection["displacement"]),
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def describe_splits(inspection: dict[str, Any]) -> str:
    """One or two sentences with the numbers of pairs and tokens, and of truncated and dropped pairs."""
    splits = inspection["splits"]
    parts = [
        f"{format_count(split['rows_kept'])} {_TITLES[name].lower()} {_unit(split)}" for name, split in splits.items()
    ]
    sentence = f"{' and '.join(parts)} with {format_count(sum(split['tokens'] for split in splits.values()))} tokens"
    cut = sum(sum(split["truncated"].values()) for split in splits.values())
    dropped = sum(sum(split["dropped"].values()) for split in splits.values())
    if not cut and not dropped:
        return f"{sentence}; nothing is truncated or dropped."
    unit = _unit(next(iter(splits.values()))).capitalize()
    return f"{sentence}. {unit} truncated to max_length: {format_count(cut)}; rows dropped: {format_count(dropped)}."


def _unit(split: dict[str, Any]) -> str:
    """What a split consists of."""
    *_, whole = split["lengths"]
    return f"{whole}s"


def _section(name: str, split: dict[str, Any], max_length: int) -> SplitSection:
    histograms = split["histograms"]
    parts = list(split["lengths"])
    names, whole = parts[1:-1], parts[-1]
    is_pair = len(names) == 2
    charts = _length_charts(split, names, whole, max_length) if names else []
    charts.append(
        lay_out_bars(
            "Prompts",
            "Before truncation, including the tokens of the template.",
            {"prompt": histograms["prompt"]},
            None if names else max_length,
        )
    )
    if is_pair:
        charts.append(
            lay_out_bars(
                "Chosen minus rejected",
                "Before truncation. Right of 0 the chosen answer is longer. If most pairs are on one side, length "
                "alone predicts the chosen answer.",
                {"difference": histograms["difference"]},
            )
        )
    tables = [_steps(split), _lengths(split), _limits(split), _longest(split), _scripts(split)]
    if split["subsets"]:
        tables.append(_subsets(split))
    title = f"{_TITLES[name]} {whole}s"
    return SplitSection(name, title, _tiles(split), split["observations"], charts, tables)


def _length_charts(split: dict[str, Any], names: list[str], whole: str, max_length: int) -> list[BarChart]:
    """The lengths of whole rows and of their answers."""
    histograms, answers = split["histograms"], split["answers"]
    is_pair = len(names) == 2
    comparison = "Before truncation, including the tokens that the template writes after them."
    if is_pair:
        comparison = (
            f"Chosen is longer in {format_percent(answers['chosen_longer'], 0)} of pairs, rejected in "
            f"{format_percent(answers['rejected_longer'], 0)} (after truncation; the chart shows lengths before it)."
        )
    return [
        lay_out_bars(
            f"Whole {whole}s",
            f"Prompt and {'the longer answer' if is_pair else 'answer'}, before truncation. The outer bars of all "
            "charts include all values beyond.",
            {whole: histograms[whole]},
            max_length,
        ),
        lay_out_bars("Answers", comparison, {part: histograms[part] for part in names}),
    ]


def _tiles(split: dict[str, Any]) -> list[Tile]:
    cut, dropped = sum(split["truncated"].values()), sum(split["dropped"].values())
    prompts, unit = split["prompts"], _unit(split)
    shared = f"{unit} whose prompt is also in train: {format_count(prompts['shared_with_train'])}"
    return [
        Tile(unit.capitalize(), format_count(split["rows_kept"]), f"of {format_count(split['rows_in'])} rows"),
        Tile("Tokens", format_count(split["tokens"]), "in both sequences of all pairs" if unit == "pairs" else ""),
        Tile("Truncated", format_count(cut), ", ".join(split["truncated"]) or f"no {unit[:-1]} is too long"),
        Tile("Dropped", format_count(dropped), ", ".join(split["dropped"]) or "every row is used"),
        Tile("Distinct prompts", format_count(prompts["distinct"]), shared if prompts["shared_with_train"] else ""),
        *(
            Tile(f"Mean tokens, {part}", format_number(split["answers"][f"{part}_mean"], 1), "after truncation")
            for part in list(split["lengths"])[1:-1]
        ),
        *_label_tiles(split),
    ]


def _label_tiles(split: dict[str, Any]) -> list[Tile]:
    if split["desirable"] is None:
        return []
    return [
        Tile("Good answers", format_count(split["desirable"])),
        Tile("Bad answers", format_count(split["undesirable"])),
    ]


def _steps(split: dict[str, Any]) -> Table:
    rows = [[f"after {step['step']}", format_count(step["rows"]), ""] for step in split["steps"]]
    for conversion in split["conversions"]:
        rows.append(["converted", format_count(conversion["made"]), describe_conversion(conversion)])
    for reason, count in split["dropped"].items():
        rows.append([f"dropped: {reason}", format_count(count), ", ".join(split["examples"].get(reason, ()))])
    if split["masked_rows"]:
        tokens = format_count(split["masked_tokens"])
        rows.append(
            ["masked turns in answers", format_count(split["masked_rows"]), f"{tokens} tokens are not trained on"]
        )
    rows += [[f"truncated: {part}", format_count(count), ""] for part, count in split["truncated"].items()]
    for source in split["sources"]:
        name = Path(source["path"]).name
        rows += [[f"column not read: {c}", format_count(count), name] for c, count in source["unread"].items()]
    return Table("Rows, step by step", ["", "Rows", "First rows"], rows, words=(2,))


def _lengths(split: dict[str, Any]) -> Table:
    columns = ("mean", "median", "p95", "p99", "max")
    lines = [(name, values) for name, values in split["lengths"].items()]
    for name, values in split["uncut_lengths"].items():
        if values != split["lengths"][name]:
            lines.append((f"{name}, before truncation", values))
    rows = [
        [name, format_number(values["mean"], 1), *(format_count(values[column]) for column in columns[1:])]
        for name, values in lines
    ]
    note = "The length of a pair is that of its prompt and the longer answer." if _unit(split) == "pairs" else ""
    heads = ["", "Mean", "Median", "95th percentile", "99th percentile", "Maximum"]
    return Table("Tokens", heads, rows, note=note)


def _limits(split: dict[str, Any]) -> Table:
    rows: list[list[str]] = []
    lines, unit = worth_showing(split["at_max_length"]), _unit(split)
    for line in lines:
        total = line["drop"][unit] + line["too_long"]
        too_long = f"{format_count(line['too_long'])} ({format_percent(line['too_long'] / total)})"
        left = [f"{format_count(line[way][unit])} · {format_percent(line[way]['share'])}" for way in _WAYS]
        rows.append([format_count(line["max_length"]), too_long, *left])
    return Table(
        f"Other limits: {unit} and share of tokens that would be kept",
        ["max_length", "Too long", *_WAYS],
        rows,
        note="The recipe's max_length is in bold; the last three columns are values of data.overlong.",
        marked=next(at for at, line in enumerate(lines) if line["is_recipe"]),
    )


def _longest(split: dict[str, Any]) -> Table:
    rows = [
        [row["where"], *(format_count(row[part]) for part in split["lengths"]), row["fate"]] for row in split["longest"]
    ]
    heads = ["Where", *map(str.capitalize, split["lengths"]), ""]
    return Table("Longest rows, in tokens before truncation", heads, rows)


def _scripts(split: dict[str, Any]) -> Table:
    rows = [
        [name, format_count(counts["letters"]), format_count(counts["rows"])]
        for name, counts in split["scripts"].items()
    ]
    return Table("Letters by script", ["", "Letters", f"{_unit(split).capitalize()} mostly in this script"], rows)


def _subsets(split: dict[str, Any]) -> Table:
    num_kept, counts = split["rows_kept"], dict(split["subsets"])
    if num_others := num_kept - sum(counts.values()):
        counts["(none)"] = num_others
    rows = [[name, format_count(count), format_percent(count / num_kept)] for name, count in counts.items()]
    return Table("Subsets", ["", _unit(split).capitalize(), "Share"], rows)


def _counts(row: dict[str, Any]) -> dict[str, str]:
    return {
        part: f"{format_count(row['tokens'][part])} tokens"
        + (f", {format_count(row['context'][part])} not trained on" if row["context"][part] else "")
        + (f", {format_count(row['cut'][part])} truncated" if row["cut"][part] else "")
        for part in row["tokens"]
    }
