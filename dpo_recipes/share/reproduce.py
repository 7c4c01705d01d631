"""Does the job of a finished run again, and compares the two."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes.engine.checkpoints.folder import read_facts
from dpo_recipes.errors import Interrupted
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.jobs.chain_file import validate_recipe
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.resume import is_running
from dpo_recipes.run_dir import RunDirectory, create_directory, new_directory, read_json_lines, write_json, written_to
from dpo_recipes.run_inputs import RunInputs
from dpo_recipes.share.causes import likely_cause
from dpo_recipes.share.comparison import (
    Comparison,
    compare_inputs,
    compare_losses,
    compare_reference,
    compare_results,
    compare_weights,
    machine_changes,
)
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions, run_recipe

FOLDER = "reproductions"
"""The folder below the output directory. `dpo-recipe run` does not resume what lies there."""


@dataclass(frozen=True)
class ReproduceOptions:
    """What the command line says about a reproduction."""

    steps: int | None = None
    """Compare only the steps up to this one, and end the second run after it."""
    trust_remote_code: bool = False
    reward_functions: tuple[str, ...] = ()


def reproduce(finished: FinishedRun, output_dir: Path, on_event: EventHandler, options: ReproduceOptions) -> Comparison:
    """Do the job of a run again, in a directory below `output_dir`, and compare inputs, reference, losses, metrics and
    weights. The reference is computed anew. If inputs differ, the second run ends before its first step.

    A reproduction of the same run that was interrupted is resumed. Raises `RecipeError` if the recipe is not valid here
    any more, and what `run_recipe` raises.
    """
    validated = validate_recipe(finished.run.resolved_recipe, _as_decided(finished), "reproduce")
    again = _find_unfinished(finished.run, output_dir, options.steps) or _new(finished, output_dir, options.steps)
    stop = _EarlyEnd(finished.run, again, _last_step(finished, options.steps))
    processes = finished.result.processes.num_processes or 1
    flags = LaunchFlags(processes if processes > 1 else None)
    run_options = RunOptions(options.trust_remote_code, 0, flags, reward_functions=options.reward_functions)
    try:
        run_recipe(_without_text(validated, finished), stop.watch(on_event), run_options, directory=again)
    except Interrupted:
        if not stop.was_asked:
            raise
    comparison = compare_runs(finished, again, _last_step(finished, options.steps))
    with written_to(again):
        write_json(again.comparison, comparison.to_json())
    if stop.was_asked:  # nothing resumes it
        shutil.rmtree(again.checkpoints, ignore_errors=True)
    return comparison


def compare_runs(finished: FinishedRun, again: RunDirectory, last_step: int | None) -> Comparison:
    """Compare a run with a second one of the same job, which may have ended early."""
    before, now = RunInputs.read(finished.run.inputs), RunInputs.read(again.inputs)
    device, dtype = finished.result.model.device, finished.result.model.dtype or "float32"
    same = now is None or device == now.computation.device
    changes = tuple(machine_changes(finished.run, again))
    parts = [
        *compare_inputs(before, now),
        *compare_reference(before, now, dtype, same_device=same),
        *compare_losses(finished.run, again, dtype, same_device=same, last_step=last_step),
        *compare_results(finished.result, again, dtype, same_device=same),
        *compare_weights(finished.run, again),
    ]
    return Comparison(finished.run.path, again.path, tuple(parts), changes, likely_cause(parts, changes, device))


class _EarlyEnd:
    """Ends the second run if its inputs differ, or after the last step that is compared."""

    def __init__(self, run: RunDirectory, again: RunDirectory, last_step: int | None) -> None:
        self._run, self._again, self._last_step = run, again, last_step
        self.was_asked = False

    def watch(self, on_event: EventHandler) -> EventHandler:
        """A handler that passes events on, and asks the run to stop once."""

        def handle(event: dict[str, Any]) -> bool | None:
            if on_event(event):
                return True
            if not self.was_asked and self._is_enough(event):
                self.was_asked = True
                return True
            return None

        return handle

    def _is_enough(self, event: dict[str, Any]) -> bool:
        if event["event"] == "step":
            return self._last_step is not None and event["step"] >= self._last_step
        if event["event"] == "stage" and event["name"] == "train":
            parts = compare_inputs(RunInputs.read(self._run.inputs), RunInputs.read(self._again.inputs))
            return any(part.state == "different" for part in parts)
        return False


def _as_decided(finished: FinishedRun) -> list[str]:
    """The settings that the run has used where its recipe leaves them to the free memory or the hub, as overrides."""
    recipe, result = finished.recipe, finished.result
    values: dict[str, Any] = {}
    if recipe.hardware.fit is True:
        decided = read_facts(finished.run.checkpoints) or {}
        values = {f"training.{name}": value for name, value in decided.get("training", {}).items()}
        values["training.micro_batch_size"] = result.processes.micro_batch_size
        values["training.gradient_accumulation_steps"] = result.processes.gradient_accumulation_steps
        values["hardware.fit"] = False
    if result.processes.strategy and (result.processes.num_processes or 1) > 1:
        values["launch.strategy"] = result.processes.strategy
    inputs = RunInputs.read(finished.run.inputs)
    if inputs is not None and inputs.commit is not None and not Path(recipe.model.path).is_absolute():
        values["model.revision"] = inputs.commit
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def _without_text(validated: Validated, finished: FinishedRun) -> Validated:
    """The same job with the text of the recipe as it was given, for the second run directory."""
    try:
        text = finished.run.given_recipe.read_text(encoding="utf-8")
    except OSError:
        return validated
    return replace(validated, composed=replace(validated.composed, text=text))


def _last_step(finished: FinishedRun, steps: int | None) -> int | None:
    """The first logged step from a number on; None if all steps are compared."""
    if steps is None:
        return None
    logged = [row["step"] for row in read_json_lines(finished.run.metrics) if "loss" in row]
    return next((step for step in sorted(logged) if step >= steps), None)


def _new(finished: FinishedRun, output_dir: Path, steps: int | None) -> RunDirectory:
    again = RunDirectory(new_directory(output_dir / FOLDER, finished.recipe.name))
    create_directory(again.path, output_dir)
    with written_to(again):
        write_json(again.reproduction, {"of": str(finished.run.path), "steps": steps})
    return again


def _find_unfinished(run: RunDirectory, output_dir: Path, steps: int | None) -> RunDirectory | None:
    """The newest reproduction of a run that was interrupted before the comparison."""
    wanted = {"of": str(run.path), "steps": steps}
    for path in sorted((output_dir / FOLDER).glob("*/*-*"), reverse=True):
        again = RunDirectory(path)
        if not again.comparison.exists() and again.reproduction.is_file() and not is_running(again):
            try:
                if json.loads(again.reproduction.read_text(encoding="utf-8")) == wanted:
                    return again
            except (OSError, ValueError):
                continue
    return None
