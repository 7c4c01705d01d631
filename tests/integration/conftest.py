"""Runs the worker in this process, so that the heavy libraries are loaded once for all tests."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import worker
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.workflow import prepare_run


@dataclass
class Outcome:
    """What one worker left behind."""

    exit_code: int
    run: RunDirectory

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run.events.read_text().splitlines()]

    @property
    def codes(self) -> list[str]:
        return [f["code"] for event in self.events if event["event"] == "error" for f in event["findings"]]

    @property
    def result(self) -> dict[str, Any]:
        return json.loads(self.run.result.read_text())


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """Validates a recipe's text and executes it here."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(text: str, *overrides: str, resume: bool = False) -> Outcome:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        validated = validate(path, [f"output_dir={tmp_path / 'runs'}", *overrides])
        directory = prepare_run(validated, resume=resume)[0].run
        return Outcome(worker.main([str(directory.path)]), directory)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
