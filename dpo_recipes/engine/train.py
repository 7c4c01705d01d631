"""The training stage: reference pass, base evaluation, TRL's training loop, and a clean end on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes import registry
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.callbacks.stop import DivergenceCallback, StopRequest, interrupted
from dpo_recipes.engine.checkpoints.folder import Checkpoint, find_best, find_newest
from dpo_recipes.engine.checkpoints.loop_state import read_loop_state
from dpo_recipes.engine.checkpoints.writer import CheckpointWriter
from dpo_recipes.engine.out_of_memory import train_within_memory
from dpo_recipes.engine.probe import ProbeCallback
from dpo_recipes.engine.speed import SpeedMeter, flops_per_token, peak_flops, summarize
from dpo_recipes.engine.trainer_args import RunArguments
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.metrics import evaluate_pairs
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
    """Train to the end, from the newest whole checkpoint where the run directory has one; `reserve_bytes` are what the
    optimizer will need beside the first micro-batch.

    Raises `Interrupted` I101 after a requested stop, `RunError` T602 (disk full), T604 (diverged loss) and T616 (a
    checkpoint of other data).
    """
    checkpoint = find_checkpoint(run, tokenized.key, events)
    earlier = read_loop_state(checkpoint.path, rank=0, world_size=1) if checkpoint else {}
    datasets = {name: tokenized.pairs(name) for name in tokenized.datasets}
    datasets["train"] = seen_pairs(recipe, datasets["train"])
    report = tokenized.reports["train"]
    tokens_per_pair = report.tokens / report.rows_kept
    saving = CheckpointCallback(recipe.checkpoints, stop, run.metrics, events, checkpoint.path if checkpoint else None)
    metrics = MetricsCallback(run.metrics, events, tokens_per_pair, earlier.get("metrics_bytes", 0))
    probe = ProbeCallback(datasets["train"], reserve_bytes, events)
    events.stage("reference", f"log-probabilities of {sum(map(len, datasets.values()))} pairs")
    trainer = prepare_trainer(recipe, bundle, run, datasets, [saving, metrics, DivergenceCallback(), probe])
    probe.trainer = saving.trainer = trainer
    trainer.checkpoint_state = saving
    trainer.checkpoints = CheckpointWriter(
        run.checkpoints, recipe.checkpoints.save_total_limit, {"data": tokenized.key}, best=find_best(run.checkpoints)
    )
    metrics.speed = SpeedMeter(trainer.prefix_sharing.trained)
    if trainer.prefix_sharing.refusal:
        events.emit("note", text=f"prefixes are not shared: {trainer.prefix_sharing.refusal}")
    if checkpoint:
        saving.base_metrics = earlier["base_metrics"]
    elif len(datasets) > 1:
        events.stage("base", "evaluating the untouched base")
        saving.base_metrics = evaluate_pairs(trainer)
    where = f", from step {checkpoint.step}" if checkpoint else ""
    events.stage("train", f"{bundle.stack['trainable_parameters']:,} trainable parameters on {bundle.device}{where}")
    output = train_within_memory(trainer, events, adjusts=recipe.hardware.fit is True)
    stop.training = False
    trainer.checkpoints.wait()
    if stop.is_set:
        raise interrupted(f"it stopped after step {trainer.state.global_step}; the checkpoint is in {run.checkpoints}")
    if recipe.checkpoints.keep_best:
        take_best(trainer, events)
    runtime_s = saving.earlier_s + output.metrics["train_runtime"]
    summary = {
        **_rates(trainer, len(datasets["train"]), tokens_per_pair, runtime_s),
        **_speed(recipe, bundle, trainer, runtime_s),
        "resumed_from_step": checkpoint.step if checkpoint else None,
        "checkpoints_waited_s": round(trainer.checkpoints.blocked_s, 2),
    }
    return TrainResult(trainer, output.training_loss, saving.base_metrics, summary)


def find_checkpoint(run: RunDirectory, data: str, events: EventLog) -> Checkpoint | None:
    """What the run goes on from, if anything; damaged checkpoints are named and passed over. Raises `RunError` T616."""
    checkpoint, damaged = find_newest(run.checkpoints)
    for sentence in damaged:
        events.emit("note", text=sentence)
    if checkpoint and checkpoint.facts["data"] != data:
        raise RunError.of(
            "T616",
            f"the data are not those that {checkpoint.path.name} was trained on",
            why="a file, a dataset or the tokenizer has changed since the run began",
            fix="put the old data back, or begin anew with `--no-resume`",
        )
    return checkpoint


def take_best(trainer: Any, events: EventLog) -> None:
    """Give the trainer the weights of its best checkpoint where these are better on held-out pairs than the last."""
    rows = [row for row in trainer.state.log_history if row.get("step") == trainer.state.global_step]
    last = next((row for row in reversed(rows) if "eval_loss" in row), None) or trainer.evaluate()
    best = trainer.checkpoints.best
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


def _rates(trainer: Any, num_pairs: int, tokens_per_pair: float, runtime_s: float) -> dict[str, Any]:
    """Steps and pairs a second, over the whole run and every process that has worked on it."""
    pairs = trainer.state.epoch * num_pairs
    return {
        "num_train_pairs": num_pairs,
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch, 4),
        "train_runtime_s": round(runtime_s, 2),
        "pairs_per_second": round(pairs / runtime_s, 3),
        "tokens_per_second": round(pairs * tokens_per_pair / runtime_s, 1),
    }


def _speed(recipe: Recipe, bundle: ModelBundle, trainer: Any, runtime_s: float) -> dict[str, Any]:
    """Distinct tokens a second, positions saved, and the share of the device's rate where that is known."""
    stack = bundle.stack
    flops = flops_per_token(bundle.policy, stack["total_parameters"], stack["trainable_parameters"])
    peak = peak_flops(recipe.hardware.profile, bundle.dtype)
    return summarize(trainer.prefix_sharing.trained, runtime_s, flops, peak)
