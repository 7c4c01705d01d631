"""Intervals, win-rates and text metrics equal closed forms or direct computations."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.intervals import (
    bootstrap_estimate,
    jackknife_estimate,
    mean_estimate,
    ratio_statistic,
    share_estimate,
)
from dpo_recipes.evaluate.result import Estimate
from dpo_recipes.evaluate.text_metrics import Overlap, distinct, repetition, split_words
from dpo_recipes.evaluate.win_rate import length_controlled_win_rate, preferences, win_rate


def bounds(estimate: Estimate | None) -> tuple[float, float, float]:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.value, estimate.low, estimate.high


def test_a_mean_has_students_interval() -> None:
    """2, 4, 6: mean 4, standard deviation 2, and t with two degrees of freedom is 4.3027."""
    half = 4.3027 * 2 / math.sqrt(3)
    assert bounds(mean_estimate([2, 4, 6])) == pytest.approx((4, 4 - half, 4 + half))
    assert mean_estimate([3.0]) == Estimate(value=3.0, count=1)
    assert mean_estimate([]) is None


def test_a_share_has_wilsons_interval() -> None:
    """8 of 10: the interval that Wilson's formula gives is 0.490 to 0.943 (Newcombe 1998)."""
    assert bounds(share_estimate([True] * 8 + [False] * 2)) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_the_bootstrap_of_a_mean_is_near_its_normal_interval() -> None:
    values = np.random.default_rng(1).normal(size=400)
    value, low, high = bounds(bootstrap_estimate(ratio_statistic(list(values), [1.0] * 400), 400))
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.02)


def test_a_ratio_is_that_of_the_sums() -> None:
    """(1 + 5) / (2 + 10), and the mean of the ratios would be the same only by chance."""
    value, low, high = bounds(bootstrap_estimate(ratio_statistic([1.0, 5.0, 0.0], [2.0, 10.0, 4.0]), 3))
    assert value == pytest.approx(6 / 16)
    assert low <= value <= high
    assert bootstrap_estimate(ratio_statistic([0.0], [0.0]), 1) is None


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    """For a mean, the jackknife's standard error is exactly s / √n."""
    values = [1.0, 2.0, 4.0, 9.0]
    without = [(sum(values) - one) / 3 for one in values]
    assert bounds(jackknife_estimate(4.0, without)) == pytest.approx(bounds(mean_estimate(values)))


def test_ties_count_as_half_and_the_order_of_the_models_does_not_matter() -> None:
    first, second = [1.0, 2.0, 3.0, 3.0], [0.0, 2.0, 4.0, 1.0]
    preferred = preferences(first, second)
    assert preferred.tolist() == [1.0, 0.5, 0.0, 1.0]
    forward, back = win_rate(preferred), win_rate(preferences(second, first))
    assert forward is not None
    assert back is not None
    assert forward.value == 0.625
    assert forward.value + back.value == 1.0


def test_the_length_controlled_win_rate_has_its_closed_form_for_two_lengths() -> None:
    """With d = ±1, the fit is saturated: σ(θ + φt) = 0.9 and σ(θ - φt) = 0.6, so θ is the mean of both logits.

    The penalty moves it by less than 0.001 with a thousand prompts.
    """
    preferred = np.array([1.0] * 450 + [0.0] * 50 + [1.0] * 300 + [0.0] * 200)
    longer, shorter = [11] * 500 + [10] * 500, [10] * 500 + [11] * 500
    logit = (math.log(0.9 / 0.1) + math.log(0.6 / 0.4)) / 2
    value, low, high = bounds(length_controlled_win_rate(preferred, longer, shorter))
    assert value == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)
    assert low < value < high
    back = bounds(length_controlled_win_rate(1 - preferred, shorter, longer))
    assert back == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-6)


