"""The training stage: reference pass, base evaluation, TRL's training loop, and a clean end on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.engine.callbacks.answers import answers_at_evaluations
from dpo_recipes.engine.callbacks.baseline import BaselineCallback, answer_as_base
from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.callbacks.stop import DivergenceCallback, StopRequest, interrupted
from dpo_recipes.engine.checkpoints.choice import (
    Start,
    check_same_base,
    digest_of_base,
    find_start,
    manifest_facts,
    take_best,
)
from dpo_recipes.engine.checkpoints.writer import CheckpointWriter
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.engine.engine_trainer import EngineTrainer, build_trainer
from dpo_recipes.engine.out_of_memory import train_within_memory
from dpo_recipes.engine.probe import ProbeCallback
from dpo_recipes.engine.recorded_inputs import record_inputs
from dpo_recipes.engine.speed import SpeedMeter, flops_per_token, peak_flops, sum_positions, summarize
from dpo_recipes.engine.trackers.session import Trackers
from dpo_recipes.engine.watch import Watch, make_watch
from dpo_recipes.evaluate.metrics import Values
from dpo_recipes.evaluate.samples import Samples
from dpo_recipes.events import EventLog
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.objectives import keep_best_metric, objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.run_result import TrainingFigures


@dataclass
class TrainResult:
    """The trainer after its last step, and what was measured on the way."""

    trainer: Any
    train_loss: float
    base_metrics: Values
    figures: TrainingFigures
    watch: Watch
    """It sees the rows of later evaluations too."""


def prepare_trainer(
    bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[Any]
) -> EngineTrainer:
    """The objective's trainer. Adds trainable parameters and the kind of batches to the bundle's model info."""
    trainer = build_trainer(bundle, context, datasets, callbacks)
    parameters = list(trainer.model.parameters())
    # With ZeRO-3 a parameter is empty between its uses, and `ds_numel` is its size.
    bundle.model_info["trainable_parameters"] = sum(
        getattr(p, "ds_numel", p.numel()) for p in parameters if p.requires_grad
    )
    bundle.model_info["prefix_sharing"] = trainer.prefix_sharing.describe()
    bundle.model_info["processes"] = context.distributed.describe()
    return trainer


def used_splits(recipe: Recipe, tokenized: TokenizedSplits, num_processes: int) -> dict[str, Any]:
    """The rows of each split that the run will use."""
    datasets = {name: tokenized.for_trainer(name) for name in tokenized.datasets}
    return {**datasets, "train": _used_rows(recipe, datasets["train"], num_processes)}


def _used_rows(recipe: Recipe, rows: Any, num_processes: int) -> Any:
    """The training rows that the run will use: all, or with `max_steps` a seeded draw of as many as it needs, so that
    no unused reference log-probability is computed."""
    training = recipe.training
    if training.max_steps is None:
        return rows
    needed = training.max_steps * batch_of(recipe, num_processes).rows_per_step
    return rows if needed >= len(rows) else rows.shuffle(seed=training.seed).select(range(needed))


def train(  # noqa: PLR0913
    recipe: Recipe,
    bundle: ModelBundle,
    run: RunDirectory,
    tokenized: TokenizedSplits,
    samples: Samples,
    events: EventLog,
    stop: StopRequest,
    *,
    reserve_bytes: int = 0,
    distributed: DistributedContext | None = None,
    trackers: Trackers | None = None,
    reward_functions: frozenset[str] = frozenset(),
) -> TrainResult:
    """Train to the end, from the newest whole checkpoint where the run directory has one; `reserve_bytes` are what the
    optimizer will need beside the first micro-batch. The base answers the `samples` on the way, unless the checkpoint
    has its answers. `reward_functions` are those that the person has allowed as sources of rewards.

    Raises `Interrupted` I101 after a requested stop, `RunError` T602 (disk full), T604 (diverged loss), T616 (a
    checkpoint of other data), T617 (of another strategy) and T619 (of another base).
    """
    distributed = distributed or DistributedContext()
    best_metric = keep_best_metric(recipe)
    start = find_start(run, tokenized.key, distributed, events, best_metric)
    if trackers is not None:
        trackers.start(start.step or 0)
    if start.base and start.base.answers:
        samples.answers["base"] = start.base.answers
    elif distributed.is_main and not distributed.shards_weights:
        answer_as_base(samples, bundle.policy, bundle, events)
    datasets = used_splits(recipe, tokenized, distributed.num_processes)
    tokens_per_row = tokenized.reports["train"].tokens_per_row
    _announce_reference(recipe, datasets, events)
    saving = CheckpointCallback(recipe.checkpoints, stop, run.metrics, events, start, distributed, best_metric)
    watch = make_watch(recipe, tokenized, bundle.dtype, events, distributed, trackers)
    metrics = MetricsCallback(
        run.metrics if distributed.is_main else None,
        events,
        objective_of(recipe).metrics,
        tokens_per_row,
        start.metrics_bytes,
        watch,
        trackers,
    )
    probe = ProbeCallback(datasets["train"], reserve_bytes, events)
    callbacks = [
        saving, metrics, DivergenceCallback(), probe,
        *answers_at_evaluations(recipe, samples, bundle, run.answers, events, distributed),
    ]  # fmt: skip
    writer = CheckpointWriter(
        run.checkpoints,
        recipe.checkpoints.save_total_limit,
        manifest_facts(recipe, run, distributed, tokenized.key),
        distributed,
        best=start.best,
        damaged=start.damaged,
    )
    context = TrainingContext(
        recipe, run.checkpoints, bundle.device, bundle.dtype, distributed, events, tokenized.where, writer, saving,
        lambda split, place: tokenized.rows[split][place], reward_functions, tokenized.subsets,
        run.reproduction.exists(),
    )  # fmt: skip
    trainer = prepare_trainer(bundle, context, datasets, callbacks)
    probe.trainer = saving.trainer = trainer
    weights = _check_base(trainer, bundle, start, writer)
    record_inputs(recipe, bundle, run, tokenized, trainer.reference_logps, weights, distributed)
    metrics.speed = SpeedMeter(trainer.prefix_sharing.trained, distributed)
    saving.base = BaselineCallback(
        trainer, distributed, events, samples, bundle, evaluates=len(datasets) > 1, known=start.base
    )
    _announce_training(trainer, bundle, start.step, events)
    # With several processes, one that runs out of memory would leave the others waiting.
    # What a policy has written for a step would be counted twice.
    adjusts = recipe.hardware.fit is True and distributed.num_processes == 1 and objective_of(recipe).rows != "prompt"
    output = train_within_memory(trainer, events, adjusts=adjusts)
    stop.training, stop.trained = False, True
    if _end_training(trainer, saving.saved_step, stop, events, distributed):
        step = trainer.state.global_step
        raise interrupted(f"it stopped after step {step}; the checkpoint is in {run.checkpoints}")
    if best_metric is not None:
        take_best(trainer, best_metric, events)
    bundle.model_info["prefix_sharing"] = trainer.prefix_sharing.describe()  # what batches were like is known by now
    runtime_s = saving.earlier_s + output.metrics["train_runtime"]
    figures = TrainingFigures(
        **_rates(trainer, len(datasets["train"]), tokens_per_row, runtime_s),
        **_speed(recipe, bundle, trainer, runtime_s),
        resumed_from_step=start.step,
        ended_early=_say_early_end(trainer, watch, events),
        checkpoints_waited_s=round(trainer.checkpoints.blocked_s, 2),
    )
    return TrainResult(trainer, output.training_loss, saving.base.metrics, figures, watch)


def _check_base(trainer: Any, bundle: ModelBundle, start: Start, writer: CheckpointWriter) -> dict[str, str] | None:
    """The digest of the base's weights, which checkpoints will have, after a comparison with that of the checkpoint."""
    weights = trainer.distributed.share(digest_of_base(trainer, bundle))
    check_same_base(start, weights)
    writer.facts["base_weights"] = weights
    return weights


