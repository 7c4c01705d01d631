"""Imports a configuration of another tool: reads it, finds its tool, makes a recipe, and checks that."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import DpoRecipeError, Finding, SharingError, Where
from dpo_recipes.recipe.compose import Composed, Origin
from dpo_recipes.recipe.load import DataPath, RecipeSource, load_text
from dpo_recipes.recipe.validate import validate_composed
from dpo_recipes.share.foreign.command import read_script
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Outcome, name_of
from dpo_recipes.share.foreign.finish import finish
from dpo_recipes.share.foreign.listed import all_names
from dpo_recipes.share.foreign.read import read_document, read_mapping
from dpo_recipes.share.foreign.tool import Tool
from dpo_recipes.share.foreign.write import render

_OF_FILES = frozenset({"R301", "R304", "R310"})
"""Findings about files that are not here, which belong to the machine and not to the recipe."""
_MAX_REPAIRS = 12


@dataclass(frozen=True)
class Imported:
    """A recipe that was made from a foreign configuration."""

    tool: Tool
    draft: Draft
    text: str
    findings: tuple[Finding, ...]
    """What `dpo-recipe validate` says about it."""

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.draft.config

    @property
    def outcomes(self) -> list[tuple[DataPath, Outcome]]:
        """What became of each key, in the order of the file."""
        return [(path, self.draft.outcomes[path]) for path in self.config.keys]

    def count(self, how: str) -> int:
        """The number of keys with this outcome."""
        return sum(outcome.how == how for _, outcome in self.outcomes)

    @property
    def defaults(self) -> dict[str, Any]:
        """The fields that have a default of the tool."""
        return {to: value.value for to, value in self.draft.values.items() if value.is_default}

    @property
    def is_valid(self) -> bool:
        """Whether the recipe has no errors."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything about the import as plain data, without the values of keys."""
        return {
            "tool": self.tool.name,
            "version": self.tool.version,
            "file": self.config.file,
            "keys": len(self.config.keys),
            "mapped": self.count("mapped"),
            "derived": self.count("derived"),
            "listed": self.count("listed"),
            "entries": [
                {
                    "key": name_of(path),
                    "line": self.config.keys[path].where.line or None,
                    "outcome": outcome.how,
                    "to": list(outcome.to),
                    "note": outcome.note,
                    "differs": outcome.differs,
                }
                for path, outcome in self.outcomes
            ],
            "defaults": self.defaults,
            "remarks": self.draft.remarks,
            "valid": self.is_valid,
            "findings": [finding.to_json() for finding in self.findings],
            "recipe": self.text,
        }


def import_file(path: Path, *, tool: str | None = None, kind: str = "", to: Path | None = None) -> Imported:
    """The recipe of a foreign configuration. `kind` is the objective, for files that do not say it; `to` is the file
    that the recipe is for, to which its paths are relative.

    Raises `SharingError` S501 to S507.
    """
    to = to or Path.cwd() / "recipe.yaml"
    draft, chosen = make_draft(path, tool=tool, kind=kind, to=to)
    return _checked(draft, chosen, to)


def make_draft(path: Path, *, tool: str | None, kind: str, to: Path) -> tuple[Draft, Tool]:
    """What `import_file` makes of a configuration before the recipe is written and checked."""
    tools = _tools(tool)
    document, others = read_document(path), 0
    if document.is_shell:
        config, chosen, others = read_script(document, tools)
    else:
        config = read_mapping(document)
        chosen = tools[0] if tool else find_tool(config, tools)
    draft = Draft(config, chosen.full_name, kind)
    if others:
        draft.remarks.append(f"the script starts {others} more trainings; only the first one is imported")
    chosen.convert(draft)
    finish(draft, chosen, to)
    draft.raise_findings()
    draft.list_rest(chosen.listed, [*chosen.mapped, *chosen.derived, *all_names(chosen.listed)])
    return draft, chosen


def _tools(name: str | None) -> list[Tool]:
    known = registry.names("foreign_tools")
    if name is None:
        return [registry.load("foreign_tools", each) for each in known]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise SharingError.of(
            "S506",
            f"there is no importer for `{name}`",
            why=f"`--from` takes {', '.join(known)}",
            fix=f"did you mean `--from {near[0]}`?" if near else "choose one of these, or leave it out",
        )
    return [registry.load("foreign_tools", name)]


