"""Runs are compared by the right metric, with what is known about noise, and their settings that differ."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import make_recipe, make_run
from test_report import Page

from dpo_recipes.errors import RecipeError
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.report.comparison import Comparison, compare_runs
from dpo_recipes.report.comparison_page import render_comparison
from dpo_recipes.report.comparison_tables import list_tables, to_csv, to_markdown
from dpo_recipes.report.comparison_verdict import write_comparison_verdict
from dpo_recipes.report.overlay import overlay_curves
from dpo_recipes.report.plan_rows import PlanFigures, describe_deviation, list_plan_rows
from dpo_recipes.report.settings_plots import draw_parallel, draw_settings, show_value


class Runs:
    """Makes finished runs in a folder, each with a number of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __call__(self, name: str = "job", *, result: dict[str, Any] | None = None, **sections: Any) -> FinishedRun:
        self.count += 1
        recipe = make_recipe(name, **sections)
        return open_run(make_run(self.folder, recipe, digits=f"{self.count:06}", **(result or {})).path)

    def with_loss(self, loss: float | None, name: str = "job", **sections: Any) -> FinishedRun:
        return self(name, result={"metrics": {"eval_loss": loss}}, **sections)

    def with_accuracy(self, accuracy: float, num_rows: int, name: str, **training: Any) -> FinishedRun:
        result = {"metrics": {"eval_accuracy": accuracy}, "num_eval_pairs": num_rows}
        return self(name, result=result, objective={"kind": "reward"}, training=training)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def ranks(comparison: Comparison) -> list[str]:
    return [configuration.label for configuration in comparison.configurations]


# --- ranking -------------------------------------------------------------------------------------


def test_the_lowest_loss_is_the_best_and_runs_without_one_are_last(runs: Runs) -> None:
    compared = compare_runs(
        [
            runs.with_loss(0.5, "a", training={"learning_rate": 1e-5}),
            runs.with_loss(None, "b", training={"learning_rate": 2e-5}),
            runs.with_loss(0.3, "c", training={"learning_rate": 3e-5}),
        ]
    )
    assert ranks(compared) == ["c", "a", "b"]
    assert compared.best is not None
    assert compared.best.number == 1
    assert [c.from_best.value if c.from_best else None for c in compared.configurations] == [None, 0.2, None]
    assert compared.settings == ("training.learning_rate",)


def test_the_highest_accuracy_is_the_best_of_reward_models(runs: Runs) -> None:
    compared = compare_runs([runs.with_accuracy(0.6, 80, "a"), runs.with_accuracy(0.7, 80, "b", num_epochs=2)])
    assert compared.metric is not None
    assert (compared.metric.key, ranks(compared)) == ("accuracy", ["b", "a"])


def test_runs_that_differ_only_in_the_seed_are_one_configuration(runs: Runs) -> None:
    compared = compare_runs(
        [
            *(runs.with_loss(loss, f"a-{loss}", training={"seed": seed}) for seed, loss in enumerate((0.50, 0.52))),
            *(
                runs.with_loss(loss, f"b-{loss}", training={"seed": seed, "learning_rate": 1e-5})
                for seed, loss in enumerate((0.40, 0.44))
            ),
        ]
    )
    best, other = compared.configurations
    assert (best.value, other.value) == (pytest.approx(0.42), pytest.approx(0.51))
    assert (best.label, [run.label for run in best.runs]) == ("b-0.4 and 1 more", ["b-0.4", "b-0.44"])
    assert compared.settings == ("training.learning_rate",)
    # Squares 0.0002 and 0.0008 over two degrees of freedom: s = √0.0005; t = 4.3027.
    deviation = 0.0005**0.5
    assert best.half_width == pytest.approx(4.3027 * deviation / 2**0.5)
    assert other.from_best is not None
    assert other.from_best.interval == pytest.approx((0.09 - 4.3027 * deviation, 0.09 + 4.3027 * deviation))
    assert other.from_best.is_noise is True
    assert "Judged by how much runs with other seeds vary (2 degrees of freedom)" in write_comparison_verdict(compared)
    assert "seed" not in list_tables(compared)["settings"].rows[0][0]
    assert "training.seed" in to_csv(compared)


