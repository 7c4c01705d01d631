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
from dpo_recipes.engine.speed import SpeedMeter, flops_per_token, peak_flops, summarize
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
    recipe: Recipe, bundle: ModelBundle, run: RunDirectory, datasets: dict[str, Any], callbacks: list[Any]
) -> Any:
    """The objective's trainer; the bundle's stack then tells the trainable parameters and how batches are computed."""
    from transformers import PrinterCallback

    arguments = RunArguments(run.checkpoints, bundle.device, bundle.dtype)
    trainer = registry.load("objectives", recipe.objective.kind)(recipe, bundle, arguments, datasets, callbacks)
    trainer.remove_callback(PrinterCallback)
    parameters = list(trainer.model.parameters())
    bundle.stack["trainable_parameters"] = sum(p.numel() for p in parameters if p.requires_grad)
    bundle.stack["prefix_sharing"] = trainer.prefix_sharing.describe()
    return trainer


def seen_pairs(recipe: Recipe, pairs: Any) -> Any:
    """The training pairs that the run will come to: all, or with `max_steps` a seeded draw of as many as it needs,
    so that no reference log-probability is computed in vain."""
    training = recipe.training
    if training.max_steps is None:
        return pairs
    needed = training.max_steps * training.micro_batch_size * training.gradient_accumulation_steps
    return pairs if needed >= len(pairs) else pairs.shuffle(seed=training.seed).select(range(needed))


def train(
    recipe: Recipe,
    bundle: ModelBundle,
    run: RunDirectory,
    tokenized: TokenizedSplits,
    events: EventLog,
    stop: StopRequest,
    *,
    reserve_bytes: int = 0,
) -> TrainResult:
    """Train to the end; `reserve_bytes` are what the optimizer will need beside the first micro-batch.

    Raises `Interrupted` I130 after a requested stop, `RunError` T604 on a diverged loss.
    """
    datasets = {name: tokenized.pairs(name) for name in tokenized.datasets}
    datasets["train"] = seen_pairs(recipe, datasets["train"])
    report = tokenized.reports["train"]
    tokens_per_pair = report.tokens / report.rows_kept
    metrics = MetricsCallback(run.metrics, events, tokens_per_pair)
    probe = ProbeCallback(datasets["train"], reserve_bytes, events)
    events.stage("reference", f"log-probabilities of {sum(map(len, datasets.values()))} pairs")
    trainer = prepare_trainer(recipe, bundle, run, datasets, [metrics, StopCallback(stop), probe])
    probe.trainer = trainer
    metrics.speed = SpeedMeter(trainer.prefix_sharing.trained)
    if trainer.prefix_sharing.refusal:
        events.emit("note", text=f"prefixes are not shared: {trainer.prefix_sharing.refusal}")
    base_metrics: dict[str, float] = {}
    if len(datasets) > 1:
        from dpo_recipes.evaluate.metrics import evaluate_pairs

        events.stage("base", "evaluating the untouched base")
        base_metrics = evaluate_pairs(trainer)
    events.stage("train", f"{bundle.stack['trainable_parameters']:,} trainable parameters on {bundle.device}")
    output = train_within_memory(trainer, events, adjusts=recipe.hardware.fit is True)
    stop.training = False
    if stop.is_set:
        raise interrupted(f"it stopped after step {trainer.state.global_step}; the checkpoint is in {run.checkpoints}")
    runtime_s = output.metrics["train_runtime"]
    pairs = trainer.state.epoch * len(datasets["train"])
    return TrainResult(
        trainer,
        output.training_loss,
        base_metrics,
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
    return summarize(trainer.prefix_sharing.trained, runtime_s, flops, peak)
