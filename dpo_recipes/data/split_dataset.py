"""Divides the rows of all sources into training, validation and test rows: deduplicates, mixes, splits and limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpo_recipes.data.collect import RowIndex, answer_texts
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.split import assign_splits, mix
from dpo_recipes.data.store import RowFile
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Data, HeldOut

SPLITS = ("train", "eval", "test")


@dataclass
class Division:
    """The indices of the spooled rows in each split, and the reports of how they got there."""

    spool: RowFile
    index: RowIndex
    reports: dict[str, SplitReport]
    places: dict[str, np.ndarray]

    def where(self, place: int) -> str:
        """The location of a row in its source."""
        return self.spool[int(place)].where


def split_dataset(division: Division, picked: dict[str, list[np.ndarray]], data: Data, seed: int) -> None:
    """Fill `division.places` with the rows selected from each split's sources. Raises `DataError` D407, D411."""
    if data.dedup != "none":
        picked = _without_duplicates(division, picked, data)
    weights = [source.weight for source in data.train]
    if all(weight is not None for weight in weights):
        picked["train"] = _mixed(
            picked["train"], [weight or 0.0 for weight in weights], seed, division.reports["train"]
        )
    empty = np.empty(0, np.int64)
    division.places = {name: np.concatenate(picked.get(name) or [empty]) for name in SPLITS}
    _carve(division, data, seed)
    if data.shuffle:
        division.places["train"] = np.random.default_rng(seed).permutation(division.places["train"])
    for name, limit in (("train", data.limit), ("eval", data.eval.limit), ("test", data.test.limit)):
        _limit(division, name, limit)


def _without_duplicates(
    division: Division, picked: dict[str, list[np.ndarray]], data: Data
) -> dict[str, list[np.ndarray]]:
    """Keep the first of equal or nearly equal rows; training rows come before held-out ones."""
    names = [name for name in SPLITS if picked.get(name)]
    order = np.concatenate([places for name in names for places in picked[name]])
    hashes = np.frombuffer(division.index.row_hashes, np.uint64)[order]
    _, first = np.unique(hashes, return_index=True)
    kept = np.zeros(len(order), bool)
    kept[first] = True
    nearly = np.zeros(len(order), bool)
    if data.dedup == "near":
        from dpo_recipes.data.near_duplicates import first_near_duplicate

        left = np.flatnonzero(kept)
        texts = (answer_texts(row) for row in division.spool.rows(order[left]))
        for at, earlier in zip(left, first_near_duplicate(texts, data.near_threshold), strict=True):
            if earlier is not None:
                nearly[at], kept[at] = True, False
    position, result = 0, {}
    for name in names:
        report, result[name] = division.reports[name], []
        for places in picked[name]:
            part = slice(position, position + len(places))
            position += len(places)
            for place, is_near in zip(places[~kept[part]], nearly[part][~kept[part]], strict=True):
                report.drop("near_duplicate" if is_near else "duplicate", division.where(place))
            result[name].append(places[kept[part]])
        report.step("dedup", sum(map(len, result[name])))
    return result


def _mixed(picked: list[np.ndarray], weights: list[float], seed: int, report: SplitReport) -> list[np.ndarray]:
    counts = [len(places) for places in picked]
    mixed = [
        places[np.asarray(taken, np.int64)] for places, taken in zip(picked, mix(counts, weights, seed), strict=True)
    ]
    report.drop("mixture", count=sum(counts) - sum(map(len, mixed)))
    report.step("mixture", sum(map(len, mixed)))
    return mixed


def _carve(division: Division, data: Data, seed: int) -> None:
    """Move whole prompts from the training rows to the held-out splits."""
    held_out: dict[str, HeldOut] = {"eval": data.eval, "test": data.test}
    carved = {name: part for name, part in held_out.items() if part.is_carved}
    if not carved:
        return
    train = division.places["train"]
    hashes = np.frombuffer(division.index.prompt_hashes, np.uint64)[train]
    wanted = {name: part.fraction or part.count or 0 for name, part in carved.items()}
    stable = any(part.stable for part in carved.values())
    sides = assign_splits(hashes, wanted, seed, stable=stable)
    for name in carved:
        moved = train[_equal(sides, name)]
        division.places[name] = moved
        division.reports[name].rows_in += len(moved)
        division.reports["train"].rows_in -= len(moved)
        division.reports[name].step("held out", len(moved))
    division.places["train"] = train[_equal(sides, "train")]
    division.reports["train"].step("held out", len(division.places["train"]))
    empty = [name for name in ("train", *carved) if not len(division.places[name])]
    if empty:
        counts = ", ".join(f"{len(division.places[name])} for {name}" for name in ("train", *carved))
        raise DataError.of(
            "D407",
            f"{len(train)} rows cannot be split as `data.{empty[0] if empty[0] != 'train' else 'eval'}` requests",
            why=f"the sizes would be {counts}; rows with the same prompt stay together",
            fix="use more rows, another fraction or count, or held-out `sources`",
        )


def _equal(sides: list[str], name: str) -> np.ndarray:
    return np.fromiter((side == name for side in sides), bool, len(sides))


def _limit(division: Division, name: str, limit: int | None) -> None:
    places = division.places[name]
    if limit is not None and len(places) > limit:
        division.places[name] = places[:limit]
        division.reports[name].drop("limit", count=len(places) - limit)
        division.reports[name].step("limit", limit)


def shared_prompts(division: Division) -> list[Finding]:
    """The warning D490 for each held-out split that contains prompts of the training rows."""
    hashes = np.frombuffer(division.index.prompt_hashes, np.uint64)
    train = np.unique(hashes[division.places["train"]])
    findings = []
    for name in ("eval", "test"):
        places = division.places[name]
        shared = places[np.isin(hashes[places], train)]
        if len(shared):
            findings.append(
                Finding(
                    "D490",
                    f"{len(shared)} of {len(places)} held-out prompts ({name}) are also in the training data",
                    why=f"the first is {division.where(shared[0])}; results on them say little about new prompts",
                    fix="remove them from one of the two splits",
                    severity="warning",
                )
            )
    return findings
