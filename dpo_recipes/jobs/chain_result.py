"""The result of a chain: the content of its result.json, as types that write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from dpo_recipes.jobs.job_result import JobResult
from dpo_recipes.jobs.steps.base import Figure, ProductKind
from dpo_recipes.result_file import ResultPart

StepState = Literal["finished", "failed", "not_run"]
"""`not_run`: a step that it needs has failed."""


class StepOutcome(ResultPart):
    """One step."""

    name: str
    title: str = ""
    """Its name in the file, without the number of the round."""
    round: int | None = None
    """The number of its round; None if it is done once."""
    kind: str
    work: str
    """What it did, in a few words."""
    makes: ProductKind
    needs: Mapping[str, str]
    """The steps that it refers to, by the path of the reference."""
    state: StepState
    directory: str | None = None
    """Its run directory, relative to that of the chain; None if it was not run."""
    product: str | None = None
    """What it made, relative to the directory of the chain; None if the step did not finish."""
    figures: list[Figure] = Field(default_factory=list)
    """The main metrics of its own objective on the held-out rows."""
    code: str | None = None
    """The code of the error with which it failed."""
    reason: str | None = None
    attempts: int = 0
    """How often it was started."""
    wall_s: float = 0.0
    """The time of all attempts."""


class ChainResult(JobResult):
    """The content of a chain's result.json."""

    described = "a chain"
    remedy = "restore the file as the chain wrote it"

    kind: Literal["chain"] = "chain"
    status: Literal["finished", "failed"]
    """`failed`: a step has failed."""
    steps: list[StepOutcome]
    """In the order of need."""
