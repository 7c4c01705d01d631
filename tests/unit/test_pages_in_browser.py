"""The pages in headless Chromium at the widths of a phone, a tablet and a desktop, light and dark, and in print.

Nothing is wider than the page, text has enough contrast, everything that scrolls can be reached with the keyboard, and
nothing is logged. In print nothing needs a click, and no chart or row is on two sheets. Skipped where there is no
Chromium. Debian has it as `chromium`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CHROMIUM, assert_printable, assert_readable, browse, measure, measure_print
from report_time import make_runs
from sampled import make_samples
from synthetic_runs import make_recipe, make_run

from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.report.chain_page import StepSection, render_chain
from dpo_recipes.report.comparison import compare_runs
from dpo_recipes.report.comparison_page import render_comparison
from dpo_recipes.report.html import render_run
from dpo_recipes.report.sampling_page import render_sampling
from dpo_recipes.report.table import Table

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def run_report(folder: Path) -> str:
    sample = {"prompt": "Why?", "base": "x" * 300, "tuned": "Because.", "chosen": "Yes.", "rejected": "No."}
    steps = [{"step": 10, "answers": ["First."]}, {"step": 20, "answers": ["Second."]}]
    subsets = {"eval": {"helpful": 40, "a_rather_long_name_of_a_subset_without_any_space": 40}}
    metrics = {"eval_rewards/accuracies/helpful": 0.7}
    run = make_run(folder, make_recipe(), samples=[sample], answers_by_step=steps, subsets=subsets, metrics=metrics)
    return render_run(open_run(run.path))


def guarded_run(folder: Path) -> str:
    alert = {"guard": "chance", "code": "T656", "step": 80, "action": "warn", "what": "it guesses"}
    why = "it learns nothing (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)"
    guards = {"watched": ["chance"], "alerts": [{**alert, "why": why, "fix": "see `dpo-recipe data`"}]}
    run = make_run(folder, make_recipe(), guards=guards)
    return render_run(open_run(run.path))


def chain(folder: Path) -> str:
    table = Table("Steps", ["Step", "State", "Result"], [["sft", "finished", "loss 1.2"]] * 30, words=(1, 2))
    steps = [
        StepSection("sft", "Supervised fine-tuning", {}, "", [table], "steps/sft/report.html", "steps/sft/model"),
        StepSection("dpo", "DPO", {"model.path": "sft"}, "it was not begun", [], None, None),
    ]
    return render_chain("sft-then-dpo", "failed", "The chain ended after its first step.", [table], steps)


def samples(folder: Path) -> str:
    return render_sampling(*make_samples(folder))


def few_runs(folder: Path) -> str:
    names = ("short", "a-recipe-with-a-long-name-that-says-everything-about-its-settings")
    runs = [make_run(folder, make_recipe(name, training={"num_epochs": n})) for n, name in enumerate(names, 1)]
    return render_comparison(compare_runs([open_run(run.path) for run in runs]))


def many_runs(folder: Path) -> str:
    runs: list[FinishedRun] = [open_run(path) for path in make_runs(folder, 20)]
    return render_comparison(compare_runs(runs))


@pytest.mark.parametrize("make", [run_report, guarded_run, few_runs, many_runs, chain, samples])
def test_pages_are_readable_at_all_widths_in_both_schemes(make: Callable[[Path], str], tmp_path: Path) -> None:
    page = make(tmp_path / "runs")
    assert_readable(page, tmp_path)
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    done = browse(path, tmp_path)
    assert "CONSOLE" not in done.stderr
    assert "<h1>" in done.stdout


@pytest.mark.parametrize("make", [run_report, guarded_run, few_runs, many_runs, chain, samples])
def test_pages_can_be_printed(make: Callable[[Path], str], tmp_path: Path) -> None:
    page = make(tmp_path / "runs")
    assert_printable(page, tmp_path)
    path, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(page, encoding="utf-8")
    browse(path, tmp_path, f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF")


def test_a_page_that_cannot_be_printed_would_be_seen(tmp_path: Path) -> None:
    page = run_report(tmp_path / "runs")
    rows = "<tr><td>Torn.</td></tr>" * 3
    page = page.replace("</main>", f'<table style="width: 2000px">{rows}</table><nav>Click.</nav></main>')
    page = page.replace("nav, summary { display: none; }", "").replace("break-inside: avoid", "line-height: 30rem")
    page = page.replace("</main>", '<a href="https://a.org">Here.</a></main>').replace("a:not(", "b:not(")
    printed = measure_print(page, tmp_path)
    assert printed["torn"]
    assert "NAV" in printed["interactive"]
    assert "SUMMARY" in printed["interactive"]
    assert "TABLE" in printed["beyond"]
    assert printed["nameless"] == ["Here."]


def test_a_page_that_is_too_wide_and_too_pale_would_be_seen(tmp_path: Path) -> None:
    page = run_report(tmp_path / "runs").replace("</main>", '<p style="width: 2000px; color: #bbb">Pale.</p></main>')
    light = measure(page, tmp_path)[0]
    assert light["overflow"] > 1000
    assert light["wide"] == ["P"]
    assert [fault[:2] for fault in light["pale"]] == [["P", "Pale."]]
