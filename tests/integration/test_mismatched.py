"""The rows of KTO with the answers of other rows."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, Features, List, Value

from dpo_recipes.data.mismatched import add_mismatched_answers
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.errors import DataError

IDS = List(Value("int32"))
FEATURES = Features({
    "prompt_ids": IDS, "answer_ids": List(IDS), "answer_context": List(IDS), "row": Value("int64"),
    "label": Value("bool"),
})  # fmt: skip


def splits(rows: list[dict[str, Any]], key: str) -> TokenizedSplits:
    dataset = Dataset.from_list(rows, features=FEATURES)
    return TokenizedSplits({"train": dataset}, {}, {}, {}, [], key)


def make_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt_ids": [7, number // 2], "answer_ids": [[number] * (1 + number % 5)], "row": number,
         "answer_context": [[0, 1, 2, 5]], "label": number % 2 == 0}
        for number in range(count)
    ]  # fmt: skip


def test_each_row_gets_the_answer_of_another_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.data.mismatched._BATCH", 3)
    rows = make_rows(10)
    added = add_mismatched_answers(splits(rows, "ten"), seed=1, max_length=5)
    found = added.datasets["train"].to_list()
    assert [row["answer_ids"][0] for row in found] == [row["answer_ids"][0] for row in rows]
    assert {name for row in found for name in row} == set(FEATURES)
    others = [row["answer_ids"][1] for row in found]
    assert sorted(answer[0] for answer in others) == list(range(10))
    for row, answer in zip(rows, others, strict=True):
        assert answer[0] // 2 != row["prompt_ids"][1]
        assert len(answer) == min(3, 1 + answer[0] % 5)
    assert all(row["answer_context"] == [[0, 1, 2, 5], [0, 1, 2, 3]] for row in found)
    assert added.key != "ten"
    again = add_mismatched_answers(splits(rows, "ten"), seed=1, max_length=5)
    assert (again.key, again.datasets["train"].to_list()) == (added.key, found)
    other_seed = add_mismatched_answers(splits(rows, "ten"), seed=2, max_length=5)
    assert other_seed.datasets["train"]["answer_ids"] != added.datasets["train"]["answer_ids"]


def test_a_single_row_is_refused() -> None:
    with pytest.raises(DataError, match="has one row") as caught:
        add_mismatched_answers(splits(make_rows(1), "one"), seed=1, max_length=5)
    assert caught.value.findings[0].code == "D436"
