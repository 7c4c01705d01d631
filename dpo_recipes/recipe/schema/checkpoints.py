"""The `checkpoints` section: what a run keeps so that it can go on."""

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section


class Checkpoints(Section):
    """Checkpoints of a run. Whatever ends it, `dpo-recipe run` with the same recipe goes on from the newest."""

    save_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two checkpoints. Absent: after `save_minutes`.",
    )
    save_minutes: float | None = Field(
        default=10.0,
        gt=0.0,
        description="Minutes of training between two checkpoints where `save_steps` is absent; more where saving takes "
        "so long that it would be over 5 % of the time. null: only when the run is interrupted.",
    )
    save_total_limit: int = Field(
        default=2, ge=1, description="Checkpoints that are kept; an older one goes when the newest has been read back."
    )
    keep_best: bool = Field(
        default=False,
        description="Also keep the checkpoint with the lowest held-out loss, of those that `training.eval_steps` "
        "measures; its model is saved at the end where the last one is worse.",
    )