def test_a_win_rate_that_comes_from_length_alone_is_one_half_at_equal_length() -> None:
    """The longer answer wins 90 % of the comparisons, and the first model's is longer in 75 %: its win-rate is
    0.75 · 0.9 + 0.25 · 0.1 = 0.7, and the two logits ±log(9) have the mean 0."""
    preferred = np.array([1.0] * 675 + [0.0] * 75 + [1.0] * 25 + [0.0] * 225)
    lengths = [20] * 750 + [10] * 250
    controlled = bounds(length_controlled_win_rate(preferred, lengths, [15] * 1000))
    assert bounds(win_rate(preferred))[0] == 0.7
    assert controlled[0] == pytest.approx(0.5, abs=1e-3)
    assert win_rate(preferred) == length_controlled_win_rate(preferred, [9] * 1000, [5] * 1000)


def test_a_model_that_always_wins_has_a_length_controlled_win_rate_of_nearly_one() -> None:
    """Length decides nothing here, and the fit has no finite maximum."""
    value, low, high = bounds(length_controlled_win_rate(np.ones(40), list(range(40)), [20] * 40))
    assert min(value, low, high) > 0.99


def test_distinct_n_grams_and_their_jackknife_are_counted_directly() -> None:
    answers = [["a", "b", "a"], ["b", "c"], ["d"]]
    value, low, high = bounds(distinct(answers, 1))
    without = [len(set(w)) / len(w) for w in (["b", "c", "d"], ["a", "b", "a", "d"], ["a", "b", "a", "b", "c"])]
    assert value == 4 / 6
    plain = bounds(jackknife_estimate(value, without))
    assert plain[2] > 1.0
    assert (value, low, high) == pytest.approx((plain[0], max(plain[1], 0.0), 1.0))
    assert distinct([["a"], []], 2) is None


def test_repetition_is_the_share_of_4_grams_that_occurred_before() -> None:
    """Eight words `a b a b ...` have five 4-grams, of which two differ."""
    assert repetition(["a", "b"] * 4) == pytest.approx(3 / 5)
    assert repetition(["a", "b", "c"]) == 0.0


def test_words_are_those_of_rouge_score_for_english_and_characters_for_chinese() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    text = "It's 3.5 o'clock -- the End_of_it, isn't it?"
    assert split_words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)
    assert split_words("Größe 中文字 слово") == ["größe", "中", "文", "字", "слово"]


def test_bleu_and_rouge_are_those_of_their_libraries() -> None:
    from sacrebleu import corpus_bleu

    answers = ["the cat sat on the mat", "a dog runs", ""]
    references = ["the cat sat on a mat", "the dog runs fast", "yes"]
    overlap = Overlap("13a")
    value, low, high = bounds(bootstrap_estimate(overlap.bleu_statistic(answers, references), 3))
    assert value == pytest.approx(corpus_bleu(answers, [references]).score)
    assert low <= value <= high
    assert overlap.signature.startswith("nrefs:1|case:mixed")
    # The longest common subsequences: `the cat sat on mat` of 6 and 6 words, `dog runs` of 3 and 4.
    assert overlap.rouge(answers, references) == pytest.approx([5 / 6, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 0.0])


def test_bleu_of_resampled_answers_is_that_of_the_corpus_with_repeats() -> None:
    from sacrebleu import corpus_bleu

    answers = ["the cat sat on the mat today", "a dog runs in the park"]
    references = ["the cat sat on the mat", "a dog runs in a park"]
    statistic = Overlap("13a").bleu_statistic(answers, references)
    twice = corpus_bleu([answers[0], answers[0]], [[references[0]] * 2]).score
    assert statistic(np.array([[2.0, 0.0]]))[0] == pytest.approx(twice)


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(RunError, match=r"T680.*\n.*\n.*pip install 'dpo-recipe\[evaluate\]'"):
        Overlap("13a")


def test_intervals_of_the_same_values_are_always_the_same() -> None:
    values = [random.Random(0).random() for _ in range(20)]
    statistic = ratio_statistic(values, [1.0] * 20)
    assert bootstrap_estimate(statistic, 20) == bootstrap_estimate(statistic, 20)
