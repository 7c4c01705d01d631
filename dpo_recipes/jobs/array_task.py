"""The process of one task of a SLURM array: it executes one run of a sweep, as a command would.

`python -m dpo_recipes.jobs.array_task SWEEP NUMBER`, where the number is the index of the run. The task that ends the
last run also writes the result of the sweep, so that no command needs to wait for it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RESUMABLE, DpoRecipeError, Interrupted
from dpo_recipes.jobs.array_files import ArrayFiles
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.keep import remove_all_but
from dpo_recipes.jobs.outcome import finish
from dpo_recipes.jobs.trial_executor import TrialExecutor
from dpo_recipes.jobs.trial_run import runs_of
from dpo_recipes.jobs.work import claim_and_execute, have_ended

_LOGGED = ("trial", "note", "retry", "trial_ended")


def main(arguments: list[str] | None = None) -> int:
    """Execute a run, unless it has ended or another process works on it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dpo_recipes.jobs.array_task")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("number", type=int)
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background processes without SIGINT
        signal.signal(number, signal.default_int_handler)
    files = ArrayFiles(SweepDirectory(given.sweep))
    files.forget_error(given.number)
    try:
        return _execute(files, given.number)
    except DpoRecipeError as error:
        print(error, file=sys.stderr)
        if not isinstance(error, Interrupted):
            files.write_error(given.number, error)
        return error.exit_code


def _execute(files: ArrayFiles, number: int) -> int:
    validated, options = files.read_job()
    runs = runs_of(files.sweep, validated)
    run, executor = runs[number], TrialExecutor()
    try:
        if run.state == "unfinished" and not executor.is_late(runs):
            claim_and_execute(run, runs, executor, _log, options)
        if have_ended(runs, executor):
            result = finish(files.sweep, validated.recipe, runs)
            if result.best is not None:
                remove_all_but(result.best.run, runs)
    except KeyboardInterrupt:  # between two stages
        return EXIT_RESUMABLE if any(newest_first(run.run.checkpoints)) else EXIT_INTERRUPTED
    return EXIT_DONE


def _log(event: dict[str, Any]) -> None:
    if event["event"] in _LOGGED:
        print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
