"""Questions about lengths and texts: the numbers behind `dpo-recipe data`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dpo_recipes.data.inspect.lengths import (
    compare_answers,
    describe_bias,
    histograms,
    what_lengths_do,
    worth_showing,
)
from dpo_recipes.data.inspect.texts import TextScan, letters_by_script, looks_garbled
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Row
from dpo_recipes.data.tokenize import TokenizedRow, fit
from dpo_recipes.report.bars import BOTTOM, LEFT, RIGHT, TOP, lay_out_bars


def _lengths(count: int, seed: int = 0, high: int = 300, num_answers: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, high, (count, 1 + num_answers)).astype(np.int32)


@pytest.mark.parametrize("num_answers", [1, 2])
@pytest.mark.parametrize("begins_with_bos", [False, True])
@pytest.mark.parametrize("way", ["drop", "truncate_prompt_start", "truncate_completion_end"])
def test_other_limits_leave_what_cutting_leaves(way: Any, begins_with_bos: bool, num_answers: int) -> None:
    """The arithmetic over all rows at once against `fit`, which cuts one row at a time."""
    lengths = _lengths(200, num_answers=num_answers)
    total = int(num_answers * lengths[:, 0].sum() + lengths[:, 1:].sum())
    for line in what_lengths_do(lengths, 100, begins_with_bos=begins_with_bos):
        contexts: tuple[list[int], ...] = tuple([] for _ in range(num_answers))
        rows = [TokenizedRow([7] * p, tuple([1] * a for a in answers), contexts) for p, *answers in lengths.tolist()]
        first = 7 if begins_with_bos else None
        limit = line["max_length"]
        cut = [fit(row, "", limit, way, SplitReport(), keep=(first, None)) for row in rows]
        kept = [row for row in cut if row is not None]
        tokens = sum(num_answers * len(row.prompt_ids) + sum(map(len, row.answer_ids)) for row in kept)
        assert line["too_long"] == sum(row.length > limit for row in rows)
        unit = "pairs" if num_answers == 2 else "rows"
        assert line[way] == {unit: len(kept), "share": round(tokens / total, 4)}


def test_limits_are_shown_up_to_one_that_is_enough() -> None:
    lines = what_lengths_do(_lengths(50, high=100), 600, begins_with_bos=False)
    assert [line["max_length"] for line in lines] == [256, 300, 512, 600, 1024, 1200, 2048, 4096]
    assert [line["max_length"] for line in worth_showing(lines)] == [256, 600]


@pytest.mark.parametrize("lengths", [_lengths(500), _lengths(1), _lengths(50, num_answers=1), np.full((9, 3), 5)])
def test_histograms_count_every_row_once(lengths: np.ndarray) -> None:
    for name, histogram in histograms(lengths).items():
        assert sum(histogram["counts"]) == len(lengths)
        assert len(histogram["edges"]) == len(histogram["counts"]) <= 18
        steps = set(np.diff(histogram["edges"]).tolist())
        assert len(steps) <= 1, name


def test_a_few_far_values_do_not_flatten_a_histogram() -> None:
    lengths = np.concatenate([_lengths(999, high=100), np.array([[50_000, 9, 9]], np.int32)])
    histogram = histograms(lengths)["prompt"]
    assert histogram["max"] == 50_000
    assert histogram["edges"][-1] <= 100
    assert max(histogram["counts"]) < 200


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (
            [30] * 78 + [10] * 22,
            [20] * 100,
            "chosen is longer in 78% of pairs (mean 26 tokens, rejected 20): the model",
        ),
        ([10] * 70 + [30] * 30, [20] * 100, "rejected is longer in 70% of pairs"),
        ([30] * 55 + [10] * 45, [20] * 100, None),
        ([30] * 3 + [10], [20] * 4, None),
        ([20] * 100, [20] * 100, None),
    ],
)
def test_length_that_tells_the_answers_apart_is_named(chosen: Any, rejected: Any, expected: str | None) -> None:
    """Three of four pairs are within two standard deviations (2 * sqrt(0.25 / 4) = 0.5) of chance."""
    lengths = np.stack([np.full(len(chosen), 5), chosen, rejected], axis=1).astype(np.int32)
    sentence = describe_bias(compare_answers(lengths), len(lengths))
    assert sentence is None if expected is None else sentence and sentence.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, 123!", {"Latin": 5}),
        ("naïve Ωμέγα", {"Latin": 5, "Greek": 5}),
        ("Привет", {"Cyrillic": 6}),
        ("你好 world", {"Han": 2, "Latin": 5}),
        ("日本語のテキスト", {"Japanese": 8}),
        ("中" * 30 + "の", {"Han": 30, "Kana": 1}),
        ("한국어", {"Hangul": 3}),
        ("5 µm, 10 k\u2126, x², 𝐀ª 🙂", {"Latin": 3}),
        ("42 + 1", {}),
    ],
)  # fmt: skip
def test_letters_are_counted_by_script(text: str, expected: dict[str, int]) -> None:
    assert letters_by_script(text) == Counter(expected)


@pytest.mark.parametrize(
    "text",
    ["café", "naïve “quotes” — dash…", "Привет, мир", "«É», ça va", "你好，世界！", "🙂🙂", "İstanbul’da", "CAFÉ”"],
)
def test_text_read_with_the_wrong_encoding_is_recognised(text: str) -> None:
    garbled = text.encode().decode("latin-1").translate({code: _windows(code) for code in range(0x80, 0xA0)})
    assert not looks_garbled(text)
    assert looks_garbled(garbled)


def _windows(code: int) -> str:
    char = bytes([code]).decode("cp1252", "replace")
    return chr(code) if char == "\ufffd" else char


def _row(chosen: str, rejected: str = "No, never.", prompt: str = "Really?", where: str = "a:1") -> Row:
    return Row(
        [{"role": "user", "content": prompt}],
        ([{"role": "assistant", "content": chosen}], [{"role": "assistant", "content": rejected}]),
        where,
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (_row("Yes, indeed."), set()),
        (_row("Tabs\tand\r\nlines"), set()),
        (_row("a \x1b[31m b"), {"control"}),
        (_row("a \x85 b"), {"control"}),
        (_row("lost \ufffd here"), {"replacement"}),
        (_row("the cafÃ© there"), {"garbled"}),
        (_row("Yes."), {"short_chosen"}),
        (_row(" ", "Nope"), {"short_chosen", "short_rejected"}),
        (_row("我不知道该怎么办。"), set()),
    ],
)
def test_peculiar_rows_are_noted(row: Row, expected: set[str]) -> None:
    scan = TextScan()
    scan.look(row)
    assert set(scan.seen) == expected


def test_a_call_of_a_tool_is_an_answer() -> None:
    scan = TextScan()
    call: Any = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look_up"}}]}
    scan.look(Row([{"role": "user", "content": "Weather?"}], ([call], [call]), "a:1"))
    assert not scan.seen


def test_rows_are_told_apart_by_all_that_the_model_sees() -> None:
    scan = TextScan()
    rows = (_row("A b"), _row("A b", where="a:2"), _row("A c"), _row("A b", prompt="Why?"))
    singles = [replace(rows[0], answers=rows[0].answers[:1], label=label) for label in (None, True, False)]
    for row in (*rows, *singles):
        scan.look(row)
    assert len(set(scan.rows.tolist())) == 6
    assert len(set(scan.prompts.tolist())) == 2
    assert (scan.rows[0], scan.prompts[0]) == (scan.rows[1], scan.prompts[1])


def test_a_short_single_answer_is_noted() -> None:
    scan = TextScan()
    scan.look(Row([{"role": "user", "content": "Really?"}], ([{"role": "assistant", "content": "Yes"}],), "a:1"))
    assert scan.seen.keys() == {"short_completion"}


def test_only_the_first_places_are_kept() -> None:
    scan = TextScan()
    for number in range(5):
        scan.look(_row("Да.", "Нет, никогда.", "Правда?", f"a:{number}"))
    for places in (scan.seen["short_chosen"], scan.rows_by_script["Cyrillic"]):
        assert (places.count, places.first) == (5, ["a:0", "a:1", "a:2"])


def test_bars_stand_on_the_axis_within_the_chart() -> None:
    made = histograms(_lengths(300))
    chart = lay_out_bars("Answers", "", {name: made[name] for name in ("chosen", "rejected")}, limit=150)
    assert len(chart.bars) == 2 * len(made["chosen"]["edges"])
    for bar in chart.bars:
        assert LEFT <= bar.x <= bar.x + bar.width <= RIGHT
        assert bar.y + bar.height == pytest.approx(BOTTOM)
        assert bar.y >= TOP
    assert chart.limit is not None
    middle = (LEFT + RIGHT) / 2
    assert chart.limit.at == pytest.approx(middle, abs=15)
    assert "chosen, most often" in chart.description


@pytest.mark.parametrize("limit", [None, 5, 4000])
def test_a_limit_that_is_off_the_chart_is_not_drawn(limit: int | None) -> None:
    lengths = np.full((9, 3), 50, np.int32)
    assert lay_out_bars("Pairs", "", {"pair": histograms(lengths)["pair"]}, limit).limit is None


def test_a_difference_has_its_zero_on_the_axis() -> None:
    chart = lay_out_bars("Difference", "", {"difference": histograms(_lengths(500))["difference"]})
    assert "0" in [tick.text for tick in chart.x_ticks]
