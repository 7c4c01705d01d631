"""The result of a run: the content of result.json, as types that write and read it.

In the file, the names of some fields say "pair": schema 1 was made when all objectives learned from pairs. They count
rows, whatever the objective is.

`SCHEMA` is raised when the meaning of a field changes. A new field with a default does not raise it, and the reader
ignores fields that it does not know, so that versions of one schema read the results of each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import write_json

SCHEMA = 1
SavedKind = Literal["adapter", "merged", "full"]
"""The form of a saved model: the adapter alone, the base with the adapter merged into it, or a whole model."""


def _named(name: str) -> Any:
    """A number that is None if it is missing, and has another name in the file. `alias` is not used, because type
    checkers would then expect that name as the argument."""
    return Field(default=None, validation_alias=name, serialization_alias=name)


class _Part(BaseModel):
    """A part of a result. Each value that may be missing is None then."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), defer_build=True, validate_by_name=True
    )


class _OpenPart(_Part):
    """A description that may have more values than are declared here, which are kept."""

    model_config = ConfigDict(extra="allow")


class _ShortPart(_Part):
    """A part whose missing values are left out of the file."""

    @model_serializer(mode="wrap")
    def _leave_out(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class Sample(_ShortPart):
    """A prompt, the answers of the base and of the tuned model, and the answers in the data."""

    prompt: str | None = None
    base: str | None = None
    tuned: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    completion: str | None = None
    """The answer in the data, if there is one for a prompt."""


class StepAnswers(_Part):
    """The answers of the model after a step of training."""

    step: int
    answers: list[str]
    """To the first prompts of `RunResult.samples`."""


class AnswerWords(_Part):
    """The mean number of words of the generated answers."""

    base: float | None = None
    tuned: float | None = None
    prompts: int | None = None
    """The number of prompts."""


class SavedModelComparison(_ShortPart):
    """The comparison of the saved model, loaded again, with the trained one."""

    checked: bool
    reason: str | None = None
    """The reason why it was not compared."""
    equal: bool | None = None
    rows: int | None = _named("pairs")
    """The number of rows on which it was compared."""
    largest_logit_difference: float | None = None
    largest_logit: float | None = None


class ModelInfo(_OpenPart):
    """The base, its adapter, and how they were computed."""

    base: str | None = None
    revision: str | None = None
    """The commit of a base from the hub."""
    architecture: str | None = None
    dtype: str | None = None
    weights_dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    device_name: str | None = None
    attention: str | None = None
    adapter: str | None = None
    added_tokens: list[str] | None = None
    total_parameters: int | None = None
    reference: str | None = None
    trainable_parameters: int | None = None
    prefix_sharing: str | None = None
    processes: str | None = None


class Environment(_OpenPart):
    """The machine and the versions of packages."""

    machine: str | None = None
    system: str | None = None
    cpu_count: int | None = None
    memory_bytes: int | None = None
    gpus: list[str] | None = None
    python: str | None = None
    packages: Mapping[str, str | None] = Field(default_factory=dict)


class DataInfo(_OpenPart):
    """The content key of the tokenized rows, and the chat template that rendered them."""

    source: str | None = None
    chat_template: str | None = None
    """`tokenizer`, the name of a shipped template or of a file without `.jinja`, or `inline`."""


class ProcessInfo(_OpenPart):
    """The launch plan, and the peak memory of each process."""

    num_processes: int | None = None
    num_nodes: int | None = None
    micro_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    max_tokens: int | None = None
    rows_per_step: int | None = _named("pairs_per_step")
    strategy: str | None = None
    reason: str | None = None
    peak_memory_bytes: list[int] | None = None


class Drift(_Part):
    """The KL divergence of the tuned model from its base, estimated on answers that it sampled."""

    nats_per_answer: float
    standard_error: float | None = None
    """Of `nats_per_answer`; None for a single answer."""
    nats_per_token: float
    answers: int
    tokens: int
    """Of all answers together."""


class GuardAlert(_Part):
    """What a guard saw, once in a run."""

    guard: str
    """Its name in the section `guards`."""
    code: str
    step: int
    action: Literal["warn", "stop"]
    is_about_quality: bool = True
    """Whether it says something about the tuned model."""
    what: str
    why: str
    fix: str


class GuardReport(_Part):
    """The guards of a run and their alerts."""

    watched: list[str] = Field(default_factory=list)
    """The names of the guards that were active: not off, and with the metrics that they need."""
    alerts: list[GuardAlert] = Field(default_factory=list)
    """In the order of their steps; at most one of each guard."""


class TrainingFigures(_Part):
    """Steps, speed and duration of the training. Rates are over the whole run and all processes."""

    num_train_rows: int | None = _named("num_train_pairs")
    """The rows that the run used."""
    steps: int | None = None
    epochs: float | None = None
    train_runtime_s: float | None = None
    rows_per_second: float | None = _named("pairs_per_second")
    tokens_per_second: float | None = None
    distinct_tokens_per_second: float | None = None
    """Without padding; a prompt that several answers share counts once."""
    positions_saved: float | None = None
    """The share of padded positions that was not computed."""
    matmul_share: float | None = None
    """The share of the device's rate for matrix products; None if that rate is unknown."""
    resumed_from_step: int | None = None
    ended_early: str | None = None
    """Why training ended before its last planned step; None if it did not."""
    checkpoints_waited_s: float | None = None
    """The time for which training waited for checkpoints."""


class RunResult(TrainingFigures):
    """The content of result.json."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    status: str
    """`finished`."""
    recipe: str
    """The name of the recipe."""
    summary: str | None = None
    num_eval_rows: int | None = _named("num_eval_pairs")
    num_test_rows: int | None = _named("num_test_pairs")
    subsets: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)
    """For `eval` and `test`, the number of rows of each subset that `columns: {subset: ...}` of the data names."""
    data: DataInfo = Field(default_factory=DataInfo)
    peak_memory_bytes: int | None = None
    """Of the process that needed most."""
    processes: ProcessInfo = Field(default_factory=ProcessInfo)
    samples: list[Sample] = Field(default_factory=list)
    answers_by_step: list[StepAnswers] = Field(default_factory=list)
    """With `evaluation.samples_each_eval`: the answers at each evaluation in training, in the order of the steps."""
    answer_words: AnswerWords | None = None
    """None if no answers were generated."""
    guards: GuardReport = Field(default_factory=GuardReport)
    drift: Drift | None = None
    """None if it was not estimated."""
    model: ModelInfo = Field(default_factory=ModelInfo)
    environment: Environment = Field(default_factory=Environment)
    metrics: Mapping[str, float | None] = Field(default_factory=dict)
    """Of the tuned model: `train_loss`, and each metric of the objective as `eval_<key>` and `test_<key>`; its accuracy
    on each subset as `eval_<key>/<subset>`."""
    base_metrics: Mapping[str, float | None] = Field(default_factory=dict)
    """The same of the untouched base, without a training loss."""
    model_dir: str | None = None
    """The folder of the saved model when it was saved; `FinishedRun.model_dir` also finds it after a move."""
    saved: SavedKind | None = None
    saved_dtype: str | None = None
    saved_model: SavedModelComparison | None = None
    started_at: str | None = None
    """The times are in UTC, in ISO 8601."""
    finished_at: str | None = None
    wall_s: float | None = None

    def with_changes(self, **changes: Any) -> RunResult:
        """A copy with other values of some fields, which are validated."""
        values = {name: value for name, value in dict(self).items() if name != "schema_version"}
        return RunResult.model_validate({"schema": SCHEMA, **values, **changes})

    def to_json(self) -> dict[str, Any]:
        """Plain data for result.json. NaN and infinities become null, because JSON has no such numbers."""
        return _without_non_finite(self.model_dump(mode="json", by_alias=True))

    def write(self, path: Path) -> None:
        """Write result.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RunResult:
        """The inverse of `to_json`. Unknown fields are ignored, and null is read as missing. Raises `ValidationError`
        if a value has another type, also for another schema."""
        known = {field.serialization_alias or name for name, field in cls.model_fields.items()}
        values = {name: value for name, value in plain.items() if name in known and value is not None}
        return cls.model_validate({"schema": None, **values})


def read_result(path: Path) -> RunResult:
    """Read a result.json. Raises `RunError` T642 if it has another schema or cannot be read."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != SCHEMA:
        raise RunError.of(
            "T642",
            f"{path} has the schema {schema!r}",
            why=f"this version of dpo-recipe reads results of schema {SCHEMA}",
            fix="use the version of dpo-recipe that wrote it; `environment.packages` in the file names it",
        )
    try:
        return RunResult.from_json(plain)
    except ValidationError as error:
        raise _unreadable(path, describe_invalid(error)) from error


def describe_invalid(error: ValidationError) -> str:
    """The first fault of data that do not validate: its place and pydantic's message."""
    fault = error.errors(include_url=False)[0]
    value = "" if fault["type"] == "missing" else f", not {str(fault['input'])[:100]!r}"
    return f"`{'.'.join(map(str, fault['loc']))}`: {fault['msg']}{value}"


def _unreadable(path: Path, why: str) -> RunError:
    return RunError.of(
        "T642", f"{path} cannot be read", why=why, fix="restore the file as the run wrote it, or run the recipe again"
    )


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
