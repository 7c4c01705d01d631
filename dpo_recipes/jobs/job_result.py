"""What the results of all jobs with several runs share: how their files are written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import write_json
from dpo_recipes.run_result import describe_invalid

SCHEMA = 1


class ResultPart(BaseModel):
    """A part of a result. Fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class JobResult(ResultPart):
    """The content of a job's result.json. Subclasses say of which kind."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    recipe: str
    """The name of the recipe or chain."""
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

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a result.json. Raises `RunError` T642 if it is of another kind or schema, or cannot be read."""
        kind = cls.model_fields["kind"].default
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            why = describe_invalid(error) if isinstance(error, ValidationError) else str(error)
            raise RunError.of(
                "T642",
                f"{path} is not the result of a {kind}",
                why=why,
                fix=f"restore the file as the {kind} wrote it",
            ) from error
