"""Adds to each tokenized row the answer of another row, from which KTO estimates a KL divergence."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.cache import content_key, get_or_build
from dpo_recipes.data.fit_length import first_runs
from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT, TokenizedSplits
from dpo_recipes.errors import DataError

_VERSION = 1
"""Increased when the same rows produce other files than before, so that older cache entries are not used."""
_BATCH = 4096


def add_mismatched_answers(splits: TokenizedSplits, seed: int, max_length: int) -> TokenizedSplits:
    """The splits with two answers in each row: its own one, and after the same prompt that of another row.

    The pairing depends on the rows and `seed` alone, not on batches or processes. A mismatched answer is truncated to
    `max_length`. Raises `DataError` D436 if a split has a single row.
    """
    from datasets import Dataset

    for name, rows in splits.datasets.items():
        if len(rows) < 2:
            raise DataError.of(
                "D436",
                f"`{name}` has one row, and KTO needs two",
                why="it estimates the KL divergence from the answers of other rows",
                fix="add rows, or write `loss_type: apo_zero_unpaired`, which needs no estimate",
            )
    key = content_key(_VERSION, splits.key, seed, max_length)

    def build(folder: Path) -> None:
        for name, rows in splits.datasets.items():
            _write(folder / f"{name}.arrow", rows, seed, max_length)

    folder, _ = get_or_build("mismatched", key, build)
    datasets = {name: Dataset.from_file(str(folder / f"{name}.arrow")) for name in splits.datasets}
    return replace(splits, datasets=datasets, key=key)


def mismatched_rows(prompts: Sequence[Hashable], seed: int) -> list[int]:
    """For each row the index of the row whose answer is its mismatched one, as a permutation of the rows.

    No row is paired with itself, and none with a row of the same prompt unless one prompt has more than half of all
    rows. The pairing depends on the rows and the seed alone, and not on batches or processes: TRL rotates the
    answers within fixed blocks of rows, so that it cannot shuffle, and pairs a block's only row with itself.

    Raises `ValueError` if there are fewer than two rows.
    """
    if len(prompts) < 2:
        raise ValueError("a mismatched answer needs at least two rows")
    by_prompt: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt, []).append(row)
    groups, generator = list(by_prompt.values()), random.Random(seed)
    for group in groups:
        generator.shuffle(group)
    generator.shuffle(groups)
    order = [row for group in groups for row in group]
    # A shift by the size of the largest group leaves every group, because the rows of a group are neighbours.
    shift = max(map(len, groups)) if len(groups) > 1 else 1
    partners = [0] * len(order)
    for position, row in enumerate(order):
        partners[row] = order[(position + shift) % len(order)]
    return partners


def _write(path: Path, rows: Any, seed: int, max_length: int) -> None:
    import pyarrow as pa

    table = rows.with_format("arrow")[:].combine_chunks()
    prompts = [ids.tobytes() for ids in _lists(table.column(PROMPT))]
    partners = np.array(mismatched_rows(prompts, seed))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for start in range(0, len(table), _BATCH):
            batch = table.slice(start, _BATCH)
            others = table.select([ANSWERS, CONTEXT]).take(partners[start : start + _BATCH])
            columns = {name: batch.column(name).to_pylist() for name in table.column_names}
            for place, (answers, contexts) in enumerate(zip(*(c.to_pylist() for c in others.columns), strict=True)):
                room = max_length - len(columns[PROMPT][place])
                columns[ANSWERS][place].append(answers[0][:room])
                columns[CONTEXT][place].append(first_runs(contexts[0], room))
            writer.write_batch(pa.RecordBatch.from_pydict(columns, table.schema))


def _lists(column: Any) -> list[np.ndarray]:
    """The lists of a column, without a copy of their numbers."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    return [
        part
        for chunk in chunks
        for part in np.split(chunk.flatten().to_numpy(), np.diff(chunk.offsets.to_numpy())[:-1].cumsum())
    ]