def test_without_repeated_runs_the_noise_of_a_loss_is_unknown(runs: Runs) -> None:
    compared = compare_runs([runs.with_loss(0.5, "a"), runs.with_loss(0.3, "b", training={"num_epochs": 2})])
    difference = compared.configurations[1].from_best
    assert difference is not None
    assert (difference.interval, difference.is_noise) == (None, None)
    verdict = write_comparison_verdict(compared)
    assert verdict.startswith(
        "#1 b is best by the held-out loss: 0.300, 0.200 below #2 a. How much it varies by chance"
    )


@pytest.mark.parametrize(
    ("second", "num_rows", "is_noise"), [(0.60, 80, True), (0.60, 2000, False), (0.69, 2000, True)]
)
def test_the_number_of_rows_says_whether_two_accuracies_differ(
    runs: Runs, second: float, num_rows: int, is_noise: bool
) -> None:
    """0.7 against 0.6: about ± 14.8 points on 80 rows, ± 2.9 points on 2,000."""
    other = runs.with_accuracy(second, num_rows, "b", num_epochs=2)
    compared = compare_runs([runs.with_accuracy(0.7, num_rows, "a"), other])
    difference = compared.configurations[1].from_best
    assert difference is not None
    assert difference.is_noise is is_noise
    words = "within noise" if is_noise else "more than noise"
    assert "held-out pairs, the 95% interval of the difference is" in write_comparison_verdict(compared)
    assert words in write_comparison_verdict(compared)


def test_a_single_run_has_nothing_to_be_compared_with(runs: Runs) -> None:
    compared = compare_runs([runs.with_loss(0.3, "a")])
    assert compared.best is None
    assert write_comparison_verdict(compared) == (
        "The held-out loss of a is 0.300; there is no other run to compare it with."
    )
    assert "settings" not in list_tables(compared)


def test_equal_values_and_no_values(runs: Runs) -> None:
    same = [runs.with_loss(0.3, name, training={"num_epochs": epochs}) for epochs, name in ((1, "a"), (2, "b"))]
    assert "0.300, the same as #2 b." in write_comparison_verdict(compare_runs(same))
    none = [runs.with_loss(None, name, training={"num_epochs": epochs}) for epochs, name in ((1, "a"), (2, "b"))]
    assert write_comparison_verdict(compare_runs(none)) == "No run has measured the held-out loss."


# --- what can be compared ------------------------------------------------------------------------


def test_losses_of_different_functions_are_not_compared(runs: Runs) -> None:
    ipo = {"kind": "dpo", "loss_type": "ipo"}
    compared = compare_runs([runs.with_loss(0.5, "a"), runs.with_loss(0.1, "b", objective=ipo)])
    assert compared.metric is not None
    assert compared.metric.key == "rewards/accuracies"
    assert compared.cautions[0].startswith("Their losses are different functions, which cannot be compared")


def test_different_objectives_are_compared_by_a_share_that_all_measure(runs: Runs) -> None:
    compared = compare_runs([runs("a"), runs("b", objective={"kind": "orpo"})])
    assert compared.metric is not None
    assert compared.metric.key == "rewards/accuracies"
    sft = runs("c", result={"metrics": {"eval_rewards/accuracies": None}}, objective={"kind": "sft"})
    compared = compare_runs([runs("a2"), sft])
    assert (compared.metric, compared.best) == (None, None)
    assert "the runs are not ranked" in compared.cautions[0]
    assert write_comparison_verdict(compared) == "These runs share no metric by which they could be ranked."
    render_comparison(compared)
    assert to_markdown(compared)


