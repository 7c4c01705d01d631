"""The single place that turns a recipe into a trainer's arguments. A rename upstream breaks this file and no recipe."""

from __future__ import annotations

from typing import Any

from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.versions import checkpointing_argument
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.launch.files import configurations


def training_arguments(context: TrainingContext) -> dict[str, Any]:
    """The arguments of transformers 5.24's TrainingArguments, which TRL's configurations extend."""
    recipe, training = context.recipe, context.recipe.training
    batch_size, accumulation = batch_of(recipe).trainer_batch
    evaluates = recipe.data.eval.is_set
    eval_strategy = "epoch" if training.eval_steps == "epoch" else "steps" if training.eval_steps else "no"
    return {
        "output_dir": str(context.output_dir),
        "num_train_epochs": training.num_epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "lr_scheduler_kwargs": {} if training.min_lr_ratio is None else {"min_lr_rate": training.min_lr_ratio},
        # transformers 5 reads a value below 1 as a share of the steps.
        "warmup_steps": training.warmup_ratio if training.warmup_steps is None else training.warmup_steps,
        "optim": training.optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        checkpointing_argument(): training.gradient_checkpointing,
        "seed": training.seed,
        "bf16": context.dtype == "bfloat16",
        "fp16": context.dtype == "float16",
        "use_cpu": context.device == "cpu",
        "dataloader_pin_memory": context.device == "cuda",
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen, not averaged away
        "eval_strategy": eval_strategy if evaluates else "no",
        "eval_steps": training.eval_steps if eval_strategy == "steps" else None,
        "save_strategy": "no",  # engine.callbacks.checkpoint asks for checkpoints
        "report_to": "none",  # engine/trackers: an exception in a callback of transformers would end the run
        "disable_tqdm": True,
        "train_sampling_strategy": "random",
        **_parallel_arguments(context),
    }


def _parallel_arguments(context: TrainingContext) -> dict[str, Any]:
    """What spreads the job over processes; transformers and accelerate do it."""
    recipe, launch = context.recipe, context.distributed.launch
    arguments: dict[str, Any] = {
        "ddp_timeout": round(recipe.launch.timeout_minutes * 60),
        "ddp_find_unused_parameters": False,
        "accelerator_config": dict(recipe.launch.accelerate),
    }
    if launch is None:
        return arguments
    configs = configurations(recipe, launch, context.dtype)
    if "deepspeed.json" in configs:
        arguments["deepspeed"] = configs["deepspeed.json"]
        is_stage_3 = configs["deepspeed.json"]["zero_optimization"]["stage"] == 3
        if is_stage_3 and recipe.model.adapter is not None and recipe.training.gradient_checkpointing:
            # Otherwise the recomputed weights of a layer are empty (https://github.com/huggingface/trl/issues/2514).
            # TRL 1.16 sets it under its old name when the trainer is built, which transformers 5.24 no longer reads.
            arguments[f"{checkpointing_argument()}_kwargs"] = {"use_reentrant": True}
    if "fsdp.json" in configs:
        arguments |= {"fsdp": True, "fsdp_config": configs["fsdp.json"]}
    return arguments
