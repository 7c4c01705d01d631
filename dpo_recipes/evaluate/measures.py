"""What an evaluation measures of a model: the metrics, their values for each prompt, and their estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dpo_recipes.evaluate.intervals import (
    Statistic,
    bootstrap_estimate,
    mean_estimate,
    ratio_statistic,
    share_estimate,
)
from dpo_recipes.evaluate.result import Estimate
from dpo_recipes.evaluate.text_metrics import Overlap, distinct, repetition, split_words
from dpo_recipes.objectives import pair_metrics
from dpo_recipes.objectives.metric import Metric

ACCURACY = replace(pair_metrics.ACCURACY, label="Implicit reward accuracy")
MARGIN = replace(pair_metrics.MARGIN, label="Implicit reward margin")
"""`Implicit`, because a reward model may judge the same model."""
LIKELIHOOD_ACCURACY = Metric("likelihood_accuracy", "Chosen answer more probable", 1, is_share=True)
PERPLEXITY = Metric("perplexity/chosen", "Perplexity of the good answers", 2, higher_is_better=False)
BLEU_SCORE = Metric("bleu", "BLEU", 1, higher_is_better=True)
ROUGE_L = Metric("rouge_l", "ROUGE-L", higher_is_better=True)
TOKENS = Metric("length/tokens", "Tokens of an answer", 1)
WORDS = Metric("length/words", "Words of an answer", 1)
CUT_OFF = Metric("cut_off", "Answers cut off at the maximum length", 1, is_share=True, higher_is_better=False)
EMPTY = Metric("empty", "Empty answers", 1, is_share=True, higher_is_better=False)
DISTINCT_1 = Metric("distinct_1", "Distinct words")
DISTINCT_2 = Metric("distinct_2", "Distinct 2-grams")
REPETITION = Metric("repetition", "Repeated 4-grams of an answer", 1, is_share=True, higher_is_better=False)
KL_ANSWER = Metric("kl/answer", "KL from the base, nats per answer", 2)
KL_TOKEN = Metric("kl/token", "KL from the base, nats per token", 4)

REWARD = "reward/"
"""The start of the keys of mean rewards, before the name of the source."""
TOTAL = "total"
"""The name of the weighted sum of several sources."""

METRICS = (
    ACCURACY, MARGIN, LIKELIHOOD_ACCURACY, PERPLEXITY, BLEU_SCORE, ROUGE_L, TOKENS, WORDS, CUT_OFF, EMPTY, DISTINCT_1,
    DISTINCT_2, REPETITION, KL_ANSWER, KL_TOKEN,
)  # fmt: skip
"""In the order of the tables."""
SHOWN_FIRST = (ACCURACY.key, ROUGE_L.key, KL_ANSWER.key, WORDS.key)
"""The metrics that a table of several steps has room for."""


@dataclass
class Measured:
    """The values of one model. Values of several models with one key are of the same rows, in the same order."""

    means: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics that are means over rows, with a value of each."""
    shares: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics that are shares of rows: whether each one counts."""
    statistics: dict[str, tuple[Statistic, int]] = field(default_factory=dict)
    """Metrics of all rows together, with the number of rows."""
    whole: dict[str, Estimate] = field(default_factory=dict)
    """Metrics of a set of answers whose interval has been computed, and that are not compared by prompt."""

    def estimates(self) -> dict[str, Estimate]:
        """Each metric with its interval, in the order of `METRICS`."""
        found: dict[str, Estimate | None] = {key: mean_estimate(values) for key, values in self.means.items()}
        found |= {key: share_estimate(values) for key, values in self.shares.items()}
        found |= {key: bootstrap_estimate(*statistic) for key, statistic in self.statistics.items()}
        return in_order({key: value for key, value in {**found, **self.whole}.items() if value is not None})

    def minus(self, other: Measured) -> dict[str, Estimate]:
        """The differences from another model, paired by row, of the metrics that both have."""
        found: dict[str, Estimate | None] = {}
        for own, others in ((self.means, other.means), (self.shares, other.shares)):
            for key in own.keys() & others.keys():
                found[key] = mean_estimate(own[key].astype(float) - others[key].astype(float))
        for key in self.statistics.keys() & other.statistics.keys():
            (first, count), (second, _) = self.statistics[key], other.statistics[key]
            found[key] = bootstrap_estimate(lambda w, a=first, b=second: a(w) - b(w), count)
        return in_order({key: value for key, value in found.items() if value is not None})


def in_order(values: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Rewards, and then the other values in the order of `METRICS`."""
    known = [metric.key for metric in METRICS if metric.key in values]
    return {key: values[key] for key in [*(key for key in values if key not in known), *known]}


