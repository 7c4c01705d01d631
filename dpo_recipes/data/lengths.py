"""Computes lengths of many rows at once, as arrays of shape [rows, 1 + K]: tokens of the prompt and of K answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpo_recipes.data.rows import answer_names


def row_lengths(dataset: Any) -> np.ndarray:
    """Tokens of the prompt and of each of the K answers of tokenized rows (a `datasets.Dataset`), of shape
    [rows, 1 + K].

    Only the offsets are read, not the tokens. All rows have the same number of answers.
    """
    table = dataset.select_columns(["prompt_ids", "answer_ids"]).with_format("arrow")[:]
    return table_lengths(table)


def table_lengths(table: Any) -> np.ndarray:
    """`row_lengths` of an Arrow table with at least one row."""
    from pyarrow.compute import list_flatten, list_value_length  # pyright: ignore[reportAttributeAccessIssue]

    prompts = list_value_length(table.column("prompt_ids")).to_numpy()
    answers = list_value_length(list_flatten(table.column("answer_ids"))).to_numpy()
    return np.column_stack([prompts, answers.reshape(len(prompts), -1)]).astype(np.int64)


def trained_lengths(dataset: Any) -> np.ndarray:
    """Tokens of each answer that are trained on, of shape [rows, K]: all except context."""
    counts = row_lengths(dataset)[:, 1:]
    if "answer_context" in dataset.column_names:
        contexts = dataset.select_columns(["answer_context"])["answer_context"]
        counts = counts - np.array([list(map(count_runs, of_answers)) for of_answers in contexts])
    return counts


def count_runs(runs: Sequence[int]) -> int:
    """The number of tokens in runs, which are a flat list of starts and ends."""
    return sum(runs[1::2]) - sum(runs[::2])


def named_lengths(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The columns by name, and as the last value the length of the longest sequence of a row, which `max_length`
    limits: `pair` for pairs, `row` for rows with one answer, and `prompt` for prompts alone."""
    prompt, answers = lengths[:, 0], lengths[:, 1:]
    names = answer_names(answers.shape[1])
    if not names:
        return {"prompt": prompt}
    whole = "pair" if len(names) == 2 else "row"
    return {"prompt": prompt, **dict(zip(names, answers.T, strict=True)), whole: prompt + answers.max(axis=1)}


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
