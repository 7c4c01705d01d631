"""The pages in headless Chromium at the widths of a phone, a tablet and a desktop, light and dark.

Nothing is wider than the page, text has enough contrast, everything that scrolls can be reached with the keyboard, and
nothing is logged. Skipped where there is no Chromium. Debian has it as `chromium`.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_time import make_runs
from synthetic_runs import make_recipe, make_run

from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.report.comparison import compare_runs
from dpo_recipes.report.comparison_page import render_comparison
from dpo_recipes.report.html import render_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (360, 768, 1280)
SCHEMES = ("light", "dark")
MEASURE = """
function luminance(rgb) {
  const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function numbers(color) { return color.match(/[\\d.]+/g).map(Number); }
function background(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const color = numbers(view.getComputedStyle(e).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color.slice(0, 3);
  }
  return [255, 255, 255];
}
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const pale = [], wide = [], unreachable = [];
  for (const element of page.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const style = view.getComputedStyle(element);
    if (own && element.tagName !== "title" && style.visibility === "visible" && element.getClientRects().length) {
      const color = numbers(element.closest("svg") ? style.fill : style.color).slice(0, 3);
      const [high, low] = [luminance(color), luminance(background(element, view))].sort((a, b) => b - a);
      const contrast = (high + 0.05) / (low + 0.05);
      if (contrast < 4.5) pale.push([element.tagName, element.textContent.slice(0, 30), contrast.toFixed(2)]);
    }
    if (element.scrollWidth > element.clientWidth + 1 && ["auto", "scroll"].includes(style.overflowX)
        && element.tabIndex < 0) unreachable.push(element.className);
    const box = element.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 && !element.closest(".scroll, pre, svg")) wide.push(element.tagName);
  }
  return {width: root.clientWidth, overflow: root.scrollWidth - root.clientWidth, pale, wide, unreachable,
          paper: view.getComputedStyle(page.body).backgroundColor};
}
window.addEventListener("load", () => {
  const out = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("out").textContent = JSON.stringify(out);
});
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def browse(path: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=10000"]
    return subprocess.run(
        [*command, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def measure(page: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What each combination of width and scheme shows. The page's policy forbids scripts, so it is taken out here."""
    bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert count == 1
    frames = "".join(
        f'<iframe width="{width}" height="900" style="color-scheme: {scheme}; border: 0" srcdoc="{html.escape(bare)}">'
        "</iframe>"
        for scheme in SCHEMES
        for width in WIDTHS
    )
    outer = tmp_path / "outer.html"
    outer.write_text(f'<meta charset="utf-8"><script>{MEASURE}</script>{frames}<p id="out"></p>', encoding="utf-8")
    done = browse(outer, tmp_path)
    found = re.search(r'<p id="out">(.+?)</p>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def run_report(folder: Path) -> str:
    sample = {"prompt": "Why?", "base": "x" * 300, "tuned": "Because.", "chosen": "Yes.", "rejected": "No."}
    steps = [{"step": 10, "answers": ["First."]}, {"step": 20, "answers": ["Second."]}]
    subsets = {"eval": {"helpful": 40, "a_rather_long_name_of_a_subset_without_any_space": 40}}
    metrics = {"eval_rewards/accuracies/helpful": 0.7}
    run = make_run(folder, make_recipe(), samples=[sample], answers_by_step=steps, subsets=subsets, metrics=metrics)
    return render_run(open_run(run.path))


def few_runs(folder: Path) -> str:
    names = ("short", "a-recipe-with-a-long-name-that-says-everything-about-its-settings")
    runs = [make_run(folder, make_recipe(name, training={"num_epochs": n})) for n, name in enumerate(names, 1)]
    return render_comparison(compare_runs([open_run(run.path) for run in runs]))


def many_runs(folder: Path) -> str:
    runs: list[FinishedRun] = [open_run(path) for path in make_runs(folder, 20)]
    return render_comparison(compare_runs(runs))


@pytest.mark.parametrize("make", [run_report, few_runs, many_runs])
def test_pages_are_readable_at_all_widths_in_both_schemes(make: Callable[[Path], str], tmp_path: Path) -> None:
    page = make(tmp_path / "runs")
    measured = measure(page, tmp_path)
    assert len(measured) == len(WIDTHS) * len(SCHEMES)
    papers = {frame["paper"] for frame in measured}
    assert len(papers) == 2, papers  # the dark scheme is in effect
    for frame in measured:
        for fault in ("pale", "wide", "unreachable"):
            assert frame[fault] == [], (frame["width"], frame["paper"])
        assert frame["overflow"] == 0, frame["width"]
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    done = browse(path, tmp_path)
    assert "CONSOLE" not in done.stderr
    assert "<h1>" in done.stdout


def test_a_page_that_is_too_wide_and_too_pale_would_be_seen(tmp_path: Path) -> None:
    page = run_report(tmp_path / "runs").replace("</main>", '<p style="width: 2000px; color: #bbb">Pale.</p></main>')
    light = measure(page, tmp_path)[0]
    assert light["overflow"] > 1000
    assert light["wide"] == ["P"]
    assert [fault[:2] for fault in light["pale"]] == [["P", "Pale."]]
