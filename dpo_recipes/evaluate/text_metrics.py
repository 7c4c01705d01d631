"""Metrics of answers as texts: variety, repetition, and agreement with the answers in the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.intervals import Statistic, jackknife_estimate
from dpo_recipes.evaluate.result import Estimate

BleuTokenizer = Literal["13a", "intl", "zh", "char"]
_REPEATED = 4
"""The length of the n-grams of `repetition`, as in Welleck et al. 2020."""
# A word, or a single character of a script without spaces between words: CJK, kana, Thai, Lao, Khmer, Burmese.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation. For English they are those of rouge-score's tokenizer,
    which drops all letters beyond a to z."""
    return _WORD.findall(text.lower())


def distinct(answers: Sequence[Sequence[str]], size: int) -> Estimate | None:
    """The number of different n-grams of all answers divided by that of all n-grams (Li et al. 2016,
    https://arxiv.org/abs/1510.03055), with its jackknife interval. None without n-grams.

    It falls with the total length of the answers, so compare it only between answers of similar length.
    """
    grams = [Counter(_grams(words, size)) for words in answers]
    total: Counter[tuple[str, ...]] = Counter()
    for counts in grams:
        total.update(counts)
    num_all, num_distinct = sum(total.values()), len(total)
    if not num_all:
        return None
    without_each = []
    for counts in grams:
        rest = num_all - sum(counts.values())
        lost = sum(total[gram] == count for gram, count in counts.items())
        if rest:
            without_each.append((num_distinct - lost) / rest)
    return jackknife_estimate(num_distinct / num_all, without_each, (0.0, 1.0))


def repetition(words: Sequence[str]) -> float:
    """The share of an answer's 4-grams that repeat an earlier one (seq-rep-4 of Welleck et al. 2020,
    https://arxiv.org/abs/1908.04319); 0 for an answer that is too short to have any."""
    grams = _grams(words, _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]


class _Words:
    """`split_words` as a tokenizer of rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


class Overlap:
    """BLEU (sacrebleu) and ROUGE-L (rouge-score) of answers against the answers in the data.

    Raises `RunError` T680 if a library is not installed.
    """

    def __init__(self, tokenizer: BleuTokenizer) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise RunError.of(
                "T680",
                f"{error.name} is not installed",
                why="BLEU and ROUGE-L come from sacrebleu and rouge-score",
                fix="`pip install 'dpo-recipe[evaluate]'`, or leave them out with `--no-overlap` (`overlap: false`)",
            ) from error
        self._bleu: Any = BLEU(tokenize=tokenizer)
        self._rouge = RougeScorer(["rougeL"], tokenizer=_Words())

    @property
    def signature(self) -> str:
        """sacrebleu's description of how BLEU is computed. Only after BLEU was computed."""
        return str(self._bleu.get_signature())

    def rouge(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        """The F-measure of each answer: the harmonic mean of the shares of both texts that their longest common
        subsequence of words covers (Lin 2004)."""
        pairs = zip(references, answers, strict=True)
        return [float(self._rouge.score(reference, answer)["rougeL"].fmeasure) for reference, answer in pairs]

    def bleu_statistic(self, answers: Sequence[str], references: Sequence[str]) -> Statistic:
        """BLEU of all answers together, from 0 to 100 (Papineni et al. 2002), with sacrebleu's usual smoothing."""
        scores = [
            self._bleu.corpus_score([answer], [[reference]])
            for answer, reference in zip(answers, references, strict=True)
        ]
        counts = np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores])

        def statistic(weights: np.ndarray) -> np.ndarray:
            sums = np.rint(weights @ counts).astype(int).tolist()
            return np.array(
                [self._bleu.compute_bleu(row[:4], row[4:8], *row[8:], smooth_method="exp").score for row in sums]
            )

        return statistic
