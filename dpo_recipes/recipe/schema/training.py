"""The `training` section: how long, how large, how fast."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section


class Training(Section):
    """Optimization: one optimizer step sees micro_batch_size × gradient_accumulation_steps × processes pairs."""

    num_epochs: float = Field(default=1.0, gt=0.0, description="Passes over the training pairs; may be a fraction.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after so many optimizer steps, whatever `num_epochs` says."
    )
    micro_batch_size: int = Field(
        default=2,
        ge=1,
        description="Pairs that go through the model at once on one device. Each is two sequences. Lower it when "
        "memory is short and raise `gradient_accumulation_steps` by the same factor.",
    )
    gradient_accumulation_steps: int = Field(
        default=8, ge=1, description="Micro-batches whose gradients are summed before one optimizer step."
    )
    learning_rate: float = Field(
        default=5e-6,
        gt=0.0,
        le=1.0,
        description="Peak learning rate. Usual for DPO: 5e-7 to 5e-6 with full fine-tuning, 5e-6 to 2e-4 with LoRA.",
    )
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"] = Field(
        default="cosine", description="Course of the learning rate after the warm-up."
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="Share of the steps over which the learning rate rises from 0."
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"] = Field(
        default="adamw_torch", description="The optimizer, by the name transformers gives it."
    )
    weight_decay: float = Field(default=0.0, ge=0.0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="Gradients are scaled down to this global norm.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: much less memory, about a fifth more time.",
    )
    logging_steps: int = Field(default=10, ge=1, description="Optimizer steps between two rows of metrics.jsonl.")
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two evaluations on the held-out pairs. Absent: only at the end.",
    )
    save_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two checkpoints. Absent: only when the run is interrupted.",
    )
    seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of the data order, the split, the adapter's start and sampling."
    )