def find_tool(config: Config, tools: Sequence[Tool]) -> Tool:
    """The tool whose keys a configuration has. Raises `SharingError` S506."""
    if "schema" in config.data and isinstance(config.data.get("model"), dict):
        raise SharingError.of(
            "S506",
            f"{config.file} is already a recipe",
            where=config.where(("schema",)),
            why="it has the key `schema`",
            fix=f"dpo-recipe validate {config.file}",
        )
    signs = sorted(((tool.signs(config), tool.name, tool) for tool in tools), key=lambda one: -one[0])
    if signs[0][0] > 0 and (len(signs) == 1 or signs[0][0] > signs[1][0]):
        return signs[0][2]
    tied = [title for number, _, tool in signs if number == signs[0][0] > 0 for title in (tool.title,)]
    raise SharingError.of(
        "S506",
        f"cannot tell which tool {config.file} is for",
        where=Where(config.file),
        why=f"its keys are those of {' and of '.join(tied)}" if tied else "none of its keys is one that a tool has",
        fix=f"name the tool with --from: {', '.join(sorted(tool.name for tool in tools))}",
    )


def _checked(draft: Draft, tool: Tool, to: Path) -> Imported:
    """The recipe without the fields that cannot be combined here; their keys are listed with the reason. Raises
    `SharingError` S504 for a value that no recipe can have."""
    for _ in range(_MAX_REPAIRS):
        text = render(draft, header_of(draft, tool))
        source, findings = _validate(text, to)
        errors = [each for each in findings if each.severity == "error" and each.code not in _OF_FILES]
        if source is None or not errors or not any([_repair(draft, finding, source) for finding in errors]):
            break
    else:
        text = render(draft, header_of(draft, tool))
        source, findings = _validate(text, to)
    _refuse(draft, findings, source)
    return Imported(tool, draft, text, findings)


def _validate(text: str, to: Path) -> tuple[RecipeSource | None, tuple[Finding, ...]]:
    """What `dpo-recipe validate` says about the text of a recipe."""
    source = None
    try:
        source = load_text(text, str(to))
        folder = to.resolve().parent
        origins = {at: Origin("file", span, folder) for at, span in source.spans.items()}
        return source, validate_composed(Composed(str(to), text, source.data, origins)).warnings
    except DpoRecipeError as error:
        return source, error.findings


def _fields_at(finding: Finding, source: RecipeSource, draft: Draft) -> list[str]:
    """The fields of the recipe in the line of a finding, the innermost first; all fields of a section whose name is
    there."""
    line = finding.where.line if finding.where else 0
    here = [
        name_of(at)
        for at, span in sorted(source.spans.items(), key=lambda item: -len(item[0]))
        if line and line in (span.value.line, span.key.line if span.key else 0)
    ]
    fields = [name for name in here if name in draft.values]
    inside = [field for name in here if "." in name for field in draft.values if field.startswith(f"{name}.")]
    return fields or inside


def _refuse(draft: Draft, findings: tuple[Finding, ...], source: RecipeSource | None) -> None:
    """S504 for each error that is about the value of one key."""
    found = []
    for finding in findings:
        if source is None or finding.severity != "error" or finding.code in _OF_FILES:
            continue
        keys = [key for name in _fields_at(finding, source, draft) for key in draft.values[name].keys]
        if keys:
            what = f"`{keys[0].name}` cannot be imported: {finding.what}"
            found.append(Finding("S504", what, keys[0].where, finding.why, "correct the value"))
    if found:
        raise SharingError(*found)


def _repair(draft: Draft, finding: Finding, source: RecipeSource) -> bool:
    """Leave out the field at the place of a finding, or all fields of the section there. False if none may be left out:
    it is a part of what is trained, or has a value that the field cannot have (R2xx)."""
    fields = _fields_at(finding, source, draft)
    kept = [name for name in fields if name in ("model.path", "objective.kind") or name.endswith("].path")]
    if not fields or kept or finding.code.startswith("R2"):
        return False
    why = f"{finding.what}: {finding.why}" if finding.why else finding.what
    for name in fields if _is_section(fields) else fields[:1]:
        value = draft.values.pop(name)
        for key in value.keys:
            draft.outcomes.pop(key.path, None)
            draft.account(key, "listed", note=f"it cannot be kept here, because {why}", differs=True)
        if value.is_default:
            draft.remarks.append(f"the default {name}: {value.value} cannot be kept here, because {why}")
    return True


def _is_section(fields: list[str]) -> bool:
    """Whether these are the fields of one section, and not several values in one line."""
    return len({name.rpartition(".")[0] for name in fields}) == 1


def header_of(draft: Draft, tool: Tool) -> list[str]:
    """The comment at the start of the recipe: where it comes from, and what it does not have."""
    file = os.path.basename(draft.config.file)  # noqa: PTH119  (a name, not a path)
    lines = [f"Made from {re.sub(r'[^ -~]', '?', file)}, a configuration of {tool.full_name}, by `dpo-recipe import`."]
    lost = [
        f"  {name_of(path)} (line {key.where.line}): {outcome.note}"
        for path, key in draft.config.keys.items()
        if (outcome := draft.outcomes.get(path)) is not None and outcome.differs
    ]
    lost += [f"  {remark}" for remark in draft.remarks]
    return [*lines, "What differs from that tool:", *(" ".join(line.split()) for line in lost)] if lost else lines
