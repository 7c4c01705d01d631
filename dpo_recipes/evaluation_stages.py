"""What a worker executes in the directory of an evaluation, and what is written there."""

from __future__ import annotations

import json
import signal
from types import FrameType

from dpo_recipes.errors import Interrupted
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.run_dir import RunDirectory, write_text_atomically


def execute_directory(run: RunDirectory, events: EventLog, *, trust_remote_code: bool) -> None:
    """Evaluate as `evaluate.json` says, and write answers, page and result.

    Raises what `evaluate.execute.execute_evaluation` raises, and `Interrupted` I101.
    """
    section = Evaluate.model_validate(json.loads(run.evaluation.read_text(encoding="utf-8")))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        events.stage("start", "loading libraries")
        from dpo_recipes.evaluate.execute import execute_evaluation
        from dpo_recipes.report.evaluation_page import render_evaluation

        result = execute_evaluation(section, run.answers, events, trust_remote_code=trust_remote_code)
        write_text_atomically(run.report, render_evaluation(result, run.answers))
        result.write(run.result)
    except KeyboardInterrupt:
        raise Interrupted.of(
            "I101",
            "the evaluation was interrupted",
            why="the answers so far are kept",
            fix="give the same command again: it generates only the others",
        ) from None
    events.emit("done", result=str(run.result))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