def test_a_loss_that_depends_on_a_setting_and_other_rows_are_cautions(runs: Runs) -> None:
    compared = compare_runs(
        [runs.with_loss(0.5, "a"), runs.with_loss(0.4, "b", objective={"kind": "dpo", "beta": 0.5})]
    )
    assert compared.cautions == (
        "The loss itself depends on objective.beta, so a part of its difference is one of scale.",
    )
    other = runs("c", result={"num_eval_pairs": 40, "data": {"source": "other rows"}}, training={"num_epochs": 2})
    (caution,) = compare_runs([runs("d"), other]).cautions
    assert caution.startswith("The runs did not read the same rows")
    assert "40 to 80 rows are held out" in caution


@pytest.mark.parametrize(
    ("metric", "why", "fix"),
    [
        ("rewards/accuracy", "no objective of these runs", "did you mean `--metric rewards/accuracies`?"),
        ("logps/chosen", "neither its high nor its low values are better", "choose one"),
    ],
)
def test_a_metric_that_cannot_be_compared(runs: Runs, metric: str, why: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compare_runs([runs("a"), runs("b")], metric)
    (finding,) = caught.value.findings
    assert finding.code == "U406"
    assert why in (finding.why or "")
    assert fix in (finding.fix or "")


def test_a_metric_that_no_run_has_measured(runs: Runs) -> None:
    with pytest.raises(RecipeError, match="no run has measured it on held-out rows"):
        compare_runs([runs("a", result={"metrics": {"eval_rewards/margins": None}})], "rewards/margins")


def test_the_wanted_metric_decides_with_or_without_its_prefix(runs: Runs) -> None:
    first = runs("a", result={"metrics": {"eval_rewards/margins": 2.0, "eval_loss": 0.9}})
    second = runs("b", result={"metrics": {"eval_rewards/margins": 1.0, "eval_loss": 0.1}}, training={"num_epochs": 2})
    assert ranks(compare_runs([second, first])) == ["b", "a"]
    assert ranks(compare_runs([second, first], "eval_rewards/margins")) == ["a", "b"]


# --- names and settings --------------------------------------------------------------------------


def test_runs_of_one_recipe_are_told_apart_by_their_directories(runs: Runs) -> None:
    compared = compare_runs(
        [runs("x"), runs("job"), runs("job", training={"num_epochs": 2}), runs("job", training={"num_epochs": 3})]
    )
    assert sorted(run.label for run in compared.runs) == ["job 000002", "job 000003", "job 000004", "x"]


def test_the_runs_of_a_trial_with_several_seeds_have_its_name(runs: Runs) -> None:
    losses = {7: 0.5, 8: 0.6}
    trial = [runs.with_loss(loss, f"job-003-seed{seed}", training={"seed": seed}) for seed, loss in losses.items()]
    assert compare_runs(trial).configurations[0].label == "job-003"
    assert compare_runs(trial[:1]).configurations[0].label == "job-003-seed7"


def test_settings_that_one_recipe_lacks_have_a_dash(runs: Runs) -> None:
    compared = compare_runs([runs("a"), runs("b", model={"path": "owner/model", "adapter": None})])
    rows = {row[0]: row[1:] for row in list_tables(compared)["settings"].rows}
    assert rows["model.adapter.r"] == ["8", "–"]
    assert rows["model.adapter"] == ["–", "null"]


def test_many_runs_have_a_list_of_values_for_each_setting(runs: Runs) -> None:
    compared = compare_runs(
        [
            runs.with_loss(0.1 * n, f"r{n}", training={"num_epochs": 1 + n % 2, "learning_rate": float(f"{n}e-5")})
            for n in range(1, 8)
        ]
    )
    rows = dict(list_tables(compared)["settings"].rows)  # type: ignore[arg-type]
    assert rows["training.num_epochs"] == "2 (4), 1 (3)"
    assert rows["training.learning_rate"].startswith("1e-5 (1), 2e-5 (1), ")


def test_a_long_value_is_cut_and_tags_are_escaped(runs: Runs) -> None:
    compared = compare_runs([runs("a"), runs("b", chat_template="{# <script>alert(1)</script> #}" + "x" * 200)])
    page = render_comparison(compared)
    assert "<script" not in page
    assert "x" * 100 not in page
    assert "&lt;script>" in to_markdown(compared)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-5, "3e-5"),
        (0.1, "0.1"),
        (None, "null"),
        (True, "true"),
        (8, "8"),
        ("auto", "auto"),
        (1e16, "1e16"),
        ([], "[]"),
    ],
)
def test_values_are_shown_as_a_recipe_writes_them(value: Any, text: str) -> None:
    assert show_value(value) == text


