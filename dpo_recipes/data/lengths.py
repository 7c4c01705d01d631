"""Computes lengths of many pairs at once, as arrays of shape [rows, 3] with tokens of prompt, chosen and rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def pair_lengths(dataset: Any) -> np.ndarray:
    """Tokens of prompt, chosen and rejected of tokenized pairs (a `datasets.Dataset`), of shape [rows, 3].

    Only the offsets are read, not the tokens.
    """
    from pyarrow.compute import list_value_length  # pyright: ignore[reportAttributeAccessIssue]

    table = dataset.with_format("arrow")[:]
    columns = [list_value_length(table.column(f"{part}_ids")).to_numpy() for part in ("prompt", "chosen", "rejected")]
    return np.stack(columns, axis=1).astype(np.int64)


def trained_lengths(dataset: Any) -> np.ndarray:
    """Tokens of the chosen and the rejected answer that are trained on, of shape [rows, 2]: all except context."""
    counts = pair_lengths(dataset)[:, 1:]
    if "chosen_context" in dataset.column_names:
        columns = dataset.select_columns(["chosen_context", "rejected_context"])
        counts = counts - np.array([[count_runs(runs) for runs in row.values()] for row in columns])
    return counts


def count_runs(runs: Sequence[int]) -> int:
    """The number of tokens in runs, which are a flat list of starts and ends."""
    return sum(runs[1::2]) - sum(runs[::2])


def named_lengths(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The columns by name, and `pair`, the length of the longer of a pair's two sequences, which `max_length`
    limits."""
    prompt, chosen, rejected = lengths.T
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "pair": prompt + np.maximum(chosen, rejected)}


def distributions(lengths: np.ndarray) -> dict[str, dict[str, float]]:
    """The mean, median, 95th and 99th percentile and maximum of each of `named_lengths`."""
    return {name: _distribution(values) for name, values in named_lengths(lengths).items()}


def _distribution(values: np.ndarray) -> dict[str, float]:
    median, p95, p99 = (int(q) for q in np.percentile(values, [50, 95, 99], method="nearest"))
    return {
        "mean": round(float(values.mean()), 1),
        "median": median,
        "p95": p95,
        "p99": p99,
        "max": int(values.max()),
    }
