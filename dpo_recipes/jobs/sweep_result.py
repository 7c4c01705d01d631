"""The result of a sweep: the content of its result.json, as types that write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dpo_recipes.jobs.job_result import JobResult
from dpo_recipes.result_file import ResultPart

State = Literal["finished", "failed", "out_of_memory", "pruned", "not_run"]


class RunOutcome(ResultPart):
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


class TrialOutcome(ResultPart):
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


class Best(ResultPart):
    """The best trial."""

    trial: int
    run: str
    """The directory of the run whose model is in `best/`: the best one of the trial."""
    lead: float | None = None
    """How much better its value is than that of the second-best trial; None if there is none."""
    is_within_noise: bool | None = None
    """Whether the lead is within the 95% interval of the difference; None without a trial of several seeds."""


class SettingImportance(ResultPart):
    """What a setting contributes to the differences between runs, as in `importance.Importance`."""

    settings: list[str]
    """Its path, or those of several settings that always change together."""
    share: float
    chance_share: float
    is_shown: bool


class SettingImportances(ResultPart):
    """All settings, the one with the largest share first, as in `importance.Importances`."""

    settings: list[SettingImportance]
    rest: float
    seed_share: float | None = None


class SweepResult(JobResult):
    """The content of a sweep's result.json."""

    described = "a sweep"
    remedy = "restore the file as the sweep wrote it"

    kind: Literal["sweep"] = "sweep"
    status: Literal["finished", "failed"]
    """`failed`: no trial has a value."""
    objective: str
    metric: str
    """The key of the metric, without `eval_`."""
    direction: Literal["minimize", "maximize"]
    trials: list[TrialOutcome]
    best: Best | None = None
    """None if the sweep failed."""
    importances: SettingImportances | None = None
    """None if there are too few results to judge the settings."""
