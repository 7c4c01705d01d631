"""The training stage: reference pass, base evaluation, TRL's training loop, and a clean end on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes import registry
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.callbacks.stop import StopCallback, StopRequest, interrupted
from dpo_recipes.engine.out_of_memory import train_within_memory
from dpo_recipes.engine.probe import ProbeCallback
from dpo_recipes.engine.speed import SpeedMeter, flops_per_token, peak_flops, sum_positions, summarize
from dpo_recipes.engine.team import BaseCallback, Team
from dpo_recipes.engine.trainer_args import RunArguments
from dpo_recipes.events import EventLog
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory


@dataclass
class TrainResult:
    """The trainer after its last step, and what was measured on the way."""

    trainer: Any
    train_loss: float
    base_metrics: dict[str, float]
    summary: dict[str, Any]


def prepare_trainer(
    recipe: Recipe, bundle: ModelBundle, run: RunDirectory, datasets: dict[str, Any], callbacks: list[Any], team: Team
) -> Any:
    """The objective's trainer; the bundle's stack then tells the trainable parameters and how batches are computed."""
    from transformers import PrinterCallback

    arguments = RunArguments(run.checkpoints, bundle.device, bundle.dtype, team.processes, team.launch)
    trainer = registry.load("objectives", recipe.objective.kind)(recipe, bundle, arguments, datasets, callbacks)
    trainer.remove_callback(PrinterCallback)
    parameters = list(trainer.model.parameters())
    bundle.stack["trainable_parameters"] = sum(p.numel() for p in parameters if p.requires_grad)
    bundle.stack["prefix_sharing"] = trainer.prefix_sharing.describe()
    bundle.stack["processes"] = team.describe()
    return trainer


def seen_pairs(recipe: Recipe, pairs: Any, num_processes: int = 1) -> Any:
    """The training pairs that the run will come to: all, or with `max_steps` a seeded draw of as many as it needs,
    so that no reference log-probability is computed in vain."""
    training = recipe.training
    if training.max_steps is None:
        return pairs
    step = training.micro_batch_size * training.gradient_accumulation_steps * num_processes
    needed = training.max_steps * step
    return pairs if needed >= len(pairs) else pairs.shuffle(seed=training.seed).select(range(needed))


def train(  # noqa: PLR0913
    recipe: Recipe,
    bundle: ModelBundle,
    run: RunDirectory,
    tokenized: TokenizedSplits,
    events: EventLog,
    stop: StopRequest,
    *,
    reserve_bytes: int = 0,
    team: Team | None = None,
) -> TrainResult:
    """Train to the end; `reserve_bytes` are what the optimizer will need beside the first micro-batch.

    Raises `Interrupted` I130 after a requested stop, `RunError` T604 on a diverged loss.
    """
    team = team or Team()
    processes = team.processes
    datasets = {name: tokenized.pairs(name) for name in tokenized.datasets}
    datasets["train"] = seen_pairs(recipe, datasets["train"], processes.count)
    report = tokenized.reports["train"]
    tokens_per_pair = report.tokens / report.rows_kept
    metrics = MetricsCallback(run.metrics if processes.is_main else None, events, tokens_per_pair)
    probe = ProbeCallback(datasets["train"], reserve_bytes, events)
    events.stage("reference", f"log-probabilities of {sum(map(len, datasets.values()))} pairs")
    callbacks = [StopCallback(stop, processes.any), probe]
    trainer = prepare_trainer(recipe, bundle, run, datasets, [metrics, *callbacks], team)
    probe.trainer = trainer
    metrics.speed = SpeedMeter(trainer.prefix_sharing.trained, processes)
    if trainer.prefix_sharing.refusal:
        events.emit("note", text=f"prefixes are not shared: {trainer.prefix_sharing.refusal}")
    base = BaseCallback(trainer, team, events, evaluates=len(datasets) > 1)
    events.stage("train", f"{bundle.stack['trainable_parameters']:,} trainable parameters on {bundle.device}")
    # Where one process runs out of memory, the others wait for it in vain.
    output = train_within_memory(trainer, events, adjusts=recipe.hardware.fit is True and processes.count == 1)
    stop.training = False
    if stop.is_set:
        raise interrupted(f"it stopped after step {trainer.state.global_step}; the checkpoint is in {run.checkpoints}")
    runtime_s = output.metrics["train_runtime"]
    pairs = trainer.state.epoch * len(datasets["train"])
    return TrainResult(
        trainer,
        output.training_loss,
        base.metrics,
        {
            "num_train_pairs": len(datasets["train"]),
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch, 4),
            "train_runtime_s": round(runtime_s, 2),
            "pairs_per_second": round(pairs / runtime_s, 3),
            "tokens_per_second": round(pairs * tokens_per_pair / runtime_s, 1),
            **_speed(recipe, bundle, trainer, runtime_s),
        },
    )


def _speed(recipe: Recipe, bundle: ModelBundle, trainer: Any, runtime_s: float) -> dict[str, Any]:
    """Distinct tokens a second, positions saved, and the share of the device's rate where that is known."""
    stack = bundle.stack
    flops = flops_per_token(bundle.policy, stack["total_parameters"], stack["trainable_parameters"])
    peak = peak_flops(recipe.hardware.profile, bundle.dtype)
    total = sum_positions(trainer.prefix_sharing.trained, trainer.processes)
    return summarize(total, runtime_s, flops, None if peak is None else peak * trainer.processes.count)
