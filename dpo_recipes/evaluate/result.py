"""The results of an evaluation and of a sampling: the content of their result.json, as types that write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from dpo_recipes.result_file import ResultFile, ResultPart


class _AnswersResult(ResultFile):
    remedy: ClassVar[str] = "restore the file, or make it again in another folder"


class Estimate(ResultPart):
    """A value with its 95% interval."""

    value: float
    low: float | None = None
    """None if the interval is unknown, as for a single row."""
    high: float | None = None
    count: int
    """The number of prompts or rows that it was measured on."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval shows that a difference is not zero."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


class EvaluatedModel(ResultPart):
    """The values of one model."""

    name: str
    """The name under which tables show it."""
    reference: str
    """What the person named: a run directory, a folder, a hub id or `base`."""
    base: str | None = None
    """The model that rewards and the divergence compare it with; None if it has none."""
    beta: float | None = None
    """The factor of its implicit rewards; None without a base."""
    device: str
    dtype: str
    metrics: Mapping[str, Estimate] = Field(default_factory=dict)
    """By the keys of `evaluate.metrics.METRICS`."""


class ModelComparison(ResultPart):
    """One model against another one on the same prompts."""

    model: str
    against: str
    differences: Mapping[str, Estimate] = Field(default_factory=dict)
    """By the keys of metrics: the value of `model` minus that of `against`, paired by prompt."""
    win_rates: Mapping[str, Estimate] = Field(default_factory=dict)
    """By reward source: the share of prompts whose answer of `model` gets the higher reward. Ties count as half."""
    length_controlled_win_rates: Mapping[str, Estimate] = Field(default_factory=dict)
    """The same for answers of equal length (`evaluate.win_rate`)."""


class JudgedSource(ResultPart):
    """How a source of rewards judges the pairs of the data."""

    name: str
    accuracy: Estimate | None = None
    """The share of pairs whose chosen answer gets the higher reward."""
    margin: Estimate | None = None
    """The reward of the chosen answer minus that of the rejected one."""


class GenerationSettings(ResultPart):
    """How the answers were generated."""

    temperature: float
    """0 is greedy decoding."""
    top_p: float
    max_new_tokens: int
    seed: int


class EvaluationResult(_AnswersResult):
    """The content of the result.json of an evaluation."""

    described = "an evaluation"
    kind: Literal["evaluation"] = "evaluation"
    data: str
    """Where the prompts come from: a run, a recipe or a file."""
    split: str
    num_prompts: int
    left_out: Mapping[str, int] = Field(default_factory=dict)
    """The number of rows that were not used, by reason."""
    generation: GenerationSettings
    models: list[EvaluatedModel]
    comparisons: list[ModelComparison] = Field(default_factory=list)
    judges: list[JudgedSource] = Field(default_factory=list)
    """The sources of rewards on the pairs of the data; empty without pairs."""
    bleu_signature: str | None = None
    """sacrebleu's description of how BLEU was computed; None if it was not."""
    notes: list[str] = Field(default_factory=list)
    """What readers must know about the values, in sentences."""
    packages: Mapping[str, str | None] = Field(default_factory=dict)
    finished_at: str | None = None
    """In UTC, in ISO 8601."""
    wall_s: float | None = None


class SampledModel(ResultPart):
    """A model that has given answers."""

    name: str
    reference: str
    rewards: Mapping[str, Estimate]
    """By source, and with several sources their weighted sum as `total`: means over the prompts."""
    cut_off: float
    """The share of answers that reached the maximum length."""
    tokens: Estimate | None = None
    """The length of an answer: the mean over the prompts."""


class RankedAnswers(ResultPart):
    """The best or the worst answers of the rows, one of each row."""

    rewards: Mapping[str, Estimate]
    """By source, and with several sources their weighted sum as `total`: means over the rows."""
    tokens: Estimate | None = None
    """Their length."""
    longer: Estimate | None = None
    """The share of rows in which this one has more tokens than the other one."""


class SampleResult(_AnswersResult):
    """The content of the result.json of sampled preference data."""

    described = "sampled data"
    kind: Literal["samples"] = "samples"
    data: str
    split: str
    num_prompts: int
    num_rows: int
    """The rows that were written."""
    left_out: Mapping[str, int] = Field(default_factory=dict)
    """The number of rows and prompts that were not used, by reason."""
    models: list[SampledModel]
    num_answers: int = 0
    """The answers of all models to all prompts."""
    generation: GenerationSettings | None = None
    best: RankedAnswers | None = None
    worst: RankedAnswers | None = None
    packages: Mapping[str, str | None] = Field(default_factory=dict)
    finished_at: str | None = None
    wall_s: float | None = None
