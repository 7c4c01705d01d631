"""Chooses the checkpoint from which a run resumes, and the one whose model it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import transformers

from dpo_recipes.cache import content_key
from dpo_recipes.engine.checkpoints.folder import Checkpoint, find_best, find_newest, read_facts, remove_unfinished
from dpo_recipes.engine.checkpoints.loop_state import count_loop_states, read_loop_state
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.metrics import Values
from dpo_recipes.events import EventLog
from dpo_recipes.model.adapters import starts_away_from_base
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.model.precision import describe_device
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import SAVES_PIECES
from dpo_recipes.resume import identity, read_recipe
from dpo_recipes.run_dir import RunDirectory

_DECIDED = (
    "micro_batch_size",
    "gradient_accumulation_steps",
    "max_tokens_per_pass",
    "gradient_checkpointing",
    "optimizer",
)
"""Fields of `training` that `--fit` may change."""


@dataclass(frozen=True)
class BaseResults:
    """Measurements of the untouched base."""

    metrics: Values
    answers: list[str]
    """Empty in a process that has generated no answers."""


@dataclass(frozen=True)
class Start:
    """Where training starts."""

    path: Path | None = None
    """The path of a checkpoint, or None at the beginning."""
    step: int | None = None
    metrics_bytes: int = 0
    """The bytes of metrics.jsonl that were written before it."""
    base: BaseResults | None = None
    """Where it has been measured."""
    best: Checkpoint | None = None
    """The best one so far by the metric of `keep_best`."""
    damaged: tuple[str, ...] = ()
    """Names of the checkpoints that were skipped."""
    base_weights: dict[str, str] | None = None
    """Of the base that it was trained on: as `manifest_facts` notes it."""


@dataclass(frozen=True)
class Decided:
    """Decisions that depended on free memory when the run started. A resumed run keeps them."""

    strategy: str
    num_processes: int
    training: dict[str, Any]
    """Settings of that section, as each process executed them."""


def decided_before(run: RunDirectory) -> Decided | None:
    """The decisions in the last checkpoint's manifest, or None without a checkpoint."""
    facts = read_facts(run.checkpoints)
    if facts is None or "training" not in facts:
        return None
    return Decided(facts["strategy"], facts["num_processes"], facts["training"])


def manifest_facts(recipe: Recipe, run: RunDirectory, distributed: DistributedContext, data: str) -> dict[str, Any]:
    """The facts for the manifest of each checkpoint: what it was made of and how."""
    given, training = read_recipe(run), recipe.training.model_dump()
    return {
        "data": data,
        "recipe": content_key(identity(given)) if given else None,
        "strategy": distributed.strategy,
        "num_processes": distributed.num_processes,
        "training": {name: training[name] for name in _DECIDED},
    }


def find_start(
    run: RunDirectory, data: str, distributed: DistributedContext, events: EventLog, best_metric: Metric | None
) -> Start:
    """The newest complete checkpoint, the same in all processes, and the best one by the metric of `keep_best`.
    Damaged ones are reported and skipped.

    Raises `RunError` T616 if it was trained on other data, T617 if these processes cannot read it, and T618 if a
    machine cannot read its folder.
    """
    found = _look(run.checkpoints, events, best_metric) if distributed.is_main else None
    checkpoint, best, damaged = distributed.share(found)
    if checkpoint is None:
        return Start(damaged=damaged)
    if not checkpoint.path.is_dir():
        raise not_seen(checkpoint.path)
    if checkpoint.facts["data"] != data:
        raise RunError.of(
            "T616",
            f"the data are not those that {checkpoint.path.name} was trained on",
            why="a file, a dataset or the tokenizer has changed since the run started",
            fix="restore the old data, or start a new run with `--no-resume`",
        )
    _check_readable(checkpoint, distributed)
    if count_loop_states(checkpoint.path) < checkpoint.facts["num_processes"]:
        raise not_seen(f"the state of all processes in {checkpoint.path}")
    state = read_loop_state(checkpoint.path, distributed.rank, distributed.num_processes)
    base = BaseResults(**state["base"])
    weights = checkpoint.facts.get("base_weights")
    return Start(checkpoint.path, checkpoint.step, state["metrics_bytes"], base, best, damaged, weights)


