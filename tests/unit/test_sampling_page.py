"""The page of sampled preference data: what it counts, draws and shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sampled import TIE, make_samples

from dpo_recipes.evaluate.result import SampleResult
from dpo_recipes.report.bars import REWARDS, bin_values, lay_out_bars
from dpo_recipes.report.sampling_page import describe_sampling, render_sampling
from dpo_recipes.report.sampling_tables import list_sampling_tables


@pytest.fixture
def made(tmp_path: Path) -> tuple[SampleResult, Path]:
    return make_samples(tmp_path)


def _cells(result: SampleResult) -> dict[str, list[str]]:
    """The rows of all tables by their captions and labels."""
    return {f"{table.caption}/{row[0]}": row[1:] for table in list_sampling_tables(result) for row in table.rows}


def test_the_tables_count_prompts_answers_and_what_was_left_out(made: tuple[SampleResult, Path]) -> None:
    cells = _cells(made[0])
    assert cells["Prompts and rows/Prompts that were answered"] == ["40"]
    assert cells["Prompts and rows/Answers"] == ["160"]
    assert cells["Prompts and rows/Rows of preference data"] == ["32"]
    assert cells[f"Prompts and rows/Left out: {TIE}"] == ["8"]
    assert cells["All answers/Answers cut off"] == ["25.0%"]
    assert re.fullmatch(r"[+−]0\.\d{3} \[[+−]0\.\d{3}, [+−]?0\.\d{3}\]", cells["All answers/Mean reward (judge)"][0])
    assert cells["The best and the worst answer of each row/Longer than the other one"] == [
        "5.0% [1.0%, 18.0%]",
        "95.0% [82.0%, 99.0%]",
    ]


def test_a_strong_bias_of_length_is_said(made: tuple[SampleResult, Path]) -> None:
    result = made[0]
    assert result.best is not None
    assert list_sampling_tables(result)[-1].note.startswith("The best answer is mostly the shorter one")
    even = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 32}
    ends = {name: {**getattr(result, name).model_dump(), "longer": even} for name in ("best", "worst")}
    assert (
        list_sampling_tables(SampleResult.model_validate({**result.model_dump(by_alias=True), **ends}))[-1].note == ""
    )


def test_the_page_shows_rows_with_scores_and_the_other_answers(made: tuple[SampleResult, Path]) -> None:
    result, answers = made
    page = render_sampling(result, answers)
    assert page.count("<article") == 12
    assert "The first 12 of 32 rows" in page
    assert "How do I boil 1 eggs?" in page
    assert "How do I boil 5 eggs?" not in page  # its answers tie
    assert re.search(r"<h4>Best: [+−]?\d\.\d{3} ", page)
    assert re.search(r"<h4>Not used, cut off: [+−]?\d\.\d{3} ", page)
    assert page.count('<svg viewBox="0 0 440 226"') == 4
    assert "http" not in page.replace("http-equiv", "")  # it loads nothing


def test_texts_of_models_are_not_markup(made: tuple[SampleResult, Path]) -> None:
    result, answers = made
    answers.write_text(answers.read_text(encoding="utf-8").replace("Boil", "<script>"), encoding="utf-8")
    assert "<script>" not in render_sampling(result, answers)


def test_the_sentence_above_the_page(made: tuple[SampleResult, Path]) -> None:
    assert describe_sampling(made[0]) == (
        "160 answers to 40 prompts of prompts.jsonl, given at temperature 1.00, top-p 0.95, seed 1000003 with up to 64 "
        "tokens: 32 rows of preference data. 8 rows or prompts were left out."
    )


def test_a_result_of_an_earlier_version_has_no_ranked_answers(made: tuple[SampleResult, Path]) -> None:
    plain = made[0].model_dump(by_alias=True)
    for key in ("best", "worst", "generation", "num_answers"):
        del plain[key]
    del plain["models"][0]["tokens"]
    assert len(list_sampling_tables(SampleResult.model_validate(plain))) == 2


# --- histograms of numbers that are not whole --------------------------------------------------------


def test_bins_are_round_shared_and_have_every_value() -> None:
    groups = {"best": [0.3, 0.31, 0.99, 1.0], "worst": [-0.35, -0.301, 0.0]}
    made = bin_values(groups)
    assert made["best"]["edges"] == made["worst"]["edges"]
    edges = made["best"]["edges"]
    assert edges[0] == pytest.approx(-0.4)
    assert edges[1] - edges[0] == pytest.approx(0.1)
    assert {name: sum(one["counts"]) for name, one in made.items()} == {"best": 4, "worst": 3}
    # 0.3 is in the bin that begins with 0.3, although 0.3 / 0.1 is less than 3.
    assert made["best"]["counts"][7] == 2
    chart = lay_out_bars("Rewards", "", made, axis=REWARDS)
    assert chart.x_name == "reward"
    assert "0.00" in [tick.text for tick in chart.x_ticks]
    assert "best, 0.30 to 0.40 reward: 2" in [bar.text for bar in chart.bars]


@pytest.mark.parametrize("values", [[], [0.0], [2.5, 2.5], [1e9, -1e9], [1e-7, 2e-7]])
def test_unusual_values_have_bins_too(values: list[float]) -> None:
    chart = lay_out_bars("Rewards", "", bin_values({"all": values}), axis=REWARDS)
    assert len(chart.bars) <= 17
    assert all(0 <= bar.height <= 200 for bar in chart.bars)


def test_whole_numbers_have_whole_edges() -> None:
    made = bin_values({"tokens": [3, 4, 4, 9]}, is_whole=True)["tokens"]
    assert made["edges"] == [3, 4, 5, 6, 7, 8, 9]
    assert made["counts"] == [1, 2, 0, 0, 0, 0, 1]
    wide = bin_values({"tokens": [0, 100]}, is_whole=True)["tokens"]
    assert wide["edges"][1] - wide["edges"][0] == 10
