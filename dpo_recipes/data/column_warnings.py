"""Warns about unread columns that probably matter, and about texts that refer to images, video or audio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.data.column_use import ColumnUse, Occurrences, kind_of
from dpo_recipes.data.rows import DataFormat
from dpo_recipes.data.structured_text import PYTHON_ADVICE
from dpo_recipes.errors import Finding


def column_warnings(use: ColumnUse, data_format: DataFormat) -> Iterator[Finding]:
    """The warnings about the columns and texts of one source: D440 to D444."""
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
    if use.text_lists.rows * 2 >= max(use.rows, 1):  # single answers may well be a list, such as code
        yield columns.of_text_lists(use.text_lists)


class _Columns:
    """Builds the warnings of one source."""

    def __init__(self, use: ColumnUse, data_format: DataFormat) -> None:
        self._use = use
        self._format = data_format.name
        self._known = {*data_format.columns, *data_format.optional_columns}
        self._taken = {*use.source.columns}

    def of_media(self, name: str, seen: Occurrences) -> Finding:
        return self._finding(
            "D440",
            self._unread(name, seen),
            "the model only reads text, so it would learn answers about content that it never sees",
            f"drop these rows with `filter: is_null({_quoted(name)})`; if the texts suffice, remove the column",
        )

    def of_placeholders(self, seen: Occurrences) -> Finding:
        return self._finding(
            "D440",
            f"texts contain placeholders such as `<image>`, `<video>` or `<audio>`: {self._rows(seen)}",
            "a text model is trained on such placeholders as ordinary text",
            "drop these rows with `filter: not contains(prompt, '<image>')`, or remove the placeholders from the data",
        )

    def of_content(self, name: str, seen: Occurrences, kind: str) -> Finding:
        return self._finding(
            "D441",
            self._unread(name, seen),
            f"the format `{self._format}` does not use it"
            + (", although `columns:` maps it" if kind == "mapped" else ", so the model never sees its content"),
            self._way_to_read(name, kind),
        )

    def of_verdict(self, name: str, seen: Occurrences) -> Finding:
        return self._finding(
            "D442",
            self._unread(name, seen),
            f"the format `{self._format}` finds the better answer by the columns' names; `{name}` may contradict them",
            f"if it names the better answer, use `format: winner` with `columns: {{winner: {name}, response_a: ..., "
            "response_b: ...}`; else remove the column",
        )

    def of_scores(self, comparison: str, seen: Occurrences) -> Finding:
        chosen, rejected = comparison.split(" < ")
        return self._finding(
            "D442",
            f"`{chosen}` is lower than `{rejected}`: {self._rows(seen)}",
            f"by these scores the rejected answer is the better one; the format `{self._format}` does not read them",
            f"drop these rows with `filter: {_quoted(chosen)} > {_quoted(rejected)}`",
        )

    def of_turns(self, seen: Occurrences) -> Finding:
        return self._finding(
            "D443",
            f"one message contains turns of `Human:` and `Assistant:`: {self._rows(seen)}",
            f"the format `{self._format}` reads all of them as text of one speaker",
            "drop these rows with a `filter` such as `not contains(chosen, 'Assistant: Human:')`"
            if self._format in ("hh_rlhf", "dahoas")
            else "set `format: dahoas` for a dialogue in `prompt`, `format: hh_rlhf` for whole dialogues in `chosen` "
            "and `rejected`, or truncate the texts at the first such turn",
        )

    def of_text_lists(self, seen: Occurrences) -> Finding:
        return self._finding(
            "D444",
            f"texts are lists of texts, such as `['...', '...']`: {self._rows(seen)}",
            "the brackets and quotes would be trained on; programs write lists this way into CSV files",
            "for lists in JSON, name the element to read, such as `columns: {chosen: chosen.0}`; if they are in Python "
            f"syntax, {PYTHON_ADVICE}",
        )

    def _way_to_read(self, name: str, kind: str) -> str:
        if kind == "mapped":
            return "correct `columns:`, or name a format that reads it; docs/data.md has an example of every format"
        if kind in ("system", "tools"):
            if kind in self._known - self._taken and name != kind:
                return f"{'add it to' if self._taken else 'map it with'} `columns: {{{kind}: {name}}}`"
            return f"name a format that reads `{kind}`, or put it into the messages; docs/data.md lists the formats"
        if kind == "reasoning":
            side = "chosen" if "chosen" in name.lower() else "rejected"
            answer = self._use.source.columns.get(side, side)
            return (
                f'put it before the answer: `columns: {{{side}: "<think>\\n{{{name}}}\\n</think>\\n\\n{{{answer}}}"}}`'
            )
        if name.lower() == "history":
            return "the formats `alpaca` and `ms_swift_query` read the earlier rounds in `history`"
        prompt = next((column for column in ("prompt", "instruction", "query") if column in self._known), "prompt")
        theirs = self._use.source.columns.get(prompt, prompt)
        theirs = theirs if "{" in theirs else f"{{{theirs}}}"
        return (
            f'if it belongs to the prompt: `columns: {{{prompt}: "{theirs}\\n\\n{{{name}}}"}}`; else remove the column'
        )

    def _unread(self, name: str, seen: Occurrences) -> str:
        have = "have" if seen.rows > 1 else "has"
        rows = f"{seen.rows:,} of {self._use.rows:,} rows {have} a value in it"
        return f"the column `{name}` is not read: {rows}, the first is {seen.first}"

    def _rows(self, seen: Occurrences) -> str:
        return f"{seen.rows:,} of {self._use.rows:,} rows, the first is {seen.first}"

    def _finding(self, code: str, what: str, why: str, fix: str) -> Finding:
        path = Path(self._use.source.path)
        source = path.name if path.is_absolute() else str(path)
        return Finding(code, f"{source}: {what}", why=why, fix=fix, severity="warning")


def _quoted(name: str) -> str:
    """A column's name in the syntax of filters."""
    return name if name.isidentifier() else f"`{name}`"
