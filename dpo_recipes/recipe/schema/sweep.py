"""The `sweep` section: one recipe with many values, and how the best of its trials is chosen."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dpo_recipes.section import Section

Values = Annotated[list[JsonValue], Field(min_length=1)]


class Range(Section):
    """The values between two numbers. If both are whole numbers, so are the values."""

    low: int | float = Field(description="The lowest value.")
    high: int | float = Field(description="The highest value.")
    log: bool = Field(
        default=False,
        description="Whether each order of magnitude gets as many values, as is usual for a learning rate.",
    )
    step: int | float | None = Field(
        default=None, gt=0, description="Only `low` and the values that are a multiple of this above it."
    )

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


class Pruning(Section):
    """Ends a run that is worse than others were at the same evaluation (Optuna's PercentilePruner). Needs
    `training.eval_steps`."""

    percentile: float = Field(
        default=50.0,
        gt=0.0,
        lt=100.0,
        description="A run ends if its best value so far is worse than this percentile of the other trials' values at "
        "the same evaluation, counted from the best one. 50: worse than their median.",
    )
    startup_trials: int = Field(
        default=5, ge=1, description="The number of trials that must have finished before a run is ended."
    )
    warmup_evaluations: int = Field(
        default=0, ge=0, description="The number of evaluations of a run after which it is not ended yet."
    )


class Sweep(Section):
    """Many runs of one recipe with other values (docs/sweeps.md). A setting is named by its path as `--set` takes it,
    for example `training.learning_rate`. Each combination of values is a trial."""

    grid: dict[str, Values] = Field(
        default_factory=dict, description="The values of each setting; all combinations are tried."
    )
    zip: dict[str, Values] = Field(
        default_factory=dict,
        description="Settings that belong together: the first values of all lists are one combination, the second "
        "values the next one. With `grid`, each of them is combined with each combination of the grid.",
    )
    random: dict[str, Values | Range] = Field(
        default_factory=dict,
        description="Settings with a list of values or a range, of which each trial gets a random one. It depends only "
        "on `training.seed`, the number of the trial and the setting. Needs `max_trials`.",
    )
    tpe: dict[str, Values | Range] = Field(
        default_factory=dict,
        description="Like `random`, but from the tenth trial on, values are drawn near those that were best so far: a "
        "tree-structured Parzen estimator (Bergstra et al. 2011), by Optuna, which the extra `sweep` installs.",
    )
    metric: str | None = Field(
        default=None,
        min_length=1,
        description="The metric on the held-out rows by which trials are compared, by its key without `eval_`. "
        "Absent: the objective's own metric, which is the held-out loss for `dpo`.",
    )
    direction: Literal["minimize", "maximize"] | None = Field(
        default=None, description="Which values of the metric are better. Absent: the metric's own direction."
    )
    pruning: Pruning | None = Field(
        default=None, description="End runs early that are worse than others. Absent: each run is finished."
    )
    seeds: int = Field(
        default=1,
        ge=1,
        le=30,
        description="The number of runs of each trial, with `training.seed` and the seeds after it. The trial's value "
        "is their mean, and its 95 % interval is reported.",
    )
    parallel: int = Field(
        default=1,
        ge=1,
        le=64,
        description="The number of runs that a command executes at the same time. The machine's GPUs are divided among "
        "them, or its cores and its memory. With `backend: slurm`, the number of tasks of the array that run at the "
        "same time.",
    )
    keep: Literal["all", "best"] = Field(
        default="all",
        description="`best` removes the saved model and the checkpoints of each run as soon as it cannot be the best "
        "any more. Its metrics, report and result stay. `all` removes nothing.",
    )
    max_trials: int | None = Field(
        default=None, ge=1, le=1000, description="Only this number of trials, the first ones."
    )
    max_hours: float | None = Field(
        default=None,
        gt=0.0,
        description="Hours of computing, summed over all runs: after them no further run starts, and the best of the "
        "trials that have finished is chosen.",
    )
