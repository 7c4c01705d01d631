"""Writes a draft as the text of a recipe: sections in the order of the schema, with a comment beside each value that
the foreign file does not have in this form."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dpo_recipes import registry
from dpo_recipes.objectives import get_objective
from dpo_recipes.recipe.dump import dump_inline
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.adapter import LoraAdapter
from dpo_recipes.recipe.schema.checkpoints import Checkpoints
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source
from dpo_recipes.recipe.schema.launch import Launch
from dpo_recipes.recipe.schema.model import Model
from dpo_recipes.recipe.schema.quantization import Quantization
from dpo_recipes.recipe.schema.tracking import Tracking
from dpo_recipes.recipe.schema.training import EarlyStopping, Training
from dpo_recipes.share.foreign.draft import Draft, Value

_WIDTH = 110
_STEP = re.compile(r"([A-Za-z_][\w-]*)|\[(\d+)\]")
_SECTIONS: dict[str, type[BaseModel]] = {
    "": Recipe,
    "model": Model,
    "model.adapter": LoraAdapter,
    "model.quantization": Quantization,
    "data": Data,
    "data.train[]": Source,
    "data.eval": HeldOut,
    "data.eval.sources[]": Source,
    "training": Training,
    "training.early_stopping": EarlyStopping,
    "checkpoints": Checkpoints,
    "launch": Launch,
    "tracking": Tracking,
}


def render(draft: Draft, header: list[str]) -> str:
    """The text of the recipe."""
    tree: dict[str, Any] = {}
    for to, value in draft.values.items():
        _place(tree, _steps(to), value)
    lines = [*(f"# {line}".rstrip() for line in header), "schema: 1"]
    was_section = False
    for name, node in _ordered(tree, "", draft):
        is_section = not isinstance(node, Value)
        lines += [""] if is_section or was_section else []
        lines += _lines(name, node, "", name, draft)
        was_section = is_section
    return "\n".join(lines) + "\n"


def plain(value: Any) -> str:
    """A value in one line of YAML; small and large numbers in their shortest form."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.9e}".partition("e")
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        if float(short) == value:
            return short
    return dump_inline(value)


def _steps(to: str) -> list[str | int]:
    return [int(index) if index else name for name, index in _STEP.findall(to)]


def _place(tree: Any, steps: list[str | int], value: Value) -> None:
    for step, following in itertools.pairwise(steps):
        inner: Any = [] if isinstance(following, int) else {}
        if isinstance(tree, list):
            while len(tree) <= int(step):
                tree.append({})
            tree = tree[int(step)]
        else:
            tree = tree.setdefault(step, inner)
    tree[steps[-1]] = value


def _ordered(node: dict[str, Any], section: str, draft: Draft) -> Iterator[tuple[str, Any]]:
    """The fields of a section in the order of the schema."""
    known = _SECTIONS.get(section)
    kind = draft.value("objective.kind")
    if section == "objective" and kind in registry.OBJECTIVES:
        known = get_objective(kind).params
    names = [field.alias or name for name, field in known.model_fields.items()] if known else []
    yield from sorted(node.items(), key=lambda item: names.index(item[0]) if item[0] in names else len(names))


def _lines(name: str, node: Any, indent: str, section: str, draft: Draft) -> Iterator[str]:
    if isinstance(node, Value):
        yield from _value_lines(f"{indent}{name}: {plain(node.value)}", indent, _comment(node, draft))
    elif isinstance(node, list):
        yield f"{indent}{name}:"
        for item in node:
            first = True
            for inner_name, inner in _ordered(item, f"{section}[]", draft):
                for line in _lines(inner_name, inner, f"{indent}    ", f"{section}[].{inner_name}", draft):
                    is_start = first and not line.lstrip().startswith("#")
                    marker = "- " if is_start else "  " if not first else ""
                    yield f"{indent}  {marker}{line[len(indent) + 4 :]}"
                    first = first and not is_start
    else:
        yield f"{indent}{name}:"
        for inner_name, inner in _ordered(node, section, draft):
            yield from _lines(inner_name, inner, f"{indent}  ", f"{section}.{inner_name}", draft)


def _comment(value: Value, draft: Draft) -> str:
    if not value.is_default:
        return value.comment
    note = f"default of {draft.tool}"
    return f"{note}: {value.comment}" if value.comment else note


def _value_lines(line: str, indent: str, comment: str) -> Iterator[str]:
    """The line with its comment, which stands above it if it would be too long beside it."""
    comment = " ".join(comment.split())
    if not comment:
        yield line
    elif len(line) + len(comment) + 4 <= _WIDTH:
        yield f"{line}  # {comment}"
    else:
        start = f"{indent}# "
        yield from textwrap.wrap(comment, _WIDTH, initial_indent=start, subsequent_indent=start)
        yield line
