"""The type of inputs.json: what a run has learned from, by content, and what it was computed on.

It is written before the first step. `dpo-recipe reproduce` compares it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes.run_dir import write_json

FIRST_ROWS = 32
"""The number of rows of each split whose log-probabilities are written out."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class SplitRows(_Part):
    """The rows of a split before they are tokenized."""

    rows: int
    sha256: str
    """Of all rows in their order, without their locations."""


class ReferenceLogps(_Part):
    """The log-probabilities of the reference for the rows of a split."""

    rows: int
    sha256: str
    """Of the values of all rows, as 32-bit numbers."""
    first: list[list[float]]
    """The values of the first rows, in nats: a list for each of the answers of a row."""


class Computation(_Part):
    """What decides how numbers are rounded."""

    device: str
    device_name: str
    dtype: str
    attention: str | None = None
    threads: int
    """Of the first process, on a CPU."""
    processes: int
    micro_batch_size: int
    strategy: str


class RunInputs(_Part):
    """The content of inputs.json."""

    version: Literal[1] = 1
    recipe: str
    """`content_key` of the settings that determine the result."""
    rows: dict[str, SplitRows]
    tokenizer: str
    """The digest of the tokenizer with its special tokens."""
    chat_template: str
    """The SHA-256 of its text."""
    commit: str | None = None
    """Of a base from the hub."""
    base_weights: str | None = None
    """The digest of the loaded weights of the base; None if their last bits vary between equal runs."""
    reference: dict[str, ReferenceLogps] = Field(default_factory=dict)
    """By split; empty without a frozen reference."""
    computation: Computation

    def write(self, path: Path) -> None:
        """Write inputs.json atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> RunInputs | None:
        """The inputs of a run; None for a run of an earlier version, and if the file cannot be read."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError):
            return None
