"""The report page: what it says, what it must never do, and where its lines are drawn."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import fake_objective
import pytest

from dpo_recipes.formats import (
    format_bytes,
    format_duration,
    format_number,
    format_percent,
    format_short,
    format_time,
)
from dpo_recipes.objectives import dpo, kto, orpo, reward
from dpo_recipes.objectives.base import Objective
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.report.charts import (
    BOTTOM,
    LABEL_GAP,
    LEFT,
    MAX_POINTS,
    TOP,
    ChartSpec,
    Series,
    lay_out_chart,
    nice_ticks,
    spread_labels,
    thin_points,
)
from dpo_recipes.report.curves import draw_curves, read_points
from dpo_recipes.report.html import render_report
from dpo_recipes.report.sections import compare_models, describe_saved_model, list_findings, list_splits, list_tiles
from dpo_recipes.report.templates import mark_prose
from dpo_recipes.report.verdict import write_verdict
from dpo_recipes.run_result import RunResult, SavedModelComparison

DPO = dpo.OBJECTIVE
MINIMAL = {"status": "finished", "recipe": "tiny", "steps": 3, "metrics": {}}
RESULT = {
    "status": "finished",
    "recipe": "quickstart",
    "summary": "Learns to answer briefly.",
    "steps": 40,
    "train_runtime_s": 142.1,
    "wall_s": 210.2,
    "pairs_per_second": 2.3,
    "tokens_per_second": 400.0,
    "peak_memory_bytes": 2_100_000_000,
    "num_train_pairs": 320,
    "num_eval_pairs": 80,
    "metrics": {
        "train_loss": 0.52,
        "eval_loss": 0.41,
        "eval_rewards/accuracies": 0.85,
        "eval_rewards/margins": 1.25,
        "eval_logps/chosen": -58.0,
        "eval_logps/rejected": -130.0,
    },
    "base_metrics": {
        "eval_loss": 0.6931,
        "eval_rewards/accuracies": 0.0,
        "eval_rewards/margins": 0.0,
        "eval_logps/chosen": -60.0,
        "eval_logps/rejected": None,
    },
    "samples": [
        {
            "prompt": "Say hi.",
            "base": "\n  Hello\n\tthere, friend",
            "tuned": "Hi.",
            "chosen": "Hi!",
            "rejected": "A long greeting",
        }
    ],
    "answer_words": {"base": 62.1, "tuned": 18.4, "prompts": 16},
    "model": {
        "base": "org/model",
        "dtype": "float32",
        "adapter": "LoRA r=16",
        "trainable_parameters": 4_884_480,
        "total_parameters": 139_400_000,
        "reference": "adapter off",
        "device": "cpu",
    },
    "model_dir": "model",
    "environment": {"machine": "Linux, 16 cores", "python": "3.11.7", "packages": {"torch": "2.13.0"}},
    "started_at": "2026-11-21T07:00:00Z",
    "finished_at": "2026-11-21T07:03:30+00:00",
}
ROWS = [
    {"step": 5, "loss": 0.69, "rewards/accuracies": 0.5, "rewards/margins": 0.01, "logps/chosen": -60.1},
    {"step": 10, "loss": 0.60, "rewards/accuracies": 0.7, "rewards/margins": 0.30, "logps/chosen": -59.0},
    {"step": 10, "eval_loss": 0.62, "eval_rewards/accuracies": 0.65, "eval_rewards/margins": 0.2},
    {"step": 10, "train_runtime": 142.1, "train_loss": 0.52},
]
DATA = {
    "splits": {
        "train": {"rows_in": 1322, "rows_kept": 1319, "dropped": {"overlong": 2, "empty": 1}},
        "eval": {"rows_in": 80, "rows_kept": 80, "dropped": {}},
    }
}
VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A reader that checks that tags nest and keeps tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def read(result):
    """The result as the reader of result.json gives it."""
    return RunResult.from_json({"schema": 1, **result})


def make_recipe(kind="dpo"):
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "job",
            "model": {"path": "gpt2"},
            "data": {"train": [{"path": "rows.jsonl"}]},
            "objective": {"kind": kind},
        }
    )


def render(result=RESULT, rows=ROWS, recipe="recipe: quickstart\n", data=DATA, kind="dpo"):
    return render_report(read(result), make_recipe(kind), rows, recipe, data)


def tiles(result):
    return list_tiles(read(result), DPO)


def comparison(result, objective: Objective = DPO):
    return compare_models(read(result), objective)


def verdict(result, objective: Objective = DPO):
    return write_verdict(read(result), objective)


def draw(rows, objective: Objective = DPO):
    return draw_curves(rows, objective.metrics)


# What the page says


def test_sections_come_in_reading_order():
    html = render()
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids == ["numbers", "curves", "samples", "data", "model", "recipe"]
    assert html.index('class="verdict"') < html.index('id="numbers"')


def test_throughput_is_told_in_distinct_tokens_where_they_were_counted():
    counted = {"distinct_tokens_per_second": 150.4, "positions_saved": 0.625}
    assert "150 distinct tokens/s, 62.5% of positions saved" in Page(render({**RESULT, **counted})).text
    assert "device's rate" not in Page(render({**RESULT, **counted})).text
    known = Page(render({**RESULT, **counted, "matmul_share": 0.41})).text
    assert "62.5% of positions saved, 41.0% of the device's rate" in known


def test_page_shows_every_recorded_fact():
    text = Page(render()).text
    for fact in (
        "Learns to answer briefly.",
        "85.0%",
        "62.1 → 18.4",
        "2 min 22 s",
        "1.96 GiB",
        "2.30 pairs/s",
        "400 tokens/s",
        "4,884,480 of 139,400,000 (3.50%)",
        "2026-11-21 07:03:30 UTC",
        "Linux, 16 cores",
        "2.13.0",
        "overlong: 2, empty: 1",
        "recipe: quickstart",
    ):
        assert fact in text


def test_samples_keep_their_whitespace():
    html = render()
    assert '<div class="text" dir="auto">\n  Hello\n\tthere, friend</div>' in html
    assert re.search(r"\.text \{[^}]*white-space: pre-wrap", html)


def test_long_samples_are_shown_in_full():
    answer = "word " * 5000 + "END"
    assert answer in render({**MINIMAL, "samples": [{"prompt": "p", "base": answer, "tuned": ""}]})


def test_missing_and_empty_answers_are_told_apart():
    samples = [{"prompt": "p", "base": None, "tuned": " \n"}]
    text = Page(render({**MINIMAL, "samples": samples})).text
    assert "Not recorded." in text
    assert "Empty answer." in text


def test_recipe_text_is_unchanged():
    recipe = "a: 1\n\n\n  b: 'x & <y>'\n"
    assert f"<code>{recipe.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}".replace(
        "'", "&#39;"
    ) in render(recipe=recipe)


def test_status_other_than_finished_stands_out():
    html = render({**RESULT, "status": "failed"})
    assert 'class="status attention">failed<' in html
    assert "The run did not finish (status: failed)" in html


# What the page must never do


def test_markup_in_user_text_is_escaped_everywhere():
    evil = "<script>alert(1)</script>\"'&"
    result = {
        **RESULT,
        "recipe": evil,
        "status": evil,
        "summary": evil,
        "model_dir": evil,
        "samples": [dict.fromkeys(("prompt", "base", "tuned", "chosen", "rejected"), evil)],
        "model": {"base": evil, "device": evil},
        "environment": {"machine": evil, "packages": {evil: evil}},
    }
    finding = dict.fromkeys(("code", "what", "why", "fix"), evil)
    data = {"splits": {evil: {"rows_in": 1, "rows_kept": 0, "dropped": {evil: 1}, "findings": [finding]}}}
    html = render(result, recipe=evil, data=data)
    assert "<script" not in html
    assert Page(html).text.count("alert(1)") >= 15


def test_page_loads_nothing():
    html = render()
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert all(attrs["href"].startswith("#") for attrs in page.named("a"))
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in page.named("meta"))


def test_url_in_user_text_stays_text():
    page = Page(render(recipe="source: https://example.org/x\n"))
    assert "https://example.org/x" in page.text
    assert not any("example.org" in str(attrs) for _, attrs in page.tags)


def test_lone_surrogate_does_not_stop_the_report_from_being_written():
    html = render({**MINIMAL, "samples": [{"prompt": "a\ud800b", "base": "x", "tuned": "y"}]})
    assert b"a?b" in html.encode("utf-8")


def test_navigation_targets_exist():
    page = Page(render())
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in page.named("a")} <= ids


def test_charts_and_tables_can_be_read_without_eyes_or_colour():
    html = render()
    page = Page(html)
    assert len(page.named("caption")) == len(page.named("table"))
    charts = page.named("svg")
    assert charts
    assert all(attrs["role"] == "img" for attrs in charts)
    loss = charts[0]["aria-label"]
    assert loss == ("Loss by training step: train 0.690 at step 5 to 0.600 at step 10; eval 0.620 at step 10.")
    assert re.search(r"\.dashed path \{ stroke-dasharray", html)
    assert 'class="line hue-1 dashed"' in html


# Missing, null and non-finite input


@pytest.mark.parametrize("key", sorted(set(RESULT) - set(MINIMAL)))
@pytest.mark.parametrize("value", ["absent", None])
def test_any_optional_key_may_be_missing_or_null(key, value):
    result = {k: v for k, v in RESULT.items() if k != key}
    if value is None:
        result[key] = None
    text = Page(render(result)).text
    assert "None" not in text


def test_minimal_result_gives_a_whole_page():
    page = Page(render(MINIMAL, [], "", {}))
    assert "This run generated no samples." in page.text
    assert "No data report was recorded." in page.text
    assert "Neither model nor machine was recorded." in page.text
    assert "None" not in page.text


def test_null_inside_nested_values():
    result = {
        **MINIMAL,
        "metrics": dict.fromkeys(RESULT["metrics"]),
        "base_metrics": dict.fromkeys(RESULT["base_metrics"]),
        "model": dict.fromkeys(RESULT["model"]),
        "answer_words": dict.fromkeys(RESULT["answer_words"]),
        "environment": {"packages": {"torch": None}, "python": None},
        "samples": [dict.fromkeys(RESULT["samples"][0])],
    }
    data = {"splits": {"train": None, "eval": {"rows_in": None, "dropped": None}}}
    assert "None" not in Page(render(result, data=data)).text


def test_nan_metrics_are_shown_as_such_and_not_as_missing():
    result = {**RESULT, "metrics": {**RESULT["metrics"], "eval_loss": math.nan}}
    row = next(r for r in comparison(result) if r.key == "eval_loss")
    assert (row.base, row.tuned, row.change) == ("0.693", "NaN", "\N{EN DASH}")


def test_nan_and_inf_rows_leave_a_gap_and_are_counted():
    """Points at steps 1 and 4 stand alone: each needs its own marker, and no line joins them."""
    rows = [{"step": s, "loss": v} for s, v in enumerate([0.7, math.nan, math.inf, 0.5], start=1)]
    chart = draw(rows)[0][0]
    assert chart.num_gaps == 2
    assert chart.lines[0].path.count("M") == 2
    assert "L" not in chart.lines[0].path
    assert len(chart.lines[0].markers) == 2
    html = render(rows=rows)
    assert "2 logged values are NaN, infinite or null, and not drawn." in html
    assert "nan" not in " ".join(re.findall(r'(?: d| cx| cy| x| y)="([^"]*)"', html))


def test_no_rows_gives_no_chart_and_says_so():
    html = render(rows=[])
    assert "<svg" not in html
    assert "No finite values were logged for loss, reward accuracy, reward margin" in html


def test_one_row_gives_markers():
    chart = draw([{"step": 5, "loss": 0.69}])[0][0]
    assert len(chart.lines[0].markers) == 1
    assert LEFT <= chart.lines[0].end[0] <= chart.right


def test_row_at_step_zero_and_rows_without_step():
    charts, _ = draw([{"step": 0, "loss": 0.69}, {"loss": 5.0}])
    assert charts[0].lines[0].end[0] == LEFT


def test_rows_logged_twice_after_a_resume_count_once():
    rows = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]
    assert read_points(rows, "loss") == [(1.0, 0.7), (2.0, 0.6)]


def test_optional_curves_are_not_missed():
    charts, absent = draw(ROWS)
    assert [c.title for c in charts][:3] == ["Loss", "Reward accuracy", "Reward margin"]
    assert absent == []


@pytest.mark.parametrize("value", [0.0, 1e-5, -3.0, 1e12, 1e300])
def test_constant_and_extreme_series_can_be_drawn(value):
    charts, _ = draw([{"step": s, "grad_norm": value} for s in (1, 2)])
    for line in (line for chart in charts for line in chart.lines):
        assert TOP <= line.end[1] <= BOTTOM


# Geometry


def test_geometry_of_a_known_series():
    """y runs from BOTTOM (214) at 0 to TOP (12) at 1, x from LEFT (50) at 0 to right at 10.

    The label "a 1.0" has 5 characters of 7.6, less than the 40 kept for "step": right is
    440 - 16 - 40 = 384, so step 5 lies at 50 + 334 / 2 = 217, and 0.25 at 214 - 202 / 4 = 163.5.
    """
    series = Series("a", [(0, 0.0), (5, 0.25), (10, 1.0)])
    chart = lay_out_chart(
        ChartSpec("T", [series], format_value="{:.1f}".format, y_ticks=(0.0, 0.5, 1.0), reference_y=0.5)
    )
    assert chart is not None
    line = chart.lines[0]
    assert line.path == "M50.0 214.0L217.0 163.5L384.0 12.0"
    assert line.end == (384.0, 12.0)
    assert line.label == "a 1.0"
    assert [t.at for t in chart.y_ticks] == [214.0, 113.0, 12.0]
    assert chart.reference_at == 113.0
    assert [t.text for t in chart.x_ticks] == ["0", "5", "10"]
    assert [t.at for t in chart.x_ticks] == [50.0, 217.0, 384.0]


def test_known_series_is_drawn_in_the_page():
    html = render(rows=[{"step": 0, "rewards/accuracies": 0.0}, {"step": 10, "rewards/accuracies": 1.0}])
    right = 440 - 16 - 7.6 * len("train 100%")
    assert f'<path d="M50.0 214.0L{right:.1f} 12.0"/>' in html


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        ([20, 100], [20, 100]),
        ([50, 52], [50, 66]),
        ([52, 50], [66, 50]),
        ([214, 214, 213], [198, 214, 182]),
        ([0], [12]),
    ],
)
def test_labels_keep_their_distance_and_order(wanted, placed):
    assert spread_labels(wanted, TOP, BOTTOM, LABEL_GAP) == placed


def test_labels_of_lines_that_end_together_do_not_overlap():
    rows = [
        {"step": 9, "logps/chosen": -60.0, "logps/rejected": -60.1},
        {"step": 9, "eval_logps/chosen": -60.0, "eval_logps/rejected": -60.1},
    ]
    ys = sorted(line.label_y for line in draw(rows)[0][0].lines)
    assert len(ys) == 4
    assert all(b - a >= LABEL_GAP - 1e-9 for a, b in pairwise(ys))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.5, 1.0]),
        (0.31, 0.69, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (-130, -55, [-140, -120, -100, -80, -60, -40]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_axis_texts_share_their_decimals():
    charts, _ = draw([{"step": 1, "loss": 0.31}, {"step": 2, "loss": 0.69}])
    assert [t.text for t in charts[0].y_ticks] == ["0.3", "0.4", "0.5", "0.6", "0.7"]


def test_thinning_a_long_run_keeps_spikes_ends_and_order():
    points = [(float(x), 1.0) for x in range(20_000)]
    points[7_777] = (7_777.0, 99.0)
    points[12_345] = (12_345.0, -99.0)
    kept = thin_points(points)
    assert len(kept) <= MAX_POINTS
    assert {(7_777.0, 99.0), (12_345.0, -99.0), points[0], points[-1]} <= set(kept)
    assert kept == sorted(kept)


# Numbers and sentences


def test_verdict_of_a_good_run():
    """Wilson at 68 of 80: centre .85 + .0240, spread .0837, scale 1.0480 give 75.6% to 91.2%."""
    assert verdict(RESULT) == (
        "After 40 steps on 320 training pairs, the tuned model ranks the chosen answer above the rejected "
        "one in 85% of 80 held-out pairs (95% interval 76% to 91%; guessing gives 50%), with a mean margin "
        "of +1.250 where the base compared with itself has 0 by definition; its answers went from 62.1 to "
        "18.4 words on average."
    )


@pytest.mark.parametrize(
    ("accuracy", "num_pairs", "words"),
    [
        (0.60, 20, "which so few pairs cannot tell from guessing"),
        (0.10, 80, "which is worse than guessing"),
        (0.85, None, "in 85% of held-out pairs, with"),
        (1.0, 1, "100% of 1 held-out pair "),
    ],
)
def test_verdict_is_as_sure_as_the_number_of_pairs_allows(accuracy, num_pairs, words):
    metrics = {**RESULT["metrics"], "eval_rewards/accuracies": accuracy}
    assert words in verdict({**RESULT, "metrics": metrics, "num_eval_pairs": num_pairs})


def test_verdict_names_the_base_margin_where_it_is_measured():
    result = {**RESULT, "base_metrics": {"eval_rewards/margins": -0.4}}
    text = verdict(result, orpo.OBJECTIVE)
    assert "a mean margin of +1.250 against \N{MINUS SIGN}0.400 for the base" in text
    assert "by definition" not in text


def test_verdict_without_held_out_numbers_does_not_claim_any():
    result = {**MINIMAL, "metrics": {"train_loss": 0.5}}
    assert verdict(result) == (
        "After 3 steps, the mean training loss is 0.500, but nothing was measured on held-out pairs, "
        "so whether it generalizes is unknown."
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["train_loss", "eval_loss"])
def test_verdict_of_a_diverged_run_warns(key, loss):
    result = {**RESULT, "metrics": {**RESULT["metrics"], key: loss}}
    assert "training diverged, and the tuned model should not be used" in verdict(result)


def test_comparison_gives_changes_and_leaves_out_what_has_none():
    rows = {row.key: row for row in comparison(RESULT)}
    assert rows["eval_loss"].change == "\N{MINUS SIGN}0.283"
    assert rows["eval_logps/rejected"].change == "\N{EN DASH}"
    assert rows["answer_words"].change == "\N{MINUS SIGN}43.7"
    # A base against itself only has ties: the difference to it would say nothing.
    assert rows["eval_rewards/accuracies"].change == "\N{EN DASH}"
    assert "eval_rewards/chosen" not in rows


def test_accuracy_change_is_in_points_where_the_base_has_rewards():
    base = {"eval_rewards/accuracies": 0.55, "eval_rewards/margins": 0.2}
    rows = {row.key: row for row in comparison({**RESULT, "base_metrics": base}, orpo.OBJECTIVE)}
    assert rows["eval_rewards/accuracies"].change == "+30.0 points"


def test_tiles_of_missing_values_are_left_out():
    assert [tile.label for tile in tiles(MINIMAL)] == ["Steps"]
    assert len(tiles(RESULT)) == 8


def test_what_was_found_in_the_data_is_in_the_report():
    finding = {
        "code": "D432",
        "what": "pairs contradict each other: 2 of 9 rows",
        "why": "one prefers",
        "fix": "decide",
    }
    data = {"splits": {"train": {**DATA["splits"]["train"], "findings": [finding]}, "eval": None}}
    assert list_findings(data) == [finding]
    assert (
        "D432 pairs contradict each other: 2 of 9 rows. one prefers. To fix it: decide." in Page(render(data=data)).text
    )
    assert list_findings({}) == list_findings(DATA) == []


def test_split_rows_count_what_was_dropped():
    train, held_out = list_splits(DATA)
    assert (train["rows_in"], train["rows_kept"], train["num_dropped"]) == ("1,322", "1,319", "3")
    assert (held_out["num_dropped"], held_out["reasons"]) == ("0", "\N{EN DASH}")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_number(-0.0001), "0.000"),
        (format_number(-0.0001, signed=True), "0.000"),
        (format_number(1.5, 1, signed=True), "+1.5"),
        (format_number(-math.inf), "\N{MINUS SIGN}inf"),
        (format_number(True), "\N{EN DASH}"),
        (format_number("x"), "\N{EN DASH}"),
        (format_percent(0.8375), "83.8%"),
        (format_short(1e-5), "1e\N{MINUS SIGN}5"),
        (format_short(0.0123), "0.012"),
        (format_duration(59.97), "1 min 00 s"),
        (format_duration(3599.6), "1 h 00 min"),
        (format_duration(7260), "2 h 01 min"),
        (format_bytes(5 * 2**20), "5 MiB"),
        (format_bytes(2**31), "2.00 GiB"),
        (format_time("yesterday"), "yesterday"),
        (format_time("2026-11-21T09:00:00+02:00"), "2026-11-21 07:00:00 UTC"),
    ],
)
def test_numbers_are_written_plainly(shown, expected):
    assert shown == expected


# The saved model

LOGITS = {"checked": True, "pairs": 4, "largest_logit_difference": 2.08e-06, "largest_logit": 21.5}


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        ({**LOGITS, "equal": True}, "reloaded and compared on 4 rows: largest logit difference 2.1e-06"),
        (
            {**LOGITS, "equal": False, "largest_logit_difference": 12.34},
            "differs from the trained model: logits by 12, and the largest is 22",
        ),
        ({"checked": False, "reason": "no memory"}, "not compared with the trained model: no memory"),
    ],
)
def test_the_page_says_whether_the_saved_model_is_the_trained_one(saved, text):
    assert text in render({**RESULT, "saved_model": saved})
    assert describe_saved_model(SavedModelComparison(**saved)) == text


def test_results_of_earlier_versions_say_nothing_of_the_saved_model():
    assert "Saved model" not in render({name: value for name, value in RESULT.items() if name != "saved_model"})


# Other objectives

FAKE = {
    **RESULT,
    "metrics": {
        "train_loss": 0.5,
        "eval_loss": 0.41,
        "eval_rewards/rejected": -0.25,
        "eval_rewards/accuracies": 0.8375,
        "eval_absent": None,
    },
    "base_metrics": {"eval_loss": 0.6, "eval_rewards/rejected": 0.5, "eval_rewards/accuracies": 0.5},
    "samples": [{"prompt": "Say hi.", "base": "Hello", "tuned": "Hi.", "completion": "Good day"}],
}
MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def fake(monkeypatch):
    fake_objective.register(monkeypatch)
    return fake_objective.OBJECTIVE


def test_the_table_has_the_metrics_of_the_objective(fake):
    rows = {row.key: (row.label, row.base, row.tuned, row.change) for row in comparison(FAKE, fake)}
    assert rows == {
        "eval_loss": ("Loss", "0.600", "0.410", f"{MINUS}0.190"),
        "eval_rewards/rejected": ("Penalty", "+0.50", f"{MINUS}0.25", f"{MINUS}0.75"),
        "eval_rewards/accuracies": ("Hit rate", "50.00%", "83.75%", "+33.75 points"),
        "answer_words": ("Words per generated answer", "62.1", "18.4", f"{MINUS}43.7"),
    }


def test_key_numbers_are_the_metrics_that_are_shown_live(fake):
    tiles = [(tile.label, tile.value, tile.detail) for tile in list_tiles(read(FAKE), fake)]
    assert tiles[:3] == [
        ("Penalty", f"{MINUS}0.25", "base: +0.50"),
        ("Held-out loss", "0.410", "base: 0.600"),
        ("Words per answer", "62.1 \N{RIGHTWARDS ARROW} 18.4", "base \N{RIGHTWARDS ARROW} tuned, 16 prompts"),
    ]


def test_the_page_of_another_objective_says_nothing_of_pairs_or_of_dpo(fake, monkeypatch):
    monkeypatch.setattr(type(fake), "rows", "completion")
    rows = [{"step": 1, "loss": 0.5, "rewards/rejected": 0.1, "eval_rewards/rejected": 0.2}]
    text = Page(re.sub(r"<style>.*?</style>", "", render(FAKE, rows=rows, kind="fake"), flags=re.DOTALL)).text
    for expected in (
        "Training run, Fake objective",
        "A penalty is a reward that is not wanted.",
        "Base and tuned model on the held-out completions",
        "on 320 training completions",
        "2.30 completions/s",
        "The lower, the less is rejected.",
        "Answer in the data",
        "Good day",
        "No finite values were logged for never logged.",
    ):
        assert expected in text, expected
    assert "pair" not in text
    assert "chosen" not in text.lower()


def test_charts_are_those_of_the_objective(fake):
    rows = [{"step": 1, "loss": 0.5, "rewards/rejected": 0.1}, {"step": 1, "absent": 0.3, "grad_norm": 1.0}]
    charts, absent = draw(rows, fake)
    assert [chart.title for chart in charts] == ["Loss", "Penalty", "Never logged", "Gradient norm"]
    assert [chart.caption for chart in charts] == [
        "Lower is better.",
        "The lower, the less is rejected.",
        "The heavier line at 0 is the base compared with itself.",
        "Before clipping.",
    ]
    assert absent == []


@pytest.mark.parametrize(
    ("tuned", "base", "words"),
    [
        (-0.25, 0.5, f"is {MINUS}0.25, better than +0.50 for the base; its answers"),
        (0.75, 0.5, "is +0.75, which is worse than +0.50 for the base;"),
        (0.5, 0.5, "is +0.50, the same as for the base;"),
        (0.5, None, "is +0.50; its answers"),
    ],
)
def test_the_verdict_judges_by_the_best_metric_and_its_direction(fake, tuned, base, words):
    result = {**FAKE, "metrics": {"eval_rewards/rejected": tuned}, "base_metrics": {"eval_rewards/rejected": base}}
    assert f"After 40 steps on 320 training pairs, the penalty on 80 held-out pairs {words}" in verdict(result, fake)


def test_the_verdict_without_the_best_metric_claims_nothing(fake):
    result = {**FAKE, "metrics": {"train_loss": 0.5, "eval_rewards/rejected": None}}
    assert "nothing was measured on held-out pairs" in verdict(result, fake)


def test_the_verdict_of_a_reward_model_compares_its_accuracy_with_guessing():
    metrics = {"eval_loss": 0.4, "eval_accuracy": 0.85, "eval_margin": 1.25}
    text = verdict({**RESULT, "metrics": metrics, "base_metrics": {"eval_margin": 0.01}}, reward.OBJECTIVE)
    assert "above the rejected one in 85% of 80 held-out pairs (95% interval 76% to 91%; guessing gives 50%)" in text
    assert "with a mean margin of +1.250 against +0.010 for the base" in text


def test_answers_of_one_kind_have_no_ranking_to_compare_with_guessing():
    metrics = {"eval_loss": 0.4, "eval_rewards/accuracies": 0.85}
    text = verdict({**RESULT, "metrics": metrics, "base_metrics": {"eval_loss": 0.5}}, kto.OBJECTIVE)
    assert "the loss on 80 held-out answers is 0.400, better than 0.500 for the base" in text
    assert "guessing" not in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("write `keep: best`, or `all`", "write <code>keep: best</code>, or <code>all</code>"),
        ("<b> & a lone ` mark", "&lt;b&gt; &amp; a lone ` mark"),
        ("`<i>`", "<code>&lt;i&gt;</code>"),
        (
            "see (https://a.org/x?y=1&z; https://doi.org/10(98)17;2-I).",
            'see (<a class="address" href="https://a.org/x?y=1&amp;z" rel="noreferrer">https://a.org/x?y=1&amp;z</a>; '
            '<a class="address" href="https://doi.org/10(98)17;2-I" rel="noreferrer">https://doi.org/10(98)17;2-I</a>).',
        ),
        ('https://a.org/"onclick="x', '<a class="address" href="https://a.org/&#34;onclick=&#34;x" rel="noreferrer">'
         "https://a.org/&#34;onclick=&#34;x</a>"),
        ("http://a.org javascript:alert(1)", "http://a.org javascript:alert(1)"),
    ],
)  # fmt: skip
def test_findings_have_code_and_links_and_no_other_markup(text: str, html: str) -> None:
    assert mark_prose(text) == html
