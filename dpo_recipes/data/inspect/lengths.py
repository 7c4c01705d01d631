"""Statistics of the lengths of rows: histograms, the effect of other limits, and which answer is longer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpo_recipes.data.lengths import named_lengths
from dpo_recipes.data.rows import answer_names

USUAL_LENGTHS = (256, 512, 1024, 2048, 4096)
_MAX_BINS = 16
_STRONG_BIAS = 0.65
"""If one answer is longer in at least this share of the pairs, its length alone predicts which one is chosen."""


def histograms(lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """Histograms, in tokens, of all `named_lengths`, and for pairs of the `difference` (chosen minus rejected).

    `edges` are round numbers. A bin has the values from its edge up to, but not including, the next edge. The first and
    last bins include all values beyond them, down to `min` and up to `max`, so that a few outliers do not flatten the
    others. Answers have the same edges.
    """
    named = named_lengths(lengths)
    names, answers = answer_names(lengths.shape[1] - 1), lengths[:, 1:]
    if len(names) == 2:
        named["difference"] = answers[:, 0] - answers[:, 1]
    ranges = {name: answers.ravel() if name in names else values for name, values in named.items()}
    return {name: _histogram(values, ranges[name]) for name, values in named.items()}


def _histogram(values: np.ndarray, range_of: np.ndarray) -> dict[str, Any]:
    edges = _edges(range_of)
    counts = np.histogram(np.maximum(values, edges[0]), [*edges, np.inf])[0]
    return {"edges": edges, "counts": counts.tolist(), "min": int(range_of.min()), "max": int(range_of.max())}


def _edges(values: np.ndarray) -> list[int]:
    """The lower edges of bins: round numbers from the first to the 99th percentile, or to the extremes if these are
    near."""
    low, top = (int(value) for value in np.percentile(values, [1, 99], method="nearest"))
    near = 0.25 * (top - low)
    low = int(values.min()) if low - values.min() <= near else low
    top = int(values.max()) if values.max() - top <= near else top
    raw = max(1.0, (top - low) / _MAX_BINS)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return list(range(low // step * step, top + 1, step))


def what_lengths_do(lengths: np.ndarray, max_length: int, *, begins_with_bos: bool) -> list[dict[str, Any]]:
    """For the recipe's `max_length` and others: the number of too long pairs, and the result of each `overlong`.

    Computes the same as `fit_length.fit`, for all rows at once. `pairs` (`rows` if these have one answer) is the number
    of kept rows and `share` the share of kept tokens. `begins_with_bos` says that prompts start with a token that
    truncation keeps.
    """
    named = named_lengths(lengths)
    *_, unit = named
    prompt, answers = lengths[:, 0].astype(np.int64), lengths[:, 1:]
    num_texts = max(1, answers.shape[1])
    whole = num_texts * prompt + answers.sum(axis=1)
    total = int(whole.sum())
    tried = sorted({*USUAL_LENGTHS, max_length // 2, max_length, max_length * 2})
    lines = []
    for limit in tried:
        excess = named[unit] - limit
        fits, room = excess <= 0, limit - prompt
        prompt_cut = fits | (excess + begins_with_bos < prompt)
        left = {
            "drop": (fits, whole),
            "truncate_prompt_start": (prompt_cut, whole - num_texts * np.maximum(excess, 0)),
            "truncate_completion_end": (
                fits | (room > 0),
                num_texts * prompt + np.minimum(answers, room[:, None]).sum(axis=1),
            ),
        }
        line: dict[str, Any] = {"max_length": limit, "is_recipe": limit == max_length, "too_long": int((~fits).sum())}
        for name, (kept, tokens) in left.items():
            share = round(float(tokens[kept].sum() / total), 4) if total else 0.0
            line[name] = {f"{unit}s": int(kept.sum()), "share": share}
        lines.append(line)
    return lines


def compare_answers(lengths: np.ndarray) -> dict[str, float]:
    """The mean tokens of each answer, and for pairs the shares in which either is longer."""
    answers = dict(zip(answer_names(lengths.shape[1] - 1), lengths[:, 1:].T, strict=True))
    means = {f"{name}_mean": round(float(counts.mean()), 1) for name, counts in answers.items()}
    if len(answers) < 2:
        return means
    chosen, rejected = answers.values()
    return {
        **means,
        "chosen_longer": round(float((chosen > rejected).mean()), 4),
        "rejected_longer": round(float((chosen < rejected).mean()), 4),
    }


def describe_bias(answers: Mapping[str, float], num_pairs: int) -> str | None:
    """A warning if one answer of pairs is longer so often that a model may learn length instead of quality, else None.

    The least share is 65 % of the pairs, and with few pairs two standard deviations above one half.
    """
    if "chosen_longer" not in answers:
        return None
    for longer, other, lesson in (("chosen", "rejected", "long"), ("rejected", "chosen", "short")):
        share = answers[f"{longer}_longer"]
        if share >= _STRONG_BIAS and share - 0.5 > 1 / math.sqrt(num_pairs):
            return (
                f"{longer} is longer in {share:.0%} of pairs (mean {answers[f'{longer}_mean']:.0f} tokens, {other} "
                f"{answers[f'{other}_mean']:.0f}): the model may learn that {lesson} answers are better"
            )
    return None


def worth_showing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of `what_lengths_do` up to the first limit that is long enough for all pairs, and the recipe's line."""
    enough = next((at for at, line in enumerate(lines) if not line["too_long"]), len(lines))
    return [line for at, line in enumerate(lines) if at <= enough or line["is_recipe"]]
