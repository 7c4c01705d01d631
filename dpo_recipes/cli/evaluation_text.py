"""The result of an evaluation on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.formats import align_columns
from dpo_recipes.report.evaluation_page import describe_evaluation
from dpo_recipes.report.evaluation_tables import list_evaluation_tables, list_verdicts


def describe_result(result: EvaluationResult) -> Iterator[str]:
    """The lines of the tables, with the notes below."""
    yield describe_evaluation(result)
    yield from list_verdicts(result)
    for table in list_evaluation_tables(result):
        yield ""
        yield table.caption
        yield from align_columns([table.columns, *table.rows])
    for note in result.notes:
        yield f"\n{note}"
