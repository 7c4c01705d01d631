"""Warnings about columns that nobody reads, and about texts that hold what a text model cannot see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.data.column_use import ColumnUse, Seen, kind_of
from dpo_recipes.data.rows import DataFormat
from dpo_recipes.errors import Finding


def column_warnings(use: ColumnUse, data_format: DataFormat) -> Iterator[Finding]:
    """What a person should know of the columns of one source: D440 to D443."""
    columns = _Columns(use, data_format)
    for name, seen in use.missed.items():
        kind = "mapped" if use.is_mapped(name) else kind_of(name)
        if kind == "media":
            yield columns.of_media(name, seen)
        elif kind == "verdict":
            yield columns.of_verdict(name, seen)
        else:
            yield columns.of_content(name, seen, kind or "content")
    has_media_column = any(kind_of(name) == "media" for name in use.missed)
    if use.placeholders.rows and not has_media_column:
        yield columns.of_placeholders(use.placeholders)
    for comparison, seen in use.lower_scores.items():
        yield columns.of_scores(comparison, seen)
    if use.turns.rows:
        yield columns.of_turns(use.turns)


class _Columns:
    """Words the warnings of one source."""

    def __init__(self, use: ColumnUse, data_format: DataFormat) -> None:
        self._use = use
        self._format = data_format.name
        self._known = {*data_format.columns, *data_format.optional_columns}
        self._taken = {*use.source.columns}

    def of_media(self, name: str, seen: Seen) -> Finding:
        return self._finding(
            "D440",
            self._unread(name, seen),
            "the model reads text alone, so it learns answers about something that it never sees",
            f"leave such rows out with `filter: is_null({_quoted(name)})`; if the texts stand alone, remove the column",
        )

    def of_placeholders(self, seen: Seen) -> Finding:
        return self._finding(
            "D440",
            f"texts hold `<image>`, `<video>` or `<audio>`: {self._rows(seen)}",
            "to a model that reads text alone this is text like any other, and it is trained on as such",
            "leave such rows out with `filter: not contains(prompt, '<image>')`, or take the marks out of the data",
        )

    def of_content(self, name: str, seen: Seen, kind: str) -> Finding:
        return self._finding(
            "D441",
            self._unread(name, seen),
            f"the format `{self._format}` does not use it"
            + (" where `columns:` maps it to" if kind == "mapped" else ", so the model never sees what it says"),
            self._way_to_read(name, kind),
        )

    def of_verdict(self, name: str, seen: Seen) -> Finding:
        return self._finding(
            "D442",
            self._unread(name, seen),
            f"the format `{self._format}` takes the better answer from the columns' names; `{name}` may say otherwise",
            f"if it says which answer is better: `format: winner` with `columns: {{winner: {name}, response_a: ..., "
            "response_b: ...}`; else remove the column",
        )

    def of_scores(self, comparison: str, seen: Seen) -> Finding:
        chosen, rejected = comparison.split(" < ")
        return self._finding(
            "D442",
            f"`{chosen}` is lower than `{rejected}`: {self._rows(seen)}",
            f"by these scores the rejected answer is the better one; the format `{self._format}` does not read them",
            f"leave such rows out with `filter: {_quoted(chosen)} > {_quoted(rejected)}`",
        )

    def of_turns(self, seen: Seen) -> Finding:
        return self._finding(
            "D443",
            f"one message holds turns of `Human:` and `Assistant:`: {self._rows(seen)}",
            f"the format `{self._format}` reads them as words of the user or of the assistant",
            "leave such rows out with a `filter` such as `not contains(chosen, 'Assistant: Human:')`"
            if self._format in ("hh_rlhf", "dahoas")
            else "name `format: dahoas` for a dialogue in `prompt`, `format: hh_rlhf` for whole dialogues in `chosen` "
            "and `rejected`, or cut the texts at the first such turn",
        )

    def _way_to_read(self, name: str, kind: str) -> str:
        if kind == "mapped":
            return "correct `columns:`, or name a format that reads it; docs/data.md shows every format by example"
        if kind in ("system", "tools"):
            if kind in self._known - self._taken and name != kind:
                return f"{'add it to' if self._taken else 'map it with'} `columns: {{{kind}: {name}}}`"
            return f"name a format that reads `{kind}`, or put it into the messages; docs/data.md shows every format"
        if name.lower() == "history":
            return "the formats `alpaca` and `ms_swift_query` read the earlier rounds in `history`"
        prompt = next((column for column in ("prompt", "instruction", "query") if column in self._known), "prompt")
        theirs = self._use.source.columns.get(prompt, prompt)
        theirs = theirs if "{" in theirs else f"{{{theirs}}}"
        return (
            f'if it belongs to the prompt: `columns: {{{prompt}: "{theirs}\\n\\n{{{name}}}"}}`; else remove the column'
        )

    def _unread(self, name: str, seen: Seen) -> str:
        has = "have" if seen.rows > 1 else "has"
        first = f"{has} something in it, the first is {seen.first}"
        return f"the column `{name}` is not read: {seen.rows:,} of {self._use.rows:,} rows {first}"

    def _rows(self, seen: Seen) -> str:
        return f"{seen.rows:,} of {self._use.rows:,} rows, the first is {seen.first}"

    def _finding(self, code: str, what: str, why: str, fix: str) -> Finding:
        path = Path(self._use.source.path)
        source = path.name if path.is_absolute() else str(path)
        return Finding(code, f"{source}: {what}", why=why, fix=fix, severity="warning")


def _quoted(name: str) -> str:
    """A column's name as a filter writes it."""
    return name if name.isidentifier() else f"`{name}`"
