"""The result of an evaluation: the content of its result.json, as types that write and read it.

`SCHEMA` is raised when the meaning of a field changes. A new field with a default does not raise it, and the reader
ignores fields that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import write_json
from dpo_recipes.run_result import describe_invalid

SCHEMA = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), defer_build=True)


class Estimate(_Part):
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


class EvaluatedModel(_Part):
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


class ModelComparison(_Part):
    """One model against another one on the same prompts."""

    model: str
    against: str
    differences: Mapping[str, Estimate] = Field(default_factory=dict)
    """By the keys of metrics: the value of `model` minus that of `against`, paired by prompt."""
    win_rates: Mapping[str, Estimate] = Field(default_factory=dict)
    """By reward source: the share of prompts whose answer of `model` gets the higher reward. Ties count as half."""
    length_controlled_win_rates: Mapping[str, Estimate] = Field(default_factory=dict)
    """The same for answers of equal length (`evaluate.win_rate`)."""


class JudgedSource(_Part):
    """How a source of rewards judges the pairs of the data."""

    name: str
    accuracy: Estimate | None = None
    """The share of pairs whose chosen answer gets the higher reward."""
    margin: Estimate | None = None
    """The reward of the chosen answer minus that of the rejected one."""


class GenerationSettings(_Part):
    """How the answers were generated."""

    temperature: float
    """0 is greedy decoding."""
    top_p: float
    max_new_tokens: int
    seed: int


class EvaluationResult(_Part):
    """The content of the result.json of an evaluation."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
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

    def to_json(self) -> dict[str, Any]:
        """Plain data for result.json."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write result.json atomically."""
        write_json(path, self.to_json())


class SampledModel(_Part):
    """A model that has given answers."""

    name: str
    reference: str
    rewards: Mapping[str, Estimate]
    """By source, and with several sources their weighted sum as `total`: means over the prompts."""
    cut_off: float
    """The share of answers that reached the maximum length."""


class SampleResult(_Part):
    """The content of the result.json of sampled preference data."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    kind: Literal["samples"] = "samples"
    data: str
    split: str
    num_prompts: int
    num_rows: int
    """The rows that were written."""
    left_out: Mapping[str, int] = Field(default_factory=dict)
    """The number of rows and prompts that were not used, by reason."""
    models: list[SampledModel]
    packages: Mapping[str, str | None] = Field(default_factory=dict)
    finished_at: str | None = None
    wall_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for result.json."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write result.json atomically."""
        write_json(path, self.to_json())


def read_samples(path: Path) -> SampleResult:
    """Read the result.json of sampled data. Raises `RunError` T642 if it cannot be read."""
    return _read(path, SampleResult, "sampled data")


def read_evaluation(path: Path) -> EvaluationResult:
    """Read the result.json of an evaluation. Raises `RunError` T642 if it has another schema or cannot be read."""
    return _read(path, EvaluationResult, "an evaluation")


_Result = TypeVar("_Result", EvaluationResult, SampleResult)


def _read(path: Path, kind: type[_Result], of: str) -> _Result:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        why = describe_invalid(error)
    except (OSError, ValueError) as error:
        why = str(error)
    raise RunError.of(
        "T642", f"{path} is not the result of {of}", why=why, fix="restore the file, or make it again in another folder"
    )
