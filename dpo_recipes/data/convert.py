"""Converts rows to the shape that an objective learns from, and counts what each conversion makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import DataFormat, Row
from dpo_recipes.data.turns import last_reply
from dpo_recipes.errors import DataError
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.objectives.row_shapes import why_not

BAD_ANSWER = "bad_answer"
"""The reason of labelled rows that are left out because an objective that imitates answers has no use for bad ones."""
_NAMES: dict[RowShape, str] = {
    "pair": "pairs",
    "labelled": "labelled rows",
    "completion": "completions",
    "prompt": "prompts",
}


def _to_labelled(pair: Row) -> list[Row]:
    return [
        replace(pair, answers=(answer,), label=label, margin=None)
        for answer, label in zip(pair.answers, (True, False), strict=True)
    ]


def _to_chosen(pair: Row) -> list[Row]:
    return [replace(pair, answers=pair.answers[:1], margin=None)]


def _to_good(row: Row) -> list[Row]:
    return [replace(row, label=None)] if row.label else []


def _to_prompt(row: Row) -> list[Row]:
    return [replace(row, answers=(), label=None, weight=None, margin=None)]


_CONVERSIONS: dict[tuple[RowShape, RowShape], Callable[[Row], list[Row]]] = {
    ("pair", "labelled"): _to_labelled,
    ("pair", "completion"): _to_chosen,
    ("labelled", "completion"): _to_good,
    ("pair", "prompt"): _to_prompt,
    ("labelled", "prompt"): _to_prompt,
    ("completion", "prompt"): _to_prompt,
}
"""By the shape of the data and the shape that the objective learns from. `check_shape` refuses others."""


@dataclass
class Conversion:
    """Converts the rows of one source, and counts them."""

    data_format: DataFormat
    shape: RowShape
    splits_last_turn: bool = False
    """Whether the answers of rows with one answer start at the assistant's last turn."""
    num_source_rows: int = 0
    num_formatted: int = 0
    """The number of rows that the format made."""
    num_converted: int = 0
    num_added: int = 0
    """How many more rows were made or left out than the source has."""
    _convert: Callable[[Row], list[Row]] | None = field(init=False)

    def __post_init__(self) -> None:
        self._convert = _CONVERSIONS.get((self.data_format.kind, self.shape))

    def convert(self, made: Sequence[Row], report: SplitReport) -> list[Row]:
        """The rows of the objective's shape from those that the format made of one row of the source.

        Several pairs of one row, such as those of a ranking, have the same chosen answer. It becomes one row, and not
        one for each pair. Counts bad answers as dropped, and corrects `report.rows_in`, which counts one row.
        """
        converted, num_dropped = list(made), 0
        if self._convert is not None:
            parts = list(map(self._convert, made))
            converted = [row for part in parts for row in part]
            if len(made) > 1:
                converted = [row for place, row in enumerate(converted) if row not in converted[:place]]
            num_dropped = sum(not part for part in parts)
            report.drop(BAD_ANSWER, made[0].where, num_dropped)
        if self.splits_last_turn and self.shape not in ("pair", "prompt"):
            converted = list(map(_last_turn, converted))
        added = len(converted) + num_dropped - 1
        report.rows_in += added
        self.num_added += added
        self.num_source_rows += 1
        self.num_formatted += len(made)
        self.num_converted += len(converted)
        return converted

    def add_to(self, report: SplitReport) -> None:
        """Add the conversions that changed the rows to a report."""
        name = self.data_format.name
        if self.num_formatted != self.num_source_rows:
            report.convert(f"rows of `{name}`", _NAMES[self.data_format.kind], self.num_source_rows, self.num_formatted)
        if self._convert is not None:
            kinds = _NAMES[self.data_format.kind], _NAMES[self.shape]
            report.convert(*kinds, self.num_formatted, self.num_converted)


def _last_turn(row: Row) -> Row:
    (answer,) = row.answers
    at = last_reply(answer)
    return replace(row, prompt=[*row.prompt, *answer[:at]], answers=(answer[at:],)) if at else row


def check_shape(path: str, data_format: DataFormat, shape: RowShape) -> None:
    """Raise `DataError` D413 if rows of a format cannot be converted to the shape that the objective learns from."""
    refusal = why_not(data_format.kind, shape)
    if refusal is not None:
        has = {"labelled": "single answers with a label", "prompt": "prompts without answers"}
        what = f"{path} contains {has.get(data_format.kind, 'single answers')} (format `{data_format.name}`)"
        raise DataError.of("D413", what, why=refusal[0], fix=refusal[1])