def measure_texts(
    measured: Measured, texts: Sequence[str], num_tokens: Sequence[int], are_cut_off: Sequence[bool]
) -> None:
    """Add the metrics of the answers by themselves."""
    words = [split_words(text) for text in texts]
    measured.means[TOKENS.key] = np.array(num_tokens, float)
    measured.means[WORDS.key] = np.array([len(text.split()) for text in texts], float)
    measured.shares[CUT_OFF.key] = np.array(are_cut_off, bool)
    measured.shares[EMPTY.key] = np.array([not text for text in texts], bool)
    measured.means[REPETITION.key] = np.array(list(map(repetition, words)), float)
    for metric, size in ((DISTINCT_1, 1), (DISTINCT_2, 2)):
        estimate = distinct(words, size)
        if estimate is not None:
            measured.whole[metric.key] = estimate


def measure_overlap(
    measured: Measured, overlap: Overlap, texts: Sequence[str], references: Sequence[str | None]
) -> None:
    """Add the agreement of the answers with the good ones in the data, for the prompts that have one."""
    pairs = [(text, reference) for text, reference in zip(texts, references, strict=True) if reference]
    if not pairs:
        return
    answers, wanted = [text for text, _ in pairs], [reference for _, reference in pairs]
    measured.statistics[BLEU_SCORE.key] = overlap.bleu_statistic(answers, wanted), len(pairs)
    measured.means[ROUGE_L.key] = np.array(overlap.rouge(answers, wanted))


def measure_likelihoods(
    measured: Measured, logps: np.ndarray, base: np.ndarray | None, beta: float, num_tokens: Sequence[int | None]
) -> None:
    """Add what the probabilities of the answers in the data say.

    Args:
        measured: What the metrics are added to.
        logps: [rows, K] of the model: sums over the answers' tokens, in nats, and NaN for an answer that a row does not
            have. With K = 2, the chosen answer is first.
        base: The same of its base, if it has one.
        beta: The factor of the implicit rewards.
        num_tokens: The tokens of the good answer of each row; None for a row without one.
    """
    good = [place for place, count in enumerate(num_tokens) if count]
    if good:
        counts = np.array([num_tokens[place] for place in good], float)
        mean_loss = ratio_statistic(list(-logps[good, 0]), list(counts))
        measured.statistics[PERPLEXITY.key] = (lambda weights: np.exp(mean_loss(weights))), len(good)
    pairs = np.flatnonzero(np.isfinite(logps).all(axis=1)) if logps.shape[1] == 2 else []
    if not len(pairs):
        return
    logps = logps[pairs]
    measured.shares[LIKELIHOOD_ACCURACY.key] = logps[:, 0] > logps[:, 1]
    if base is not None:
        rewards = beta * (logps - base[pairs])
        measured.shares[ACCURACY.key] = rewards[:, 0] > rewards[:, 1]
        measured.means[MARGIN.key] = rewards[:, 0] - rewards[:, 1]


def measure_divergence(
    measured: Measured, logps: Sequence[float], base: Sequence[float], num_tokens: Sequence[int]
) -> None:
    """Add the estimated KL divergence from the base: the mean of log π(y) - log π_base(y) over answers y that the model
    sampled at temperature 1."""
    ratios = np.array(logps) - np.array(base)
    if not len(ratios):
        return
    measured.means[KL_ANSWER.key] = ratios
    measured.statistics[KL_TOKEN.key] = ratio_statistic(list(ratios), list(num_tokens)), len(ratios)
