"""Counts which columns of a source are not read, and contents of rows that a model would miss or misread.

Rows are counted while they are converted, without a second pass. `column_warnings` turns the counts into warnings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dpo_recipes.data.formats.dialogue import holds_turns
from dpo_recipes.data.rows import Row, SourceRow
from dpo_recipes.data.structured_text import is_text_list
from dpo_recipes.recipe.column_map import parse_column
from dpo_recipes.recipe.row_filter import parse
from dpo_recipes.recipe.schema.data import Source

MAX_NAMES = 1000
"""The maximum number of column names to remember, since in some files each row has different keys."""
KINDS = {
    "media": re.compile(r"(image|img|picture|photo|video|audio|speech)s?(_?(path|url|file|byte|data|list)s?)?"),
    "system": re.compile(r"(sys|system)(_?(prompt|message|msg|instruction|text|content)s?)?"),
    "tools": re.compile(r"(available_?)?(tool|function)s?(_?(schema|definition|spec|list)s?)?"),
    "verdict": re.compile(
        r"winner|(overall_?)?preferences?|preferred|labels?|better|choice|verdict|(better|safer|winner|chosen)_\w*?(id|idx|index)"
        r"|which_(one_)?is_\w+"
    ),
    "content": re.compile(
        r"instructions?|inputs?|contexts?|questions?|quer(y|ies)|prompts?|history|passages?|documents?|messages"
        r"|conversations?|dialog(ue)?s?|\w+_history|(previous|prior|past|context)_(messages|turns|context|conversation)"
    ),
    "reasoning": re.compile(
        r"(chosen|rejected)_(reasoning(_content)?|thinking|thoughts?|cot)"
        r"|(reasoning(_content)?|thinking|thoughts?|cot)_(chosen|rejected)"
    ),
}
"""Names of columns that probably matter for the row, by kind, in lower case with `_` between words."""
_SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "grades", "points", "quality"}
_SIDES: dict[str, str] = {
    **dict.fromkeys(("chosen", "accepted", "preferred", "better", "winner", "win", "w"), "chosen"),
    **dict.fromkeys(("rejected", "declined", "dispreferred", "worse", "loser", "lose", "l"), "rejected"),
}
_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|img|image_\d+|\|(?:image|video|audio)(?:_pad|_\d+)?\||im_patch|speech)>"
)


class ReadColumns(Mapping[str, Any]):
    """The columns of one row; records which of them are read."""

    __slots__ = ("_columns", "read")

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._columns[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a column, or `default`."""
        self.read.add(name)
        return self._columns.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass
class Occurrences:
    """The number of rows in which something was seen, and the location of the first."""

    rows: int = 0
    first: str = ""

    def add(self, where: str) -> None:
        """Count one row."""
        self.rows += 1
        self.first = self.first or where


