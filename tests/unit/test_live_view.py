"""The live view as a terminal shows it: drawn in place, below the lines that stay."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dpo_recipes.cli import live_view
from dpo_recipes.cli.live_view import sparkline
from dpo_recipes.cli.progress import Progress


class Terminal(io.TextIOWrapper):
    """A terminal of a given width that knows line breaks, `cursor up` and `erase below`."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.written = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text.encode(self.encoding)  # as a real one would
        self.written += text
        return len(text)

    @property
    def screen(self) -> list[str]:
        lines, row = [""], 0
        for part in re.split(r"(\n|\x1b\[\d+A|\x1b\[J)", self.written):
            if part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part == "\x1b[J":
                lines[row:] = [""]
            elif part.startswith("\x1b["):
                row -= int(part[2:-1])
                assert row >= 0
            else:
                lines[row] += part
        return [line for line in lines if line]


def use(monkeypatch: pytest.MonkeyPatch, terminal: Terminal, columns: int = 100) -> Terminal:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(live_view.shutil, "get_terminal_size", lambda: SimpleNamespace(columns=columns))
    return terminal


def begin() -> Progress:
    batch = SimpleNamespace(describe=lambda noun: f"8 {noun}s a step", num_nodes=1)
    plan = SimpleNamespace(launch=SimpleNamespace(batch=batch), warnings=())
    progress = Progress()
    progress.on_event({"event": "run", "dir": "/runs/one", "plan": plan, "objective": "dpo", "resumed": False})
    return progress


def step(number: int, loss: float, **metrics: Any) -> dict[str, Any]:
    metrics = {"loss": loss, "rewards/accuracies": 0.5, **metrics}
    return {"event": "step", "step": number, "total": 4, "metrics": metrics, "tokens_per_second": 1234.5, "eta_s": 65.0}


def test_each_step_is_drawn_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch, Terminal())
    progress = begin()
    progress.on_event(step(1, 0.7))
    progress.on_event(step(2, 0.6, peak_memory_bytes=2**30))
    assert terminal.screen == [
        "run       /runs/one",
        "launch    8 pairs a step",
        "train     ━━━━━━━━━━━━────────────  50%  step 2/4  ETA 1:05",
        "          loss 0.600 █▁  accuracy 50.0%",
        "          1,234 tokens/s  peak 1.00 GiB",
    ]


def test_notes_stand_above_and_the_next_stage_below(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch, Terminal())
    progress = begin()
    progress.on_event(step(1, 0.7))
    progress.on_event({"event": "note", "text": "something"})
    assert terminal.screen[2:4] == [
        "          something",
        "train     ━━━━━━──────────────────  25%  step 1/4  ETA 1:05",
    ]
    progress.on_event({"event": "stage", "name": "evaluate", "detail": "the tuned model"})
    assert terminal.screen[2:] == [
        "          something",
        "train     ━━━━━━──────────────────  25%  step 1/4  ETA 1:05",
        "          loss 0.700  accuracy 50.0%",
        "          1,234 tokens/s",
        "evaluate  the tuned model",
    ]


def test_a_share_of_a_stage_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch, Terminal())
    progress = begin()
    for done in (0.25, 0.5):
        progress.on_event({"event": "share", "name": "reference", "detail": "train", "done": done, "eta_s": 5.0})
    assert terminal.screen[2:] == ["reference ━━━━━━━━━━━━────────────  50%  train  ETA 0:05"]


def test_lines_are_cut_at_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch, Terminal(), columns=30)
    progress = begin()
    progress.on_event(step(1, 0.7))
    progress.on_event(step(2, 0.6))
    assert [len(line) for line in terminal.screen[2:]] == [29, 29, 24]


def test_a_terminal_without_the_characters_gets_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch, Terminal("ascii"))
    progress = begin()
    progress.on_event(step(1, 0.7))
    progress.on_event(step(2, 0.6))
    assert terminal.screen[2:4] == [
        "train     ############............  50%  step 2/4  ETA 1:05",
        "          loss 0.600  accuracy 50.0%",
    ]


def test_sparklines() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3, 3]) == "▁▁▁"
    assert sparkline(list(range(100)), width=4) == "▁▃▆█"
    assert sparkline([0.0, 10.0, 0.0, 10.0], width=2) == "▁▁"
