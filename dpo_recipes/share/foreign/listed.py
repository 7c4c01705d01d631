"""Tables of foreign keys that no field of a recipe has, with what their loss costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dpo_recipes.recipe.load import DataPath


@dataclass(frozen=True)
class Listed:
    """Keys that are listed for the same reason."""

    cost: str
    """What it costs that they are not carried over, as a sentence."""
    names: tuple[str, ...]
    """Names of keys. `*` stands for any characters; a name with a dot is the end of a path."""
    differs: bool = False
    """Whether the result of the job may differ."""
    is_feature: bool = True
    """Whether a value such as false or 0 switches the key's feature off, so that nothing is lost."""

    def names_key(self, path: DataPath) -> bool:
        """Whether a key is one of these: by the end of its path, or by a name anywhere in it."""
        steps = [step for step in path if isinstance(step, str)]
        ends = [".".join(steps[start:]) for start in range(len(steps))]
        return any(fnmatchcase(text, name) for name in self.names for text in (*ends, *steps))


def listed(cost: str, names: str, *, differs: bool = False, is_feature: bool = True) -> Listed:
    """A table from names that are separated by spaces."""
    return Listed(cost, tuple(names.split()), differs, is_feature)


def all_names(tables: Iterable[Listed]) -> list[str]:
    """All names without `*` in the tables."""
    return [name for table in tables for name in table.names if "*" not in name]