def _say_early_end(trainer: Any, watch: Watch, events: EventLog) -> str | None:
    """Why training has ended before its last step; None if it has not, or in another process than the first."""
    state = trainer.state
    if watch.end_reason is None or state.global_step >= state.max_steps:
        return None
    events.note(f"training ended after step {state.global_step} of {state.max_steps}: {watch.end_reason}")
    return watch.end_reason


def _announce_reference(recipe: Recipe, datasets: dict[str, Any], events: EventLog) -> None:
    if objective_of(recipe).reference(recipe.objective) == "frozen":
        events.stage("reference", f"log-probabilities of {sum(map(len, datasets.values()))} rows")


def _announce_training(trainer: EngineTrainer, bundle: ModelBundle, step: int | None, events: EventLog) -> None:
    if trainer.prefix_sharing.refusal:
        events.note(f"prefixes are not shared: {trainer.prefix_sharing.refusal}")
    where = f", from step {step}" if step else ""
    events.stage(
        "train", f"{bundle.model_info['trainable_parameters']:,} trainable parameters on {bundle.device}{where}"
    )


def _end_training(
    trainer: Any, saved_step: int | None, stop: StopRequest, events: EventLog, distributed: DistributedContext
) -> bool:
    """Wait in all processes until the last checkpoint is complete. Returns whether one of them was asked to stop."""
    is_stopped = distributed.any(stop.is_set)
    # It may have been asked after all processes had agreed on the last step.
    if is_stopped and saved_step != trainer.state.global_step:
        trainer._save_checkpoint(trainer.model, trial=None)
    events.emit("saving")  # the watchdog sets no limit to this, also after the last step
    trainer.checkpoints.wait()
    # The first process seals. Once another process has ended, torchrun (2.13) kills it after half a minute, and a
    # checkpoint of many gigabytes takes longer.
    distributed.wait()
    return is_stopped


def _rates(trainer: Any, num_rows: int, tokens_per_row: float, runtime_s: float) -> dict[str, Any]:
    """Steps and rows a second, over the whole run and all processes that have worked on it."""
    rows = trainer.state.epoch * num_rows
    return {
        "num_train_rows": num_rows,
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch, 4),
        "train_runtime_s": round(runtime_s, 2),
        "rows_per_second": round(rows / runtime_s, 3),
        "tokens_per_second": round(rows * tokens_per_row / runtime_s, 1),
    }


def _speed(recipe: Recipe, bundle: ModelBundle, trainer: Any, runtime_s: float) -> dict[str, Any]:
    """Distinct tokens a second, positions saved, and the share of the device's rate if it is known."""
    model_info = bundle.model_info
    flops = flops_per_token(bundle.policy, model_info["total_parameters"], model_info["trainable_parameters"])
    peak = peak_flops(recipe.hardware.profile, bundle.dtype)
    total = sum_positions(trainer.prefix_sharing.trained, trainer.distributed)
    return summarize(total, runtime_s, flops, None if peak is None else peak * trainer.distributed.num_processes)
