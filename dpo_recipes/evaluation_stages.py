"""What a worker executes in the directory of an evaluation or of a sampling, and what is written there."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

from dpo_recipes.errors import Interrupted
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.run_dir import RunDirectory, write_text_atomically


def execute_directory(
    run: RunDirectory, events: EventLog, *, trust_remote_code: bool, reward_functions: Sequence[str] = ()
) -> None:
    """Evaluate as `evaluate.json` says, or sample as `sample.json` says, and write the answers and the result.

    Raises what `execute_evaluation` and `execute_sampling` raise, and `Interrupted` I101.
    """
    allowed = {"trust_remote_code": trust_remote_code, "reward_functions": reward_functions}
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        events.stage("start", "loading libraries")
        (_evaluate if run.evaluation.exists() else _sample)(run, events, allowed)
    except KeyboardInterrupt:
        raise Interrupted.of(
            "I101",
            "the generation of answers was interrupted",
            why="the answers so far are kept",
            fix="give the same command again: it generates only the others",
        ) from None
    events.emit("done", result=str(run.result))


def _evaluate(run: RunDirectory, events: EventLog, allowed: dict[str, Any]) -> None:
    from dpo_recipes.evaluate.execute import execute_evaluation
    from dpo_recipes.report.evaluation_page import render_evaluation

    section = Evaluate.model_validate(json.loads(run.evaluation.read_text(encoding="utf-8")))
    result = execute_evaluation(section, run.answers, events, **allowed)
    write_text_atomically(run.report, render_evaluation(result, run.answers))
    result.write(run.result)


def _sample(run: RunDirectory, events: EventLog, allowed: dict[str, Any]) -> None:
    from dpo_recipes.evaluate.sampling import execute_sampling
    from dpo_recipes.report.sampling_page import render_sampling

    section = Sample.model_validate(json.loads(run.sampling.read_text(encoding="utf-8")))
    result = execute_sampling(section, run.sampled_rows, run.answers, events, **allowed)
    write_text_atomically(run.report, render_sampling(result, run.answers))
    result.write(run.result)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
