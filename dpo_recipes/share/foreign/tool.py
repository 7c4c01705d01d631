"""What an importer is: a tool whose configurations become recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft
from dpo_recipes.share.foreign.listed import Listed


@dataclass(frozen=True)
class Tool:
    """One tool, whose file in this package has it as `TOOL`."""

    name: str
    """Its name for `--from`."""
    title: str
    version: str
    """The version whose keys and defaults these are."""
    programs: tuple[str, ...]
    """The words with which a command line starts it, such as `swift rlhf`."""
    signs: Callable[[Config], int]
    """How many of a configuration's keys are those of this tool alone; 0 if it is none of its configurations."""
    convert: Callable[[Draft], None]
    """Sets the fields of the recipe. Raises `SharingError` S507 for a job that no recipe can describe."""
    mapped: Mapping[str, str]
    """Keys whose value a field has."""
    derived: Mapping[str, str]
    """Further keys, and the fields that are made from them, as docs/import.md shows them."""
    listed: tuple[Listed, ...]
    """Keys that no field has, with what that costs."""
    prepares: tuple[str, ...] = ()
    """The words of a command of the same script that prepares data for the training."""

    @property
    def full_name(self) -> str:
        """The name and version."""
        return f"{self.title} {self.version}"


def count_signs(config: Config, names: str) -> int:
    """The number of these keys that a configuration has at its top."""
    return sum(name in config.data for name in names.split())
