"""What the results of all jobs with several runs share."""

from __future__ import annotations

from dpo_recipes.result_file import ResultFile


class JobResult(ResultFile):
    """The content of a job's result.json. Subclasses say of which kind."""

    recipe: str
    """The name of the recipe or chain."""
    wall_s: float
    """The time of all runs together."""
    started_at: str
    """The times are in UTC, in ISO 8601."""
    finished_at: str
