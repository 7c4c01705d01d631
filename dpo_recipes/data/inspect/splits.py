"""Inspects each split before training: lengths, repetitions, unusual characters, scripts and length bias."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dpo_recipes.data.inspect.lengths import compare_answers, describe_bias, histograms, what_lengths_do
from dpo_recipes.data.inspect.texts import MAX_PLACES, Places, TextScan
from dpo_recipes.data.lengths import distributions, named_lengths, table_lengths
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.split_dataset import SPLITS
from dpo_recipes.data.tokenize import PROMPT, ROW, TokenizedSplits

_BATCH = 1000
_NUM_LONGEST = 5
_CHARACTERS = {
    "control": "{} with control characters other than line breaks and tabs",
    "replacement": "{} with U+FFFD, which replaces a character that was lost",
    "garbled": "{} that look like UTF-8 read as Windows-1252 (`Ã©` for `é`)",
    "short_chosen": "chosen answers of one word or none",
    "short_rejected": "rejected answers of one word or none",
    "short_completion": "answers of one word or none",
}
"""Descriptions of unusual texts, in which {} is `pairs` or `rows`."""


@dataclass(frozen=True)
class Observation:
    """Something unusual in the rows that is worth a check, but may be correct."""

    kind: str
    text: str
    count: int
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitInspection:
    """The inspection of one split, before and after truncation."""

    report: SplitReport
    uncut_lengths: dict[str, dict[str, float]]
    """Like `report.lengths`, before any row is truncated or dropped for its length."""
    histograms: dict[str, dict[str, Any]]
    """Histograms of the lengths before truncation; see `inspect.lengths.histograms`."""
    at_max_length: list[dict[str, Any]]
    longest: list[dict[str, Any]]
    """The location of the longest rows, their tokens before truncation, and their fate: `whole`, `cut` or `dropped`."""
    answers: dict[str, float]
    prompts: dict[str, int]
    """The numbers of distinct prompts, of prompts that occur several times, and of rows whose prompt is also in
    train."""
    scripts: dict[str, dict[str, int]]
    """The number of letters of each Unicode script, and of rows with more letters of it than of any other."""
    observations: list[Observation]

    def to_json(self) -> dict[str, Any]:
        """The inspection as plain data, with the fields of the report at the top level."""
        plain = asdict(self)
        return {**plain.pop("report"), **plain}


def inspect_splits(
    tokenized: TokenizedSplits, max_length: int, bos_id: int | None, only: str | None = None
) -> dict[str, SplitInspection]:
    """Inspect every row of every split, or of the one split `only`; memory does not grow with the size of the texts."""
    train_prompts = np.empty(0, np.uint64)
    inspections = {}
    for name in (name for name in SPLITS if name in tokenized.datasets):
        is_wanted = only in (None, name)
        if is_wanted or name == "train":  # every split is compared with the prompts of train
            scan = _Scan(tokenized, name, bos_id)
            train_prompts = np.unique(scan.texts.prompts) if name == "train" else train_prompts
            if is_wanted:
                inspections[name] = _inspect(scan, max_length, train_prompts)
    return inspections


class _Scan:
    """One pass over the tokens of a split, and one over its rows."""

    def __init__(self, tokenized: TokenizedSplits, split: str, bos_id: int | None) -> None:
        self.split, self.report, self.rows = split, tokenized.reports[split], tokenized.rows[split]
        self.uncut = np.asarray(tokenized.lengths[split])
        self.begins_with_bos = False
        self.texts = TextScan()
        kept, places = [], []
        for table in tokenized.datasets[split].with_format("arrow").iter(_BATCH):
            if not places and bos_id is not None:
                self.begins_with_bos = table.column(PROMPT)[0].as_py()[:1] == [bos_id]
            kept.append(table_lengths(table))
            places.append(table.column(ROW).to_numpy())
        self.kept, self.places = np.concatenate(kept), np.concatenate(places)
        for row in self.rows.rows(self.places.tolist()):
            self.texts.look(row)

    def where(self, places: np.ndarray) -> tuple[str, ...]:
        """The locations in their sources of the first few of some rows; `places` are indices of kept rows."""
        return tuple(self.rows[int(self.places[at])].where for at in places[:MAX_PLACES])


def _inspect(scan: _Scan, max_length: int, train_prompts: np.ndarray) -> SplitInspection:
    whole = scan.uncut[(scan.uncut > 0).all(axis=1)]
    answers = compare_answers(scan.kept)
    _, counts = np.unique(scan.texts.prompts, return_counts=True)
    shared = 0 if scan.split == "train" else int(np.isin(scan.texts.prompts, train_prompts).sum())
    scripts = {
        name: {"letters": letters, "rows": scan.texts.rows_by_script.get(name, Places()).count}
        for name, letters in scan.texts.letters.most_common()
    }
    return SplitInspection(
        scan.report,
        distributions(whole),
        histograms(whole),
        what_lengths_do(whole, max_length, begins_with_bos=scan.begins_with_bos),
        _longest(scan),
        answers,
        {"distinct": len(counts), "repeated": int((counts > 1).sum()), "shared_with_train": shared},
        scripts,
        [
            *_repetitions(scan),
            *_of_bias(describe_bias(answers, len(scan.kept))),
            *_characters(scan),
            *_other_scripts(scan),
        ],
    )


def _longest(scan: _Scan) -> list[dict[str, Any]]:
    named = named_lengths(scan.uncut)
    *_, whole = named
    places = np.argsort(-named[whole], kind="stable")[:_NUM_LONGEST]
    kept_at = {int(scan.places[at]): at for at in np.flatnonzero(np.isin(scan.places, places))}
    lines = []
    for place in places.tolist():
        at = kept_at.get(place)
        is_whole = at is not None and (scan.kept[at] == scan.uncut[place]).all()
        lines.append(
            {
                "where": scan.rows[place].where,
                **{name: int(values[place]) for name, values in named.items()},
                "fate": "dropped" if at is None else "whole" if is_whole else "cut",
            }
        )
    return lines


def _repetitions(scan: _Scan) -> list[Observation]:
    found = []
    _, first = np.unique(scan.texts.rows, return_index=True)
    again = np.setdiff1d(np.arange(len(scan.places)), first)
    if len(again):
        text = f"{scan.report.unit} that repeat an earlier one: {len(again)} (`data.dedup: exact` drops them)"
        found.append(Observation("duplicate", text, len(again), scan.where(again)))
    _, first, counts = np.unique(scan.texts.prompts, return_index=True, return_counts=True)
    if (counts > 1).any():
        most = np.argsort(-counts, kind="stable")[:MAX_PLACES]
        text = f"prompts that occur several times: {(counts > 1).sum()}, the most frequent {counts.max()} times"
        places = scan.where(first[most[counts[most] > 1]])
        found.append(Observation("repeated_prompt", text, int((counts > 1).sum()), places))
    return found


def _of_bias(sentence: str | None) -> list[Observation]:
    return [Observation("length_bias", sentence, 0)] if sentence else []


def _characters(scan: _Scan) -> list[Observation]:
    return [
        Observation(kind, f"{text.format(scan.report.unit)}: {seen.count}", seen.count, tuple(seen.first))
        for kind, text in _CHARACTERS.items()
        if (seen := scan.texts.seen.get(kind))
    ]


def _other_scripts(scan: _Scan) -> list[Observation]:
    by_rows = sorted(scan.texts.rows_by_script.items(), key=lambda item: -item[1].count)
    return [
        Observation(
            "script",
            f"{scan.report.unit} in {name} letters, although most are in {by_rows[0][0]}: {seen.count}",
            seen.count,
            tuple(seen.first),
        )
        for name, seen in by_rows[1:]
    ]
