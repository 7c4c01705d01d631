"""An evaluation from the parent's side: its directory, the worker that executes it, and its result."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpo_recipes.cache import content_key
from dpo_recipes.evaluate.result import EvaluationResult, SampleResult
from dpo_recipes.launch.job import ProcessJob, spawn, worker_arguments
from dpo_recipes.launch.local import device_environment
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory, create_directory, write_json, written_to
from dpo_recipes.supervise import EventHandler, follow

FOLDER = "evaluations"
"""The folder of evaluations below the output directory."""


def evaluation_directory(section: Evaluate, output_dir: Path) -> Path:
    """The directory of an evaluation. It is the same for the same settings."""
    first = re.sub(r"[^\w.-]+", "-", section.models[0].rstrip("/").rpartition("/")[2])
    return output_dir / FOLDER / f"{first}-{content_key(section.model_dump(mode='json'))[:6]}"


def run_evaluation(
    section: Evaluate,
    directory: Path,
    on_event: EventHandler,
    *,
    trust_remote_code: bool = False,
    reward_functions: Sequence[str] = (),
) -> EvaluationResult:
    """Evaluate in a worker process and return the result, which replaces an earlier one in the directory.

    What an earlier evaluation computed, such as one that was killed, comes from the cache. `on_event` gets each event
    of the worker, after a stage that names the directory. `reward_functions` are the functions that the person allows
    as sources of rewards, as `/path/file.py:name`. Raises what `evaluate.execute.execute_evaluation` raises, `RunError`
    T601, T602, T603, T605 and T615 (another process works in the directory), `Interrupted`, and
    `supervise.WorkerBug`.
    """
    run = RunDirectory(directory)
    allowed = {"trust_remote_code": trust_remote_code, "reward_functions": reward_functions}
    _work(run, run.evaluation, section, on_event, allowed)
    return EvaluationResult.read(run.result)


def run_sampling(
    section: Sample,
    directory: Path,
    on_event: EventHandler,
    *,
    trust_remote_code: bool = False,
    reward_functions: Sequence[str] = (),
) -> SampleResult:
    """Sample preference data into `RunDirectory.sampled_rows` in a worker process, in the same way. Raises what
    `evaluate.sampling.execute_sampling` and `run_evaluation` raise."""
    run = RunDirectory(directory)
    allowed = {"trust_remote_code": trust_remote_code, "reward_functions": reward_functions}
    _work(run, run.sampling, section, on_event, allowed)
    return SampleResult.read(run.result)


def _work(
    run: RunDirectory, settings: Path, section: Evaluate | Sample, on_event: EventHandler, allowed: dict[str, Any]
) -> None:
    """Write the settings and let a worker execute the directory, with what the person has `allowed`."""
    create_directory(run.path, run.path.parent)
    with contextlib.ExitStack() as stack:
        with written_to(run):
            stack.enter_context(file_lock(run.command_lock))
            run.result.unlink(missing_ok=True)
            write_json(settings, section.model_dump(mode="json"))
            run.clear_events()
        on_event({"event": "stage", "name": settings.stem, "detail": os.path.relpath(run.path)})
        command = [sys.executable, *worker_arguments(run, **allowed)]
        follow(ProcessJob(spawn(run, command, device_environment(section.device))), run, on_event)
