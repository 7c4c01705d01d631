"""The number of rows of a job and their lengths, read from tokenized data or assumed at their longest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.engine.prefix_sharing import check_longest_row
from dpo_recipes.engine.token_budget import as_lengths, largest_group
from dpo_recipes.engine.train import used_splits
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.launch.batch import batch_of, max_tokens
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe

LengthTable = np.ndarray
"""Tokens of the prompt and of each of the K answers of a row as training sees them, of shape [rows, 1 + K]."""


@dataclass(frozen=True)
class Workload:
    """The rows of each split. Without `lengths` all sequences of every row are taken to be as long as
    `data.max_length` allows, with half of their tokens in the prompt."""

    num_rows: dict[str, int | None]
    """By split; None if it is unknown before the data are read."""
    lengths: dict[str, LengthTable] | None = None

    @property
    def is_read(self) -> bool:
        """Whether the data have been read. Otherwise figures are upper bounds."""
        return self.lengths is not None

    def facts(self, recipe: Recipe, num_processes: int) -> JobFacts:
        """Steps and passes of a recipe on these rows."""
        counts = (self.num_rows.get(split) for split in ("train", "eval", "test"))
        return JobFacts(recipe, *counts, num_processes=num_processes)

    def longest(self, recipe: Recipe, num_processes: int = 1, *, shares: bool = True) -> LengthTable:
        """The rows of the micro-batch with the most tokens that can come together; of shape [micro-batch, 1 + K].

        The longest rows may be drawn together in any order. `shares` says whether the model can be computed with each
        distinct token once. Any of several processes may get the pass with the most rows of a step.
        """
        size, _ = batch_of(recipe).trainer_batch
        if max_tokens(recipe) is not None:
            size *= num_processes
        if self.lengths is None:
            objective, params = objective_of(recipe), recipe.objective
            answer = objective.new_tokens(params) or recipe.data.max_length - recipe.data.max_length // 2
            prompt = recipe.data.max_length - answer
            count = objective.batch_shape(params).num_answers
            return _together(recipe, np.tile([prompt] + [answer] * count, (size, 1)), size, shares=shares)
        return _together(recipe, self._longest_first, size, shares=shares)

    @cached_property
    def _longest_first(self) -> LengthTable:
        """Training rows, sorted once for all variants of a recipe that `--fit` tries."""
        rows = (self.lengths or {})["train"]
        return rows[np.argsort(-rows.sum(axis=1), kind="stable")]

    def typical(self, recipe: Recipe, *, shares: bool = True) -> LengthTable:
        """A micro-batch of rows of the mean length."""
        if self.lengths is None:
            return self.longest(recipe, shares=shares)
        size, _ = batch_of(recipe).trainer_batch
        mean = np.maximum(1, np.rint(self.lengths["train"].mean(axis=0))).astype(int)
        return _together(recipe, np.tile(mean, (size, 1)), size, shares=shares)

    def tokens(self, split: str) -> int | None:
        """Distinct tokens of a split: of each row the prompt once and all answers."""
        if self.lengths is not None:
            return int(self.lengths[split].sum()) if split in self.lengths else 0
        return None


def check_pass_budget(recipe: Recipe, tokenized: TokenizedSplits, num_processes: int) -> None:
    """Raise `RunError` T607 for a row that does not fit into one pass with its prompt computed once; if a model
    does not share it, the engine looks again."""
    shares, most = recipe.training.prefix_sharing != "off", recipe.training.max_tokens_per_pass
    if most is not None:
        used, noun = used_splits(recipe, tokenized, num_processes), objective_of(recipe).row_noun
        check_longest_row(used, most, shares=shares, noun=noun, locate=tokenized.where)


def _together(recipe: Recipe, rows: LengthTable, size: int, *, shares: bool) -> LengthTable:
    """The first of some rows, longest first, that are computed together: so many, or as many as a pass may have
    tokens."""
    most = max_tokens(recipe)
    if most is None:
        return rows[:size]
    shares = shares and recipe.training.prefix_sharing != "off"
    return rows[largest_group(as_lengths(rows), most, size, shares=shares)]


def read_workload(datasets: dict[str, Any], recipe: Recipe) -> Workload:
    """The workload of tokenized splits (`TokenizedSplits.datasets`); reads lengths, not tokens. Answers that the policy
    writes in training are taken to be as long as they may be."""
    lengths = {name: row_lengths(dataset) for name, dataset in datasets.items()}
    objective, params = objective_of(recipe), recipe.objective
    if longest := objective.new_tokens(params):
        count = objective.batch_shape(params).num_answers
        lengths = {name: np.pad(rows, ((0, 0), (0, count)), constant_values=longest) for name, rows in lengths.items()}
    return Workload({name: len(rows) for name, rows in lengths.items()}, lengths)


def assume_workload(recipe: Recipe) -> Workload:
    """The workload as far as a recipe alone tells it: at most as many rows as `limit` and `select` let through."""
    data = recipe.data
    most = [_most(source) for source in data.train]
    total = None if None in most else sum(count or 0 for count in most)
    if data.limit is not None:
        total = data.limit if total is None else min(total, data.limit)
    counts: dict[str, int | None] = {"train": total}
    for split in ("eval", "test"):
        held_out = getattr(data, split)
        if not held_out.is_set:
            counts[split] = 0
        elif held_out.count is not None:
            counts[split] = held_out.count
        elif held_out.fraction is not None and total is not None:
            counts[split] = math.ceil(total * held_out.fraction)
        else:
            counts[split] = held_out.limit
        if held_out.is_carved and total is not None:
            counts["train"] = (counts["train"] or 0) - (counts[split] or 0)
    return Workload(counts)


def _most(source: Any) -> int | None:
    limits = [source.limit]
    if source.select is not None:
        limits.append(source.select.top or source.select.bottom)
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None
