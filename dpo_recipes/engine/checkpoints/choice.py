"""Which checkpoint a run goes on from, and which one's model it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.engine.checkpoints.folder import Checkpoint, find_best, find_newest, remove_unfinished
from dpo_recipes.engine.checkpoints.loop_state import read_loop_state
from dpo_recipes.engine.team import Team
from dpo_recipes.errors import RunError
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.strategies import SAVES_PIECES
from dpo_recipes.run_dir import RunDirectory


@dataclass(frozen=True)
class BaseResults:
    """What was measured of the untouched base."""

    metrics: dict[str, float]
    answers: list[str]
    """Empty in a process that has asked nothing."""


@dataclass(frozen=True)
class Start:
    """Where training begins."""

    path: Path | None = None
    """Of a checkpoint; none at the very beginning."""
    step: int | None = None
    metrics_bytes: int = 0
    """How much of metrics.jsonl was written before it."""
    base: BaseResults | None = None
    """Where it has been measured."""
    best: Checkpoint | None = None
    """The best one on held-out pairs so far, where that is looked for."""
    damaged: tuple[str, ...] = ()
    """Names of those that were passed over."""


def find_start(run: RunDirectory, data: str, team: Team, events: EventLog, *, keeps_best: bool) -> Start:
    """The newest whole checkpoint; damaged ones are named and passed over. The same one in all processes.

    Raises `RunError` T616 where it was trained on other data, T617 where the processes cannot read it, and T618 where a
    machine does not see it.
    """
    found = _look(run.checkpoints, events, keeps_best=keeps_best) if team.processes.is_main else None
    checkpoint, best, damaged = team.processes.share(found)
    if checkpoint is None:
        return Start(damaged=damaged)
    if not checkpoint.path.is_dir():
        raise RunError.of(
            "T618",
            f"this machine does not see {checkpoint.path}",
            why="a run of several nodes goes on from a checkpoint that all of them read, and the first node has it",
            fix="put `output_dir` on a file system that the nodes share, or begin anew with `--no-resume`",
        )
    if checkpoint.facts["data"] != data:
        raise RunError.of(
            "T616",
            f"the data are not those that {checkpoint.path.name} was trained on",
            why="a file, a dataset or the tokenizer has changed since the run began",
            fix="put the old data back, or begin anew with `--no-resume`",
        )
    _check_readable(checkpoint, team)
    state = read_loop_state(checkpoint.path, team.processes.place.rank, team.processes.count)
    base = BaseResults(**state["base"])
    return Start(checkpoint.path, checkpoint.step, state["metrics_bytes"], base, best, damaged)


def _look(
    folder: Path, events: EventLog, *, keeps_best: bool
) -> tuple[Checkpoint | None, Checkpoint | None, tuple[str, ...]]:
    remove_unfinished(folder)
    newest, damaged = find_newest(folder)
    for name, damage in damaged.items():
        events.emit("note", text=f"{name} is damaged and is not used: {damage}")
    return newest, find_best(folder) if keeps_best else None, tuple(damaged)


def _check_readable(checkpoint: Checkpoint, team: Team) -> None:
    strategy, count = checkpoint.facts["strategy"], checkpoint.facts["num_processes"]
    if strategy == team.strategy and (count == team.processes.count or strategy not in SAVES_PIECES):
        return
    raise RunError.of(
        "T617",
        f"{checkpoint.path.name} was written by {count} processes with `{strategy}`, and cannot be read by "
        f"{team.processes.count} with `{team.strategy}`",
        why="each strategy writes the optimizer's state in its own way, and with DeepSpeed each process its own piece",
        fix=f"go on with `--num-processes {count} --set launch.strategy={strategy}`, or begin anew with `--no-resume`",
    )


def take_best(trainer: Any, events: EventLog) -> None:
    """Give the trainer the weights of its best checkpoint where these are better on held-out pairs than the last."""
    rows = [row for row in trainer.state.log_history if row.get("step") == trainer.state.global_step]
    last = next((row for row in reversed(rows) if "eval_loss" in row), None) or trainer.evaluate()
    # Looked up by one: only it writes manifests, and all must load the same weights.
    best = trainer.checkpoints.processes.share(trainer.checkpoints.best)
    if best is None or best.facts["eval_loss"] >= last["eval_loss"]:
        return
    trainer.state.best_model_checkpoint = str(best.path)
    trainer._load_best_model()
    trainer.state.log_history.clear()  # evaluations of the last step are not this model's
    events.emit(
        "note",
        text=f"the model of step {best.step} is kept: its held-out loss is {best.facts['eval_loss']:.4f}, that of the "
        f"last step {last['eval_loss']:.4f}",
    )
