"""What to do when a run has finished: three commands that work as they are printed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_recipes.cli.options import short_path
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.run_dir import RunDirectory


def describe_next_steps(finished: FinishedRun, again: Sequence[str]) -> Iterator[str]:
    """The commands, each with its purpose. `again` is the command that executed the run."""
    steps = [_look(finished), _compare(finished, again), (["dpo-recipe", "runs"], "list all runs and their sizes")]
    commands = [shlex.join(command) for command, _ in steps]
    width = max(map(len, commands))
    for number, (command, (_, purpose)) in enumerate(zip(commands, steps, strict=True)):
        yield f"{'' if number else 'next':<9} {command:<{width}}   # {purpose}"


def _look(finished: FinishedRun) -> tuple[list[str], str]:
    """Open the report where there is a screen, or else print the main figures."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ["python", "-m", "webbrowser", short_path(finished.run.report)], "read the report"
    return ["dpo-recipe", "runs", "show", _name(finished.run)], "show the run again"


def _compare(finished: FinishedRun, again: Sequence[str]) -> tuple[list[str], str]:
    """Compare with the finished run of the recipe before this one; if there is none, make one with another seed."""
    folder = finished.run.path.parent
    earlier = sorted(
        path.parent for path in folder.glob("*-*/result.json") if path.parent.name < finished.run.path.name
    )
    if earlier:
        names = [_name(finished.run), _name(RunDirectory(earlier[-1]))]
        return ["dpo-recipe", "report", *names], "compare it with the run before"
    seed = abs(finished.recipe.training.seed - 1)  # another one that is in range as well
    return [*again, "--set", f"training.seed={seed}"], "see how much the seed changes"


def _name(run: RunDirectory) -> str:
    """The last part of the directory's name, which the commands find in `runs`, or else its path."""
    is_found = run.path.parent.parent == Path("runs").resolve()
    return run.path.name.rpartition("-")[2] if is_found else short_path(run.path)
