"""The process that a launcher starts: it locks the run directory, executes the stages, and reports errors.

`python -m dpo_recipes.worker DIRECTORY`, where the directory holds the `resolved.yaml` of a run, the `evaluate.json` of
an evaluation or the `sample.json` of a sampling. The worker reports its progress to its parent through `events.jsonl`;
all other output goes to run.log.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from dpo_recipes.errors import EXIT_BUG, EXIT_DONE, DpoRecipeError, RunError
from dpo_recipes.evaluation_stages import execute_directory
from dpo_recipes.events import EventLog
from dpo_recipes.failures import known_failure
from dpo_recipes.launch.ending import Ending, end_with_parent
from dpo_recipes.launch.ranks import Rank, events_path, record_process, redirect_output
from dpo_recipes.launch.stacks import stacks_on_request
from dpo_recipes.recipe.dump import read_resolved
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.stages import RunStages


def live() -> NoReturn:
    """Run `main` in a worker's process, with fault handling and cleanup around it."""
    ending = Ending()
    faulthandler.enable()  # if a library crashes, its stack is written to run.log
    end_with_parent()
    ending.with_code(main())


def main(arguments: list[str] | None = None) -> int:
    """Execute a run directory, and return the exit code. Errors are reported to the parent as events."""
    parser = argparse.ArgumentParser(prog="python -m dpo_recipes.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--reward-function", action="append", default=[])
    options = parser.parse_args(arguments)
    run, rank = RunDirectory(options.run_dir), Rank.of(os.environ)
    if run.result.exists():  # the job was queued twice
        print(f"{run.result} exists: the run is finished", file=sys.stderr)
        return EXIT_DONE
    try:
        with contextlib.ExitStack() as stack:
            if rank.is_main:
                stack.enter_context(file_lock(run.lock))
            record_process(run, rank)
            redirect_output(run, rank)
            stack.enter_context(stacks_on_request(run, rank))
            events = stack.enter_context(EventLog(events_path(run, rank.index)))
            allowed = {"trust_remote_code": options.trust_remote_code, "reward_functions": options.reward_function}
            return _execute(run, rank, events, allowed)
    except RunError as error:  # another process works in this run directory and writes its events
        print(error, file=sys.stderr)
        return error.exit_code


def _execute(run: RunDirectory, rank: Rank, events: EventLog, allowed: dict[str, Any]) -> int:
    """`allowed` is what the person has allowed on the command line."""
    try:
        if run.gives_answers_only:
            execute_directory(run, events, **allowed)
        else:
            recipe = read_resolved(run.resolved_recipe)
            RunStages(recipe, run, rank, events, **allowed).execute()
    except DpoRecipeError as error:
        traceback.print_exc()
        events.emit("error", findings=[finding.to_json() for finding in error.findings])
        return error.exit_code
    except Exception as error:  # the outermost handler: all other errors are classified here
        traceback.print_exc()
        known = known_failure(error, run)
        events.emit("error", findings=[known.to_json()] if known else [], bug=None if known else repr(error))
        return RunError(known).exit_code if known else EXIT_BUG
    return EXIT_DONE


if __name__ == "__main__":
    live()
