"""Saves the counts of the training loop with a checkpoint, so that a resumed run logs the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.engine.counts import Counts, restore, snapshot
from dpo_recipes.engine.prefix_sharing import Positions

_FILE = "loop_state_{rank}.json"


def save_loop_state(trainer: Any, folder: Path, more: dict[str, Any]) -> None:
    """Write this process's counts since the start of training, and since the last row of metrics, into a checkpoint.

    `_total_loss_scalar`, `_globalstep_last_logged` and `_initial_global_step` are transformers 5.23's;
    tests/integration/test_upstream.py fails when they move.
    """
    counts = snapshot(trainer)
    state = {
        "loss": counts.loss.item(),
        "total_loss": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
        "metrics": counts.metrics,
        "positions": asdict(counts.positions),
        **more,
    }
    (folder / _FILE.format(rank=trainer.args.process_index)).write_text(json.dumps(state), encoding="utf-8")


def restore_loop_state(trainer: Any, folder: Path) -> dict[str, Any]:
    """Restore the counts, after transformers has set its own to zero; returns what `more` was.

    If another number of processes wrote them, sums become this process's share of the total.
    """
    state = read_loop_state(folder, trainer.args.process_index, trainer.args.world_size)
    positions = Positions(**state["positions"])
    restore(trainer, Counts(torch.tensor(state["loss"]), state["metrics"], positions))
    trainer._total_loss_scalar = state["total_loss"]
    trainer._globalstep_last_logged = state["last_logged"]
    trainer._initial_global_step = 0
    trainer.load_more(folder)
    return state


def count_loop_states(folder: Path) -> int:
    """The number of processes whose state a checkpoint has."""
    return len(list(folder.glob(_FILE.format(rank="*"))))


def read_loop_state(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    """The state of a process. If another number of processes wrote it: the state of the first, with the mean loss."""
    states = [json.loads(path.read_text(encoding="utf-8")) for path in _in_order(folder.glob(_FILE.format(rank="*")))]
    if len(states) == world_size:
        return states[rank]
    positions = {
        name: round(sum(state["positions"][name] for state in states) / world_size) for name in states[0]["positions"]
    }
    return {**states[0], "loss": sum(state["loss"] for state in states) / len(states), "positions": positions}


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: int(path.stem.rpartition("_")[2]))
