"""The summary of an import as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.share.foreign.draft import Outcome, name_of
from dpo_recipes.share.foreign.importer import Imported

_WIDTH = 110


def describe_import(imported: Imported, output: Path | None) -> str:
    """What became of the keys, and what to do next."""
    return "\n".join(_lines(imported, output))


def _lines(imported: Imported, output: Path | None) -> Iterator[str]:
    tool, keys = imported.tool, imported.config.keys
    yield f"{imported.config.file}: {tool.full_name}, {len(keys)} keys"
    counts = {how: imported.count(how) for how in ("mapped", "derived", "listed")}
    yield (
        f"  {counts['mapped']} mapped, {counts['derived']} derived, {counts['listed']} listed; "
        f"{len(imported.defaults)} defaults of {tool.title} written"
    )
    different = [(path, outcome) for path, outcome in imported.outcomes if outcome.differs]
    harmless = [
        (path, outcome) for path, outcome in imported.outcomes if outcome.how == "listed" and not outcome.differs
    ]
    if different or imported.draft.remarks:
        yield "what differs from that tool:"
        for path, outcome in different:
            yield from _entry(f"line {keys[path].where.line}", name_of(path), outcome)
        for remark in imported.draft.remarks:
            yield from textwrap.wrap(remark, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    if harmless:
        yield "not needed here, without another result:"
        yield from _grouped(imported, harmless)
    yield from _next(imported, output)


def _entry(where: str, name: str, outcome: Outcome) -> Iterator[str]:
    to = f" -> {', '.join(outcome.to)}" if outcome.to else ""
    yield from textwrap.wrap(
        f"{where}: {name}{to}: {outcome.note}", _WIDTH, initial_indent="  - ", subsequent_indent="    "
    )


def _grouped(imported: Imported, listed: list[tuple]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, outcome in listed:
        name = f"{name_of(path)} (line {imported.config.keys[path].where.line})"
        groups.setdefault(outcome.note, []).append(name)
    for note, names in groups.items():
        text = f"{', '.join(names)}: {note}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _next(imported: Imported, output: Path | None) -> Iterator[str]:
    errors = [finding for finding in imported.findings if finding.severity == "error"]
    if errors:
        yield "the recipe is not valid here yet:"
        for finding in errors:
            yield from textwrap.wrap(
                f"error[{finding.code}]: {finding.what}. {finding.fix or ''}",
                _WIDTH,
                initial_indent="  - ",
                subsequent_indent="    ",
            )
    if output is not None:
        yield f"now: dpo-recipe validate {output}"
