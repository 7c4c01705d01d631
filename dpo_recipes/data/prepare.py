"""The data stage itself: from the recipe's sources to training and held-out preference rows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice

from dpo_recipes import registry
from dpo_recipes.data.rows import BadRow, DataFormat, PreferenceRow, SourceRow, SplitReport
from dpo_recipes.data.sources import read_rows
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Data, Source

MAX_REPORTED = 10
"""Bad rows named in one error; the rest are counted."""
_SAMPLE_ROWS = 20


@dataclass
class PreferenceSplits:
    """Preference rows of both sides, what happened to the others, and what is worth a warning."""

    train: list[PreferenceRow]
    held_out: list[PreferenceRow]
    reports: dict[str, SplitReport]
    warnings: list[Finding] = field(default_factory=list)


def load_preferences(data: Data, seed: int) -> PreferenceSplits:
    """Read, convert and split all sources.

    Raises `DataError`: D401 to D410 as the sources do, D403 (no rows), D404 (bad rows, with `on_bad_row: error`),
    D406 (format not clear), D409 (every row dropped).
    """
    reports = {"train": SplitReport(), "eval": SplitReport()}
    train = _load_sources(data.train, reports["train"], data.on_bad_row)
    held_out = _load_sources(data.eval.sources, reports["eval"], data.on_bad_row)
    if data.eval.fraction is not None:
        train, held_out = split_by_prompt(train, data.eval.fraction, seed)
        reports["train"].rows_kept = len(train)
        reports["eval"].rows_in = reports["eval"].rows_kept = len(held_out)
        reports["train"].rows_in -= len(held_out)
        if not train or not held_out:
            raise DataError.of(
                "D407",
                f"{len(train) + len(held_out)} rows cannot be split with `eval.fraction: {data.eval.fraction}`",
                why=f"that leaves {len(train)} to train on and {len(held_out)} held out",
                fix="use more rows, another fraction, or held-out `sources`",
            )
    return PreferenceSplits(train, held_out, reports, _shared_prompts(train, held_out))


def split_by_prompt(
    rows: list[PreferenceRow], fraction: float, seed: int
) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """Training and held-out rows; rows with the same prompt stay on the same side. Order is kept."""
    prompts = list(dict.fromkeys(_prompt_key(row) for row in rows))
    random.Random(seed).shuffle(prompts)
    counts: dict[str, int] = {}
    for row in rows:
        counts[_prompt_key(row)] = counts.get(_prompt_key(row), 0) + 1
    wanted, held_out = max(1, round(fraction * len(rows))), set()
    taken = 0
    for prompt in prompts:
        if taken >= wanted:
            break
        held_out.add(prompt)
        taken += counts[prompt]
    return (
        [row for row in rows if _prompt_key(row) not in held_out],
        [row for row in rows if _prompt_key(row) in held_out],
    )


def _load_sources(sources: list[Source], report: SplitReport, on_bad_row: str) -> list[PreferenceRow]:
    kept: list[PreferenceRow] = []
    bad: list[tuple[str, BadRow]] = []
    for source in sources:
        rows = read_rows(source)
        sample = list(islice(rows, _SAMPLE_ROWS))
        if not sample:
            raise DataError.of(
                "D403",
                f"{source.path} has no rows",
                why="there is nothing to train on",
                fix="check the file, or remove the source",
            )
        data_format = choose_format(source, sample)
        for row in chain(sample, rows):
            report.rows_in += 1
            try:
                kept.append(data_format.to_row(row))
            except BadRow as error:
                bad.append((row.where, error))
                report.drop(error.reason, row.where)
    if bad and on_bad_row == "error":
        raise DataError(*_bad_row_findings(bad, report.rows_in))
    if sources and not kept:
        raise DataError.of(
            "D409",
            "every row was dropped",
            why=json.dumps(report.dropped),
            fix="look at a row, and at `format` and `columns` in the recipe",
        )
    report.rows_kept = len(kept)
    return kept


def choose_format(source: Source, sample: list[SourceRow]) -> DataFormat:
    """The format that is named, or the only one that fits the sampled rows.

    Raises `DataError` D402 when the columns fit none, D406 when several fit.
    """
    if source.format != "auto":
        data_format: DataFormat = registry.load("data_formats", source.format)
        missing = [name for name in data_format.columns if name != "prompt" and name not in sample[0].columns]
        if missing:
            raise _missing_columns(source, sample, [data_format])
        return data_format
    formats = [registry.load("data_formats", name) for name in registry.names("data_formats")]
    # A few bad rows must not hide the format: it is decided by most of the sample.
    fitting = [f for f in formats if sum(f.matches(row.columns) for row in sample) * 2 > len(sample)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise _missing_columns(source, sample, formats)
    raise DataError.of(
        "D406",
        f"{source.path} fits several formats: {', '.join(f.name for f in fitting)}",
        why="they read the same columns differently",
        fix="name one with `format:`",
    )


def _missing_columns(source: Source, sample: list[SourceRow], formats: list[DataFormat]) -> DataError:
    has = ", ".join(f"{name} ({type(value).__name__})" for name, value in sample[0].columns.items()) or "none"
    expected = "; ".join(f"{f.name}: {f.summary}" for f in formats)
    return DataError.of(
        "D402",
        f"{source.path} has not the columns that a preference needs",
        why=f"its columns are {has}; expected is {expected}",
        fix="map its names with `columns: {prompt: ..., chosen: ..., rejected: ...}`",
    )


def _bad_row_findings(bad: list[tuple[str, BadRow]], num_rows: int) -> Iterable[Finding]:
    for where, error in bad[:MAX_REPORTED]:
        code = "D405" if error.reason == "equal_answers" else "D404"
        yield Finding(code, f"{where}: {error.detail}", fix="correct or delete the row, or set `data.on_bad_row: drop`")
    if len(bad) > MAX_REPORTED:
        yield Finding(
            "D404",
            f"{len(bad) - MAX_REPORTED} more bad rows, {len(bad)} of {num_rows} in all",
            fix="set `data.on_bad_row: drop` to train on the others",
        )


def _shared_prompts(train: list[PreferenceRow], held_out: list[PreferenceRow]) -> list[Finding]:
    seen = {_prompt_key(row) for row in train}
    shared = [row for row in held_out if _prompt_key(row) in seen]
    if not shared:
        return []
    return [
        Finding(
            "D490",
            f"{len(shared)} of {len(held_out)} held-out prompts stand in the training data too",
            why=f"the first is {shared[0].where}; results on them say little about new prompts",
            fix="remove them from one side",
            severity="warning",
        )
    ]


def _prompt_key(row: PreferenceRow) -> str:
    return json.dumps(row.prompt, sort_keys=True)