def digest_of_base(trainer: Any, bundle: ModelBundle) -> dict[str, str] | None:
    """The digest of the weights with which the reference was computed, and the device, precision and versions for
    which it holds: only these must give the same digest again. None if the last bits may differ between equal runs: an
    adapter was initialized by a decomposition of the base, or rows for new tokens were drawn around the mean of the
    others."""
    if bundle.model_info["added_tokens"] or starts_away_from_base(trainer.context.recipe.model.adapter):
        return None
    versions = f"transformers {transformers.__version__}, peft {peft.__version__}"
    place = f"{describe_device(bundle.device).name}, {bundle.dtype}, {versions}"
    return {"digest": trainer.reference_weights, "place": place}


def check_same_base(start: Start, weights: dict[str, str] | None) -> None:
    """Raise `RunError` T619 if the base is not the one on which the checkpoint was trained."""
    earlier = start.base_weights
    if earlier is None or weights is None or earlier["place"] != weights["place"] or earlier == weights:
        return
    assert start.path is not None, "digests come with a checkpoint"
    raise RunError.of(
        "T619",
        f"the base is not the one that {start.path.name} was trained on",
        why="its weights have changed since: a folder was written to, or the hub has a new revision",
        fix="restore the old weights (`model.revision` pins those of the hub), or start a new run with `--no-resume`",
    )


def not_seen(what: Path | str) -> RunError:
    """T618."""
    return RunError.of(
        "T618",
        f"this machine cannot read {what}",
        why="a run on several nodes resumes from a checkpoint that all of them have written to and can read",
        fix="put `output_dir` on a file system that the nodes share, or start a new run with `--no-resume`",
    )


def _look(
    folder: Path, events: EventLog, best_metric: Metric | None
) -> tuple[Checkpoint | None, Checkpoint | None, tuple[str, ...]]:
    remove_unfinished(folder)
    newest, damaged = find_newest(folder)
    best, were_best = find_best(folder, newest, f"eval_{best_metric.key}") if best_metric and newest else (None, {})
    for name, damage in damaged.items():
        events.note(f"{name} is damaged and is not used: {damage}")
    for name, damage in were_best.items():
        what = f"the model of {best.path.name}" if best else "what comes"
        events.note(f"{name}, the best one so far, is damaged: {damage}; {what} is the best from now on")
    return newest, best, (*damaged, *were_best)


def _check_readable(checkpoint: Checkpoint, distributed: DistributedContext) -> None:
    strategy, count = checkpoint.facts["strategy"], checkpoint.facts["num_processes"]
    if strategy == distributed.strategy and (count == distributed.num_processes or strategy not in SAVES_PIECES):
        return
    raise RunError.of(
        "T617",
        f"{checkpoint.path.name} was written by {count} processes with `{strategy}`, and cannot be read by "
        f"{distributed.num_processes} with `{distributed.strategy}`",
        why="each strategy writes the optimizer's state in its own way, and with DeepSpeed each process its own part",
        fix=f"use `--num-processes {count} --set launch.strategy={strategy}`, or start a new run with `--no-resume`",
    )


def take_best(trainer: Any, metric: Metric, events: EventLog) -> None:
    """Load the weights of the best checkpoint into the trainer if the last step's are worse by the metric."""
    name, step = f"eval_{metric.key}", trainer.state.global_step
    rows = [row for row in trainer.state.log_history if row.get("step") == step]
    last = next((row for row in reversed(rows) if "eval_loss" in row), None) or trainer.evaluate()
    # One process looks it up: only that one writes manifests, and all must load the same weights.
    best = trainer.checkpoints.distributed.share(trainer.checkpoints.best)
    if best is None or not metric.is_better(best.facts[name], last.get(name)):
        return
    trainer.state.best_model_checkpoint = str(best.path)
    trainer._load_best_model()
    trainer.state.log_history.clear()  # evaluations of the last step are not this model's
    events.note(
        f"the model of step {best.step} is kept: its held-out {metric.label.lower()} is "
        f"{metric.format(best.facts[name])}, that of the last step {metric.format(last.get(name))}",
    )
