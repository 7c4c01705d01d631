"""Finds the format of a source's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_recipes import registry
from dpo_recipes.data.column_use import kind_of
from dpo_recipes.data.formats.implicit import matches as matches_implicit_prompt
from dpo_recipes.data.formats.winner import matches_winner
from dpo_recipes.data.layout_hints import likely_layout
from dpo_recipes.data.rows import DataFormat, SourceRow
from dpo_recipes.errors import DataError
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.schema.data import Source

SAMPLE_ROWS = 20


def choose_format(source: Source, sample: Sequence[SourceRow], shape: RowShape = "pair") -> DataFormat:
    """The format that the source names, or the only one that fits at least half of the sampled rows.

    `shape` is what the objective learns from, which errors name. Raises `DataError` D401 if none of the rows could be
    read, D402 if the columns fit no format, and D406 if they fit several.
    """
    readable = [row for row in sample if row.fault is None]
    if not readable:
        raise _unreadable(sample)
    if source.format != "auto":
        data_format: DataFormat = registry.load("data_formats", source.format)
        # A few bad rows are reported one by one later; only columns that no row has are an error here.
        missing = [name for name in data_format.columns if not any(name in row.columns for row in readable)]
        if missing:
            needed = f"{data_format.name} needs {', '.join(data_format.columns)}"
            raise _missing_columns(source, readable, needed, data_format.kind)
        return data_format
    formats = [registry.load("data_formats", name) for name in registry.names("data_formats")]
    # A few bad rows must not hide the format, so it only has to fit half of the sample.
    fitting = [data_format for data_format in formats if data_format.detect and _fits(data_format, readable)]
    if not fitting and shape == "prompt":
        fitting = [data_format for data_format in formats if data_format.kind == shape and _fits(data_format, readable)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        expected = f"no format reads them{_formats_to_name(readable[0].columns)}"
        raise _missing_columns(source, readable, expected, shape)
    raise DataError.of(
        "D406",
        f"{source.path} fits several formats: {', '.join(f.name for f in fitting)}",
        why="; ".join(f"{f.name}: {f.summary}" for f in fitting),
        fix="name one with `format:`",
    )


def _fits(data_format: DataFormat, readable: Sequence[SourceRow]) -> bool:
    return sum(data_format.matches(row.columns) for row in readable) * 2 >= len(readable)


def _formats_to_name(columns: Mapping[str, Any]) -> str:
    """A hint about the formats that could fit but that `auto` never chooses."""
    verdict = next((name for name in columns if kind_of(name) == "verdict"), None)
    if verdict and matches_winner({**columns, "winner": columns[verdict]}):
        return f"; with `columns: {{winner: {verdict}}}`, `winner` does, if it names the better answer"
    if matches_implicit_prompt(columns):
        return "; `format: implicit_prompt` does, if the shared start of `chosen` and `rejected` is the prompt"
    return "; docs/data.md has an example of each"


def _unreadable(sample: Sequence[SourceRow]) -> DataError:
    where, fault = sample[0].where, sample[0].fault
    return DataError.of(
        "D401" if fault is None or fault.reason == "bad_json" else "D404",
        f"{where}: {fault.detail if fault else 'the row cannot be read'}",
        why=f"none of the first {len(sample)} rows can be used" if len(sample) > 1 else "there is no other row",
        fix="correct the file, or the setting that the error names",
    )


_NEEDED: dict[RowShape, tuple[str, str]] = {
    "pair": ("of a preference", "prompt: ..., chosen: ..., rejected: ..."),
    "labelled": ("of a labelled answer", "prompt: ..., completion: ..., label: ..."),
    "completion": ("of an answer to a prompt", "prompt: ..., completion: ..."),
    "prompt": ("of a prompt", "prompt: ..."),
}


def _missing_columns(source: Source, sample: Sequence[SourceRow], expected: str, shape: RowShape) -> DataError:
    what, columns_of_shape = _NEEDED[shape]
    columns = {source.columns.get(name, name): value for name, value in sample[0].columns.items()}
    has = ", ".join(f"{name} ({type(value).__name__})" for name, value in columns.items()) or "none"
    return DataError.of(
        "D402",
        f"{source.path} lacks the columns {what}",
        why=f"its columns are {has}; {expected}",
        fix=likely_layout(sample[0].columns, shape)
        or f"map its names with `columns: {{{columns_of_shape}}}`, or name the `format:`",
    )
