"""What a guard is: settings, and a pure function of the rows of metrics so far that says when a run goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from dpo_recipes.errors import Finding, Reference
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.section import Section

Row = Mapping[str, Any]
"""A row of metrics.jsonl: `step`, and a number for each metric; None for a number that is NaN or infinite."""
Action = Literal["warn", "stop", "off"]
RowKind = Literal["training", "evaluation", "answers"]
"""`answers`: the lengths of the answers that were generated after training; such a row is not in metrics.jsonl."""


@dataclass(frozen=True)
class Job:
    """The facts about a run that guards use beside its metrics."""

    objective: Objective
    params: Any
    """The parameters of the objective."""
    rows_per_step: int
    """The training rows of an optimizer step."""
    num_eval_rows: int = 0
    dtype: str = "float32"
    chosen_tokens: float | None = None
    """The mean number of trained tokens of the held-out chosen (or good) answers."""
    length_ratio: float | None = None
    """The mean number of trained tokens of the training pairs' chosen answers, divided by that of the rejected ones."""

    def has_metrics(self, *keys: str) -> bool:
        """Whether the objective has all of these metrics."""
        return set(keys) <= {metric.key for metric in self.objective.metrics}

    @property
    def ranking(self) -> Metric | None:
        """The metric that says how often pairs are ranked as the data do; None if the objective has none."""
        metrics = (metric for metric in self.objective.metrics if metric.chance is not None)
        return next(metrics, None) if self.objective.rows == "pair" else None


@dataclass
class History:
    """The rows so far, in order."""

    training: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    """On the held-out rows; that of the untouched base comes first, at step 0."""

    answers: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> RowKind | None:
        """Append a row. Returns its kind; None for a row on the test rows, which is not kept."""
        if "eval_loss" in row:
            self.evaluations.append(row)
            return "evaluation"
        if "loss" in row:
            self.training.append(row)
            return "training"
        if "answer_words/tuned" in row:
            self.answers.append(row)
            return "answers"
        return None

    @property
    def base(self) -> Row | None:
        """The evaluation of the untouched base."""
        return next((row for row in self.evaluations if row["step"] == 0), None)

    def training_since_evaluation(self) -> list[Row]:
        """The training rows between the last two evaluations."""
        before = self.evaluations[-2]["step"] if len(self.evaluations) > 1 else 0
        return [row for row in self.training if before < row["step"] <= self.evaluations[-1]["step"]]


def number(row: Row | None, key: str) -> float | None:
    """A finite value of a row; None if it is missing or not finite."""
    value = None if row is None else row.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def numbers(rows: Iterable[Row], key: str) -> list[float]:
    """The finite values of a metric."""
    return [value for row in rows if (value := number(row, key)) is not None]


@dataclass(frozen=True)
class Sighting:
    """What a guard has seen: the numbers, and what can be changed in this run."""

    what: str
    fix: str


class Guard(Section):
    """The settings of one guard. Subclasses add thresholds and `look`."""

    action: Action = Field(
        default="warn",
        description="`warn` reports once what was seen; `stop` also ends training there, evaluates and saves; `off` "
        "does not look.",
    )

    name: ClassVar[str]
    """The key in the section `guards`."""
    code: ClassVar[str]
    """The code of its warning."""
    fires: ClassVar[str]
    """When it fires, with its default thresholds, for docs/guards.md."""
    reason: ClassVar[str]
    """Why this matters, in clauses that the sources support."""
    sources: ClassVar[tuple[Reference, ...]]
    is_about_quality: ClassVar[bool] = True
    """Whether it says something about the tuned model, so that it belongs in the model card."""
    at: ClassVar[tuple[str, ...]] = ("training", "learning_rate")
    """The value of the recipe that is most likely the cause."""
    kinds: ClassVar[tuple[RowKind, ...]]
    """The rows after which it looks."""

    def watches(self, job: Job) -> bool:
        """Whether the guard can see anything in a job, whose objective may lack the metrics that it needs."""
        return True

    def look(self, job: Job, history: History) -> Sighting | None:
        """What is wrong after the newest row, or None. A function of its arguments alone, so that a resumed run that
        looks at the same rows sees the same."""
        raise NotImplementedError

    def finding(self, seen: Sighting) -> Finding:
        """The warning for a person."""
        sources = "; ".join(map(str, self.sources))
        return Finding(self.code, seen.what, None, f"{self.reason} ({sources})", seen.fix, "warning", self.at)