# --- plan against measurement --------------------------------------------------------------------


def test_the_plan_is_compared_with_what_was_measured(runs: Runs) -> None:
    (row,) = list_tables(compare_runs([runs(result={"peak_memory_bytes": 2**30, "wall_s": 150.0})]))["plan"].rows
    assert row == ["1", "job", "2.00 GiB", "1.00 GiB", "50% less", "2 min 00 s", "2 min 30 s", "25% more"]


def test_the_time_of_a_resumed_run_is_not_compared(runs: Runs) -> None:
    (run,) = compare_runs([runs(result={"resumed_from_step": 50})]).runs
    assert (run.plan.planned_s, run.plan.wall_s) == (120.0, None)
    assert list_plan_rows(run.plan)[1].deviation == "–"


def test_a_run_without_a_plan_has_dashes(runs: Runs, tmp_path: Path) -> None:
    finished = runs()
    for text in ("{", "[]", '{"prediction": null}'):
        finished.run.plan.write_text(text)
        assert compare_runs([finished]).runs[0].plan.planned_bytes is None
    assert list_plan_rows(PlanFigures(peak_bytes=1.0)) == []


@pytest.mark.parametrize(
    ("planned", "measured", "text"),
    [
        (100, 104, "4% more"),
        (100, 96, "4% less"),
        (100, 100.2, "as planned"),
        (0, 1, "–"),
        (None, 1, "–"),
        (1, None, "–"),
    ],
)
def test_deviations(planned: float | None, measured: float | None, text: str) -> None:
    assert describe_deviation(planned, measured) == text


# --- curves and plots ----------------------------------------------------------------------------


def test_each_run_has_a_line_and_the_best_ones_a_label(runs: Runs) -> None:
    few = compare_runs([runs.with_loss(0.1 * n, f"a{n}", training={"num_epochs": n}) for n in (3, 1, 2)])
    charts = {chart.title: chart for chart in overlay_curves(few)}
    assert list(charts) == ["Held-out loss", "Training loss", "Held-out reward accuracy", "Held-out reward margin"]
    assert [line.label for line in charts["Held-out loss"].lines] == ["#1 0.100", "#2 0.200", "#3 0.300"]
    many = compare_runs([runs.with_loss(0.1 * n, f"b{n}", training={"num_epochs": n}) for n in range(1, 10)])
    lines = overlay_curves(many)[0].lines
    assert [line.is_quiet for line in lines] == [True] * 5 + [False] * 4  # the best ones cover the others
    assert [(line.label or "").split()[0] for line in lines if not line.is_quiet] == ["#1", "#2", "#3", "#4"]
    assert all(line.label is None and not line.markers for line in lines if line.is_quiet)


