"""The `checkpoints` section: which checkpoints a run writes and keeps, so that it can be resumed."""

from pydantic import Field

from dpo_recipes.section import Section


class Checkpoints(Section):
    """Checkpoints of a run. Whatever ends the run, `dpo-recipe run` with the same recipe resumes from the newest
    one."""

    save_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two checkpoints. Absent: `save_minutes` decides.",
    )
    save_minutes: float | None = Field(
        default=10.0,
        gt=0.0,
        description="Minutes of training between two checkpoints if `save_steps` is absent. The interval grows if "
        "saving would take more than 5 % of the time. null: a checkpoint is written only when the run is interrupted.",
    )
    save_total_limit: int = Field(
        default=2,
        ge=1,
        description="The number of checkpoints to keep. An older one is removed after the newest has been read back.",
    )
    keep_best: bool | str = Field(
        default=False,
        description="Also keep the best checkpoint among those that `training.eval_steps` evaluates, and save its "
        "model at the end if the last one is worse. true: the best by the objective's own metric, which is the "
        "held-out loss for `dpo`. The key of another metric, such as `rewards/margins`: the best by that one.",
    )
