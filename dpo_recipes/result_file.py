"""What the result.json of a sweep, a chain, an evaluation or a sampling have in common: how it is written and read.

That of a run is in `run_result`. A schema is raised when the meaning of a field changes. A new field with a default
does not raise it, and the reader ignores fields that it does not know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import write_json
from dpo_recipes.run_result import describe_invalid


class ResultPart(BaseModel):
    """A part of a result. Fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), defer_build=True)


class ResultFile(ResultPart):
    """The content of a result.json."""

    described: ClassVar[str]
    """What it is the result of, with an article."""
    remedy: ClassVar[str]
    """What to do if it cannot be read."""
    schema_version: Literal[1] = Field(default=1, alias="schema")

    def to_json(self) -> dict[str, Any]:
        """Plain data for result.json."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write result.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a result.json. Raises `RunError` T642 if it is of another kind or schema, or cannot be read."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            why = describe_invalid(error) if isinstance(error, ValidationError) else str(error)
            what = f"{path} is not the result of {cls.described}"
            raise RunError.of("T642", what, why=why, fix=cls.remedy) from error
