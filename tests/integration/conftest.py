"""Runs the worker in this process, so that the heavy libraries are loaded once for all tests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import worker
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.evaluate.result import EvaluationResult, SampleResult
from dpo_recipes.evaluation_stages import execute_directory
from dpo_recipes.events import EventLog
from dpo_recipes.jobs.steps import evaluate, sample, train
from dpo_recipes.preparation import prepare_run
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.run_dir import RunDirectory, write_json
from dpo_recipes.section import Section
from dpo_recipes.supervise import explain_failure


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


@pytest.fixture(autouse=True, scope="session")
def _equal_plans_are_simulated_once() -> Iterator[None]:
    """Most tests run the same few recipes, and half of a tiny run's time is the simulation of its plan."""
    from dpo_recipes.fit.planner import duration, memory
    from dpo_recipes.fit.simulation.passes import simulate

    known: dict[Any, Any] = {}

    def simulate_once(meta_model: Any, batch: Any, rates: Any, *, trains: bool = True) -> Any:
        recipe = meta_model.recipe
        sections = (recipe.model, recipe.training, recipe.objective, recipe.launch)
        settings = tuple(section.model_dump_json() for section in sections)
        base = (meta_model.config.to_json_string(), repr(meta_model.location), meta_model.own_quantization)
        key = (settings, base, meta_model.device, meta_model.dtype, batch, rates, trains)
        if key not in known:
            known[key] = simulate(meta_model, batch, rates, trains=trains)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "simulate", simulate_once)
        patch.setattr(duration, "simulate", simulate_once)
        yield


@pytest.fixture
def steps_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The steps of chains are executed in this process."""

    def run_here(validated: Validated, on_event: Any, options: Any, *, directory: RunDirectory) -> None:
        prepare_run(validated, run=directory)
        code = worker.main([str(directory.path)])
        if code:
            raise explain_failure(code, directory)

    def answer_here(settings: Path, section: Section, directory: Path, allowed: dict[str, Any]) -> RunDirectory:
        run = RunDirectory(directory)
        directory.mkdir(exist_ok=True)
        write_json(settings, section.model_dump(mode="json"))
        with EventLog(run.events) as events:
            execute_directory(run, events, **allowed)
        return run

    def evaluate_here(section: Evaluate, directory: Path, on_event: Any, **allowed: Any) -> EvaluationResult:
        settings = RunDirectory(directory).evaluation
        return EvaluationResult.read(answer_here(settings, section, directory, allowed).result)

    def sample_here(section: Sample, directory: Path, on_event: Any, **allowed: Any) -> SampleResult:
        settings = RunDirectory(directory).sampling
        return SampleResult.read(answer_here(settings, section, directory, allowed).result)

    monkeypatch.setattr(train, "run_recipe", run_here)
    monkeypatch.setattr(evaluate.EvaluateStep, "compute", staticmethod(evaluate_here))
    monkeypatch.setattr(sample.SampleStep, "compute", staticmethod(sample_here))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has this process get SIGTERM at the end of a step, once; the run ends after the next."""
    original = MetricsCallback.on_step_end

    def arrange(step: int) -> None:
        def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            original(self, args, state, control, **kwargs)
            if state.global_step == step:
                monkeypatch.setattr(MetricsCallback, "on_step_end", original)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(MetricsCallback, "on_step_end", on_step_end)

    return arrange
