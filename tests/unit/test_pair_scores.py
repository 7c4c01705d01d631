"""The scores of pairs by their hidden states, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dpo_recipes.cli.displacement_text import describe_displacement
from dpo_recipes.data.inspect.displacement import NORMALIZED, PLAIN, pair_scores, summarize
from dpo_recipes.data.inspect.rows import spread_evenly
from dpo_recipes.report.displacement import displacement_section

# The hidden states of the first pair: chosen (1, 0), (1, 2), so the sum is (2, 2); rejected (3, 0), its own sum.
# <c, r> = 6 and <c, c> = 8. The other pair has a rejected answer with the same hidden states as the chosen one.
SUMS = np.array([[[2.0, 2.0], [1.0, 1.0]], [[3.0, 0.0], [1.0, 1.0]]])
COUNTS = np.array([[2, 1], [1, 1]])


def test_the_score_is_the_inner_product_less_the_squared_norm() -> None:
    scores = pair_scores(SUMS, COUNTS)
    assert scores[PLAIN].tolist() == [6.0 - 8.0, 0.0]
    assert scores[NORMALIZED].tolist() == [6.0 / 2 - 8.0 / 4, 0.0]


def test_pairs_are_sorted_by_the_normalized_score_and_empty_answers_have_none() -> None:
    sums, counts = np.concatenate([SUMS, np.zeros((2, 1, 2))], axis=1), np.concatenate([COUNTS, [[3], [0]]], axis=1)
    report = summarize(["a:1", "a:2", "a:3"], pair_scores(sums, counts), counts)
    assert report["measured"] == 2
    assert report["scores"] == [
        {"where": "a:1", NORMALIZED: 1.0, PLAIN: -2.0, "chosen": 2, "rejected": 1},
        {"where": "a:2", NORMALIZED: 0.0, PLAIN: 0.0, "chosen": 1, "rejected": 1},
    ]
    assert report["distribution"][PLAIN] == {"min": -2.0, "p5": -1.9, "median": -1.0, "p95": -0.1, "max": 0.0}


@pytest.mark.parametrize(
    ("num_rows", "count", "rows"), [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (9, 1, [0]), (3, 0, [])]
)
def test_rows_are_spread_from_the_first_to_the_last(num_rows: int, count: int, rows: list[int]) -> None:
    assert spread_evenly(num_rows, count) == rows


def test_texts_say_how_many_pairs_were_measured() -> None:
    measured = summarize(["a:1", "a:2"], pair_scores(SUMS, COUNTS), COUNTS)
    report = {"model": "owner/model", "dtype": "float32", "split": "train", "pairs": 2000, **measured}
    lines = list(describe_displacement(report))
    assert lines[0] == (
        "displacement: 2 of 2,000 (evenly spread; `--rows 0` measures all) pairs of `train`, under owner/model before "
        "training"
    )
    assert [line.split() for line in lines if line.startswith("  a:")] == [
        ["a:1", "1", "-2", "2", "1"],
        ["a:2", "0", "0", "1", "1"],
    ]
    section = displacement_section({**report, "pairs": 2})
    assert section is not None
    assert section.measured == "all 2 pairs of `train`, under owner/model before training"
    assert section.tables[1].rows[0] == ["a:1", "1.00", "−2.00", "2", "1"]
    assert displacement_section(None) is None
