"""What the hidden states of pairs say about likelihood displacement: scores, their distribution, and what to do.

The centered hidden embedding similarity (CHES) of a pair is <c, r> - <c, c>, where c and r are the sums of the hidden
states that predict the tokens of the chosen and of the rejected answer (Razin et al. 2024, definition 2,
https://arxiv.org/abs/2410.08847). Its length-normalized variant, which section 6 of the paper filters by, takes means
instead of sums. `engine/displacement.py` computes the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NORMALIZED, PLAIN = "normalized_ches", "ches"
LABELS = {NORMALIZED: "CHES, length-normalized", PLAIN: "CHES"}
COLUMNS = ("min", "p5", "median", "p95", "max")
MEANING = (
    "In the paper, the pairs with the highest scores of a dataset contributed most to chosen answers becoming less "
    "likely (https://arxiv.org/abs/2410.08847). Scores compare pairs of these data under this model; no value is too "
    "high as such."
)
ADVICE = (
    "look at the pairs with the highest scores: are their answers nearly the same?",
    "leave them out, which reduced the displacement in the paper's experiments; `--json` has all measured pairs",
    "add the likelihood of the chosen answers to the loss (`loss_type: [sigmoid, sft]` in `dpo`, `cpo_alpha` in `cpo` "
    "and `simpo`, or `kind: orpo`), or train on the chosen answers first (`kind: sft`)",
    "the guard `displacement` measures in training whether it happens",
)


def pair_scores(sums: np.ndarray, num_tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The CHES of pairs and its length-normalized variant, [rows] each.

    `sums`, [2, rows, H], are the sums of hidden states for the chosen and rejected answers, and `num_tokens`,
    [2, rows], the numbers of their terms.
    """
    (chosen, rejected), (num_chosen, num_rejected) = sums.astype(np.float64), np.maximum(num_tokens, 1)
    across, within = (chosen * rejected).sum(axis=-1), (chosen * chosen).sum(axis=-1)
    return {NORMALIZED: across / (num_chosen * num_rejected) - within / num_chosen**2, PLAIN: across - within}


def summarize(where: Sequence[str], scores: dict[str, np.ndarray], num_tokens: np.ndarray) -> dict[str, Any]:
    """The scores of pairs as plain data: their distribution, and all pairs with the highest length-normalized score
    first. `where` has the place of each pair, and `num_tokens`, [2, rows], the trained tokens of its answers. Pairs
    with an answer without such tokens have no score and are left out."""
    known = np.flatnonzero((num_tokens > 0).all(axis=0))
    order = known[np.argsort(-scores[NORMALIZED][known], kind="stable")].tolist()
    return {
        "measured": len(order),
        "distribution": {name: _distribution(values[known]) for name, values in scores.items()},
        "scores": [
            {
                "where": where[at],
                **{name: _rounded(values[at]) for name, values in scores.items()},
                "chosen": int(num_tokens[0, at]),
                "rejected": int(num_tokens[1, at]),
            }
            for at in order
        ],
    }


def describe_measured(report: dict[str, Any]) -> str:
    """How many pairs were measured, and under which model."""
    pairs = f"all {report['pairs']:,}"
    if report["measured"] < report["pairs"]:
        pairs = f"{report['measured']:,} of {report['pairs']:,} (evenly spread; `--rows 0` measures all)"
    return f"{pairs} pairs of `{report['split']}`, under {report['model']} before training"


def _distribution(values: np.ndarray) -> dict[str, float]:
    numbers = np.percentile(values, [0, 5, 50, 95, 100])
    return dict(zip(COLUMNS, map(_rounded, numbers), strict=True))


def _rounded(value: Any) -> float:
    """The value with six significant digits."""
    return float(f"{value:.6g}")
