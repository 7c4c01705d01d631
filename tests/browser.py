"""Looks at pages in headless Chromium: as on a phone, a tablet and a desktop, light and dark, and in print."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (360, 768, 1280)
SCHEMES = ("light", "dark")
SHEET = (680, 1009)
MEASURE = """
function luminance(rgb) {
  const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function numbers(color) {
  const found = color.match(/[\\d.]+/g).map(Number);
  return color.startsWith("color(srgb") ? found.map((v, i) => i < 3 ? v * 255 : v) : found;  // of color-mix()
}
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
function pages(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const all = [...page.body.querySelectorAll("*")], shown = all.filter(e => e.getClientRects().length);
  return {
    sheets: Math.round(page.body.scrollWidth / frame.clientWidth),
    paper: view.getComputedStyle(page.body).backgroundColor,
    torn: shown.filter(e => e.matches("figure, tr") && e.getClientRects().length > 1).map(e => e.textContent.trim()),
    interactive: shown.filter(e => e.matches("nav, button, summary, input")).map(e => e.tagName),
    nameless: shown.filter(e => e.matches("a") && !e.getAttribute("href").startsWith("#")
      && !e.textContent.includes(e.getAttribute("href")) && view.getComputedStyle(e, "::after").content === "none")
      .map(e => e.textContent),
    cut: shown.filter(e => !e.closest("svg") && view.getComputedStyle(e).overflowX !== "visible"
      && e.scrollWidth > e.clientWidth + 1).map(e => e.className),
    beyond: shown.filter(e => e.matches("table, pre, svg, p") && e.clientWidth > frame.clientWidth).map(e => e.tagName),
    folded: all.filter(e => e.closest("details") && !e.matches("summary") && !shown.includes(e)).length,
  };
}
window.addEventListener("load", () => {
  const out = [...document.querySelectorAll("iframe")].map(frame => (frame.className ? pages : measure)(frame));
  document.getElementById("out").textContent = JSON.stringify(out);
});
"""


def browse(path: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=10000"]
    return subprocess.run(
        [*command, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def measure(page: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What each combination of width and scheme shows."""
    bare = _without_policy(page)
    frames = "".join(
        f'<iframe width="{width}" height="900" style="color-scheme: {scheme}; border: 0" srcdoc="{html.escape(bare)}">'
        "</iframe>"
        for scheme in SCHEMES
        for width in WIDTHS
    )
    return _run_script(frames, tmp_path)


def measure_print(page: str, tmp_path: Path) -> dict[str, Any]:
    """What the page shows with its rules for print, also if the reader prefers dark. Columns of the height of a sheet
    (A4 without margins of 15 mm, at 96 pixels an inch) stand for sheets: the browser breaks both by the same rules."""
    printed = _without_policy(page).replace("@media print", "@media all").replace("@media screen", "@media not all")
    width, height = SHEET
    sheets = f"width: {width}px; height: {height}px; margin: 0; columns: {width}px; column-fill: auto; column-gap: 0"
    printed = printed.replace("</head>", f"<style>body {{ {sheets} }}</style></head>")
    frame = f'<iframe class="print" width="{width}" height="{height}" style="color-scheme: dark; border: 0"'
    (out,) = _run_script(f'{frame} srcdoc="{html.escape(printed)}"></iframe>', tmp_path)
    return out


def assert_readable(page: str, tmp_path: Path) -> None:
    """Nothing is too wide or too pale at any width in either scheme, and everything that scrolls can be reached."""
    measured = measure(page, tmp_path)
    assert len(measured) == len(WIDTHS) * len(SCHEMES)
    papers = {frame["paper"] for frame in measured}
    assert len(papers) == 2, papers  # the dark scheme is in effect
    for frame in measured:
        for fault in ("pale", "wide", "unreachable"):
            assert frame[fault] == [], (fault, frame["width"], frame["paper"], frame[fault])
        assert frame["overflow"] == 0, frame["width"]


def assert_printable(page: str, tmp_path: Path) -> None:
    """In print nothing needs a click, is cut off, or is torn apart between two sheets."""
    printed = measure_print(page, tmp_path)
    assert printed.pop("sheets") > 1
    white = "rgb(255, 255, 255)"
    faults = {fault: [] for fault in ("torn", "interactive", "nameless", "cut", "beyond")}
    assert printed == {"paper": white, "folded": 0, **faults}


def _without_policy(page: str) -> str:
    """The page without its policy, which forbids scripts."""
    bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert count == 1
    return bare


def _run_script(frames: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What the script finds in each frame."""
    outer = tmp_path / "outer.html"
    outer.write_text(f'<meta charset="utf-8"><script>{MEASURE}</script>{frames}<p id="out"></p>', encoding="utf-8")
    done = browse(outer, tmp_path)
    found = re.search(r'<p id="out">(.+?)</p>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