@dataclass
class ColumnUse:
    """Counts for the rows of one source."""

    source: Source
    format: str
    rows: int = 0
    unread: dict[str, Occurrences] = field(default_factory=dict)
    """Columns that were not read, with the rows in which they are not empty; `rows` is 0 if they always are."""
    missed: dict[str, Occurrences] = field(default_factory=dict)
    """Unread columns whose name matches `KINDS` and whose content is not already in the row."""
    lower_scores: dict[str, Occurrences] = field(default_factory=dict)
    """Rows in which the rejected answer has the higher score, by the comparison: `chosen_score < rejected_score`."""
    placeholders: Occurrences = field(default_factory=Occurrences)
    """Rows whose texts contain `<image>`, `<video>`, `<audio>` or a model's own placeholder for them."""
    text_lists: Occurrences = field(default_factory=Occurrences)
    """Rows whose prompt, or both of whose answers, are texts that list texts in JSON or Python syntax."""
    turns: Occurrences = field(default_factory=Occurrences)
    """Rows in which one message contains turns of `Human:` and `Assistant:`."""

    def __post_init__(self) -> None:
        self._ours_of: dict[str, set[str]] = {}
        for ours, theirs in self.source.columns.items():
            for name in parse_column(theirs).names:
                self._ours_of.setdefault(name, set()).add(ours)
        named = parse(self.source.filter).columns if self.source.filter is not None else ()
        selected = [self.source.select.by] if self.source.select is not None else []
        self._named = {part for name in (*named, *selected) for part in (name, name.split(".")[0])}
        self._sides = _mapped_sides(self.source.columns) or _SIDES
        self._known: dict[tuple[tuple[str, ...], frozenset[str]], tuple[list[str], list[tuple[str, str]]]] = {}

    def look(self, raw: SourceRow, read: set[str], made: Sequence[Row]) -> None:
        """Count one row.

        `raw` is the row in its source, `read` the format's columns that were read, and `made` the converted rows.
        """
        self.rows += 1
        texts = [message["content"] for row in made for message in row.messages]
        unread, score_pairs = self._unread_of(tuple(raw.columns), frozenset(read))
        for name in unread:
            self._note(name, raw.columns[name], raw.where, texts)
        for chosen, rejected in score_pairs:
            low, high = _number(raw.columns[chosen]), _number(raw.columns[rejected])
            if low is not None and high is not None and low < high:
                self.lower_scores.setdefault(f"{chosen} < {rejected}", Occurrences()).add(raw.where)
        if any(_PLACEHOLDER.search(text) for text in texts if "<" in text):
            self.placeholders.add(raw.where)
        if made and _lists_texts(made[0]):
            self.text_lists.add(raw.where)
        if made and not made[0].rendered and any(holds_turns(text) for text in texts):
            self.turns.add(raw.where)

    def to_json(self) -> dict[str, Any]:
        """The columns that were not read, as plain data."""
        unread = {name: seen.rows for name, seen in self.unread.items()}
        return {"path": self.source.path, "format": self.format, "rows": self.rows, "unread": unread}

    def is_mapped(self, name: str) -> bool:
        """Whether `columns:` names a column of the source."""
        return name in self._ours_of

    def _unread_of(self, names: tuple[str, ...], read: frozenset[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """The unread columns, and the pairs of scores of which one is unread; cached, since most rows are alike."""
        key = names, read
        if key not in self._known:
            if len(self._known) >= MAX_NAMES:
                self._known.clear()
            unread = [name for name in names if not self._is_read(name, read)]
            pairs = score_pairs(names, self._sides)
            self._known[key] = unread, [pair for pair in pairs if not set(pair).isdisjoint(unread)]
        return self._known[key]

    def _is_read(self, name: str, read: frozenset[str]) -> bool:
        if name in self._named:
            return True
        if name in self._ours_of:
            return not self._ours_of[name].isdisjoint(read)
        return name in read and name not in self.source.columns  # `columns:` hides a column with a mapped name

    def _note(self, name: str, value: Any, where: str, texts: Sequence[str]) -> None:
        seen = self.unread.get(name)
        if seen is None:
            if len(self.unread) >= MAX_NAMES:
                return
            seen = self.unread[name] = Occurrences()
        if _is_empty(value):
            return
        seen.add(where)
        kind = "mapped" if name in self._ours_of else kind_of(name)
        if kind is None or (kind in ("system", "content", "reasoning") and _repeats(value, texts)):
            return
        if kind == "media" and isinstance(value, bool | int | float):
            return
        self.missed.setdefault(name, Occurrences()).add(where)


@lru_cache(MAX_NAMES)
def kind_of(name: str) -> str | None:
    """The kind in `KINDS` that a column's name matches, or None for a name such as `id` or `source`."""
    plain = "_".join(_words(name))
    return next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(plain)), None)


def score_pairs(names: Sequence[str], sides: Mapping[str, str] = _SIDES) -> list[tuple[str, str]]:
    """Pairs of columns with the scores of the chosen and the rejected answer, such as `score_chosen` and
    `score_rejected`, or `chosen-rating` and `rejected-rating`. `sides` are the words that name the answers."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = _words(name)
        named = [word for word in words if word in sides]
        if len(named) == 1 and _SCORES.intersection(words):
            rest = tuple(word for word in words if word not in sides)
            found.setdefault(rest, {}).setdefault(sides[named[0]], name)
    return [(pair["chosen"], pair["rejected"]) for pair in found.values() if len(pair) == 2]


def _mapped_sides(columns: Mapping[str, str]) -> dict[str, str]:
    """The words by which the mapped answers differ: `0` and `1` for `{chosen: answer_0, rejected: answer_1}`."""
    chosen, rejected = (_words(columns.get(name, "")) for name in ("chosen", "rejected"))
    differing = [pair for pair in zip(chosen, rejected, strict=False) if len(set(pair)) == 2]
    if len(chosen) != len(rejected) or len(differing) != 1:
        return {}
    return dict(zip(differing[0], ("chosen", "rejected"), strict=True))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^0-9a-z]+", spaced.lower()) if word]


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | dict) and not value)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _repeats(value: Any, texts: Sequence[str]) -> bool:
    """Whether the row already contains all texts of a value, such as `messages` beside `prompt` and `chosen`."""
    leaves = [leaf.strip() for leaf in _leaves(value)]
    return all(any(leaf in text for text in texts) for leaf in leaves if leaf)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in ("role", "from", "type"):
                yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)


def _lists_texts(row: Row) -> bool:
    """Whether a prompt, or each of several answers, is a list of texts; a single answer may well be one."""
    question, *answers = (part[-1]["content"] for part in (row.prompt, *row.answers))
    return is_text_list(question) or (len(answers) > 1 and all(map(is_text_list, answers)))
