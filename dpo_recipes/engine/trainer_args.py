"""The single place that turns a recipe into TRL's arguments. A rename upstream breaks this file and no recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl.trainer.dpo_config import DPOConfig

from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.pair_names import Locate
from dpo_recipes.engine.versions import checkpointing_argument
from dpo_recipes.events import EventLog
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.launch.files import configurations
from dpo_recipes.objectives.dpo import DpoParams
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class RunArguments:
    """What one run adds to its recipe."""

    checkpoints: Path
    device: str
    dtype: str
    distributed: DistributedContext = SINGLE_PROCESS
    events: EventLog | None = None
    """Receives the progress of the reference pass."""
    locate: Locate | None = None
    """Returns the location of a pair's row in its source, for errors that name it."""


def dpo_config(recipe: Recipe, run: RunArguments) -> DPOConfig:
    """TRL 1.16's DPOConfig for a recipe; every value that has another default upstream is set."""
    objective = recipe.objective
    assert isinstance(objective, DpoParams)
    return DPOConfig(
        **_training_arguments(recipe, run),
        beta=objective.beta,
        loss_type=[objective.loss_type] if isinstance(objective.loss_type, str) else list[str](objective.loss_type),
        loss_weights=objective.loss_weights,
        label_smoothing=objective.label_smoothing,
        max_length=None,  # pairs are cut to length when they are tokenized
        # The reference never changes, so each pair meets it once: no second model stays in memory, and epochs and
        # evaluations reuse the numbers.
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=recipe.training.micro_batch_size,
        disable_dropout=False,  # the base's is off already; see model.build
    )


def _training_arguments(recipe: Recipe, run: RunArguments) -> dict[str, Any]:
    training = recipe.training
    batch_size, accumulation = batch_of(recipe).trainer_batch
    evaluates = recipe.data.eval.is_set
    eval_strategy = "epoch" if training.eval_steps == "epoch" else "steps" if training.eval_steps else "no"
    return {
        "output_dir": str(run.checkpoints),
        "num_train_epochs": training.num_epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "lr_scheduler_kwargs": {} if training.min_lr_ratio is None else {"min_lr_rate": training.min_lr_ratio},
        "activation_offloading": training.activation_offloading,
        "warmup_steps": training.warmup_ratio,  # transformers 5 reads a value below 1 as a share of the steps
        "optim": training.optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        checkpointing_argument(): training.gradient_checkpointing,
        "seed": training.seed,
        "bf16": run.dtype == "bfloat16",
        "fp16": run.dtype == "float16",
        "use_cpu": run.device == "cpu",
        "dataloader_pin_memory": run.device == "cuda",
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen, not averaged away
        "eval_strategy": eval_strategy if evaluates else "no",
        "eval_steps": training.eval_steps if eval_strategy == "steps" else None,
        "save_strategy": "no",  # engine.callbacks.checkpoint asks for checkpoints
        "report_to": recipe.tracking.report_to or "none",
        "run_name": recipe.name,
        "project": recipe.tracking.project or recipe.name,
        "disable_tqdm": True,
        "train_sampling_strategy": "random",
        **_parallel_arguments(recipe, run),
    }


def _parallel_arguments(recipe: Recipe, run: RunArguments) -> dict[str, Any]:
    """What spreads the job over processes; transformers and accelerate do it."""
    arguments: dict[str, Any] = {
        "ddp_timeout": round(recipe.launch.timeout_minutes * 60),
        "ddp_find_unused_parameters": False,
        "accelerator_config": dict(recipe.launch.accelerate),
    }
    if run.distributed.launch is None:
        return arguments
    configs = configurations(recipe, run.distributed.launch, run.dtype)
    if "deepspeed.json" in configs:
        arguments["deepspeed"] = configs["deepspeed.json"]
    if "fsdp.json" in configs:
        arguments |= {"fsdp": True, "fsdp_config": configs["fsdp.json"]}
    return arguments
