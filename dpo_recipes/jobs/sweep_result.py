"""The result of a sweep: the content of its result.json, as types that write and read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import write_json
from dpo_recipes.run_result import describe_invalid

SCHEMA = 1
State = Literal["finished", "failed", "out_of_memory", "pruned", "not_run"]


class _Part(BaseModel):
    """A part of a result. Fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class RunOutcome(_Part):
    """One run of a trial."""

    directory: str
    """Its run directory, relative to that of the sweep."""
    seed: int
    """`training.seed` of the run."""
    state: State
    value: float | None = None
    """The metric on the held-out rows."""
    code: str | None = None
    """The code of the error with which it failed."""
    reason: str | None = None
    attempts: int = 0
    """How often it was started."""
    wall_s: float = 0.0
    """The time of all attempts."""


class TrialOutcome(_Part):
    """One combination of values, with the mean over its seeds."""

    number: int
    values: Mapping[str, Any]
    """By the path of the setting."""
    state: State
    """That of its runs: `finished` if at least one of them has a value."""
    value: float | None = None
    """The mean of the metric over the runs that have it."""
    interval: float | None = None
    """Half the width of the 95 % interval of that mean (Student's t); None with fewer than two runs."""
    runs: list[RunOutcome]

    @property
    def is_complete(self) -> bool:
        """Whether each of its runs has a value."""
        return all(run.value is not None for run in self.runs)


class Best(_Part):
    """The best trial."""

    trial: int
    run: str
    """The directory of the run whose model is in `best/`: the best one of the trial."""
    lead: float | None = None
    """How much better its value is than that of the second-best trial; None if there is none."""
    is_within_noise: bool | None = None
    """Whether the lead is within the 95% interval of the difference; None without a trial of several seeds."""


class SweepResult(_Part):
    """The content of a sweep's result.json."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    kind: Literal["sweep"] = "sweep"
    status: Literal["finished", "failed"]
    """`failed`: no trial has a value."""
    recipe: str
    """The name of the recipe."""
    objective: str
    metric: str
    """The key of the metric, without `eval_`."""
    direction: Literal["minimize", "maximize"]
    trials: list[TrialOutcome]
    best: Best | None = None
    """None if the sweep failed."""
    wall_s: float
    """The time of all runs together."""
    started_at: str
    """The times are in UTC, in ISO 8601."""
    finished_at: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for result.json."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write result.json atomically."""
        write_json(path, self.to_json())


def read_sweep_result(path: Path) -> SweepResult:
    """Read the result.json of a sweep. Raises `RunError` T642 if it is none, has another schema, or cannot be read."""
    try:
        return SweepResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = describe_invalid(error) if isinstance(error, ValidationError) else str(error)
        raise RunError.of(
            "T642", f"{path} is not the result of a sweep", why=why, fix="restore the file as the sweep wrote it"
        ) from error