def test_runs_with_the_same_settings_share_a_colour_and_one_label(runs: Runs) -> None:
    compared = compare_runs(
        [
            runs.with_loss(0.1 + seed / 10, f"a{seed}", training={"seed": seed, "num_epochs": 1 + seed // 2})
            for seed in range(4)
        ]
    )
    lines = overlay_curves(compared)[0].lines
    assert [(line.hue, line.label is not None) for line in lines] == [(0, True), (0, False), (1, True), (1, False)]


def test_steps_of_different_sizes_are_compared_by_epoch(runs: Runs) -> None:
    batches = [runs(f"a{size}", result={"processes": {"pairs_per_step": size}}) for size in (8, 16)]
    chart = overlay_curves(compare_runs(batches))[0]
    assert chart.x_name == "epoch"
    assert [tick.text for tick in chart.x_ticks] == ["0", "0.5", "1"]
    assert "at epoch 1" in chart.description


def test_a_grid_has_parallel_coordinates_with_the_best_on_top(runs: Runs) -> None:
    values = [(1e-6, 0.1, 0.5), (1e-6, 0.2, 0.6), (1e-4, 0.1, 0.3), (1e-4, 0.2, 0.4), (1e-5, 0.1, 0.35)]
    compared = compare_runs(
        [
            runs.with_loss(loss, f"r{n}", objective={"kind": "dpo", "beta": beta}, training={"learning_rate": rate})
            for n, (rate, beta, loss) in enumerate(values)
        ]
    )
    plot = draw_parallel(compared)
    assert plot is not None
    assert [axis.name for axis in plot.axes] == ["objective.beta", "training.learning_rate", "Loss"]
    best = plot.lines[-1]
    assert (best.hue, best.is_quiet) == (0, False)
    ends = [float(line.path.rpartition(" ")[2]) for line in plot.lines]
    assert min(ends) == ends[-1]  # the highest on the page
    ticks = {tick.text: tick.at for tick in plot.axes[1].ticks}
    assert ticks["1e-5"] == pytest.approx((ticks["1e-6"] + ticks["0.0001"]) / 2)  # a logarithmic axis
    beta, rate = draw_settings(compared)
    assert (beta.name, rate.name) == ("objective.beta", "training.learning_rate")
    assert len(rate.dots) == 5
    assert (beta.means.count("L"), rate.means) == (1, "")  # two betas with two and three runs; three rates for five
    assert rate.description == ("Mean loss by training.learning_rate: 0.0001: 0.350, 1e-5: 0.350, 1e-6: 0.550.")


def made_grid(runs: Runs, losses: Sequence[float]) -> Comparison:
    """Three learning rates by three betas."""
    grid = itertools.product((1e-6, 1e-5, 1e-4), (0.1, 0.2, 0.3))
    return compare_runs(
        [
            runs.with_loss(loss, f"r{n}", objective={"kind": "dpo", "beta": beta}, training={"learning_rate": rate})
            for n, ((rate, beta), loss) in enumerate(zip(grid, losses, strict=True))
        ]
    )


def test_settings_have_their_share_of_the_differences(runs: Runs) -> None:
    losses = (0.50, 0.53, 0.48, 0.30, 0.29, 0.32, 0.43, 0.40, 0.40)
    compared = made_grid(runs, losses)
    table = list_tables(compared)["importances"]
    assert [row[0] for row in table.rows] == ["training.learning_rate", "objective.beta"]
    assert [row[3] for row in table.rows] == ["shown to matter", "not shown to matter"]
    assert table.rows[0][1] == "95%"
    assert table.note.startswith("Shown to matter: training.learning_rate (95%). ")
    html = render_comparison(compared)
    assert f'aria-label="Bar to 95%, mark at {table.rows[0][2]}"' in html
    assert html.count('class="bar"') == 2
    assert r"| training.learning\_rate | 95% |" in to_markdown(compared).replace("learning_rate", r"learning\_rate")


def test_pure_noise_shows_no_setting_to_matter(runs: Runs) -> None:
    compared = made_grid(runs, (0.53, 0.41, 0.58, 0.97, 0.93, 0.26, 0.64, 0.33, 0.83))
    table = list_tables(compared)["importances"]
    assert {row[3] for row in table.rows} == {"not shown to matter"}
    assert table.note.startswith("No setting is shown to matter: chance alone reaches shares like these.")


def test_few_runs_have_no_plots_of_settings(runs: Runs) -> None:
    compared = compare_runs([runs.with_loss(0.1 * n, f"a{n}", training={"num_epochs": n}) for n in (1, 2, 3)])
    assert (draw_parallel(compared), draw_settings(compared)) == (None, [])
    assert "importances" not in list_tables(compared)


def test_words_and_missing_values_are_on_an_axis_too(runs: Runs) -> None:
    schedules = ("cosine", "linear", "constant", "linear")
    adapters = ({}, {}, {"adapter": None}, {"adapter": {"kind": "lora", "r": 8, "alpha": 99}})
    compared = compare_runs(
        [
            runs.with_loss(0.1 * n, f"a{n}", model=adapter, training={"lr_scheduler": schedule})
            for n, (schedule, adapter) in enumerate(zip(schedules, adapters, strict=True), 1)
        ]
    )
    compared = replace(compared, settings=("training.lr_scheduler", "model.adapter.r"))
    schedule, rank = draw_settings(compared)
    assert [tick.text for tick in schedule.x_ticks] == ["constant", "cosine", "linear"]
    assert [tick.text for tick in rank.x_ticks] == ["8", "–"]
    assert schedule.description == "Mean loss by training.lr_scheduler: cosine: 0.100, linear: 0.300, constant: 0.300."


def test_runs_that_differ_only_in_the_seed_have_a_page_too(runs: Runs) -> None:
    compared = compare_runs([runs.with_loss(0.1 * seed, f"a{seed}", training={"seed": seed}) for seed in (1, 2)])
    # s = 0.05 · √2 of two values; 12.7062 · s / √2 = 0.635
    assert write_comparison_verdict(compared) == (
        "The 2 runs differ only in their seeds: their mean held-out loss is 0.150 ± 0.635, and there is no other "
        "configuration to compare it with."
    )
    page = Page(render_comparison(compared))
    assert "Differences between the recipes" not in page.text


# --- files ---------------------------------------------------------------------------------------


def test_the_page_is_whole_and_loads_nothing(runs: Runs) -> None:
    compared = compare_runs(
        [runs.with_loss(0.1 * n, f"a{n}", training={"num_epochs": n, "seed": n}) for n in range(1, 9)]
    )
    html = render_comparison(compared)
    page = Page(html)
    assert not page.named("script") + page.named("link") + page.named("img")
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for attrs in page.named("a")} == {f"#{name}" for name in ids}
    assert all(attrs.get("aria-label") for attrs in page.named("svg"))
    assert "8 runs" in page.text
    assert write_comparison_verdict(compared).split(".")[0] in page.text


def test_csv_has_a_line_for_each_run_with_plain_numbers(runs: Runs) -> None:
    seeds = [
        runs.with_loss(loss, name, training={"seed": seed}) for loss, name, seed in ((0.5, "a", 3), (0.25, "b", 7))
    ]
    rows = list(csv.DictReader(io.StringIO(to_csv(compare_runs(seeds)))))
    assert [(row["run"], row["rank"], row["eval_loss"], row["training.seed"]) for row in rows] == [
        ("a", "1", "0.5", "3"),
        ("b", "1", "0.25", "7"),
    ]
    assert rows[0]["peak_memory_bytes"] == "1900000000"
    assert rows[0]["path"].endswith("a/20260102T030405Z-000001")


def test_markdown_has_the_verdict_and_escapes_bars(runs: Runs) -> None:
    first = runs("a", chat_template="{# a|b #}x")
    text = to_markdown(compare_runs([first, runs("b", chat_template="{# c #}x")]))
    assert text.startswith("# Comparison of 2 runs\n\n#1 a is best by the held-out loss: 0.500, the same as #2 b.")
    assert "{# a\\|b #}x" in text
