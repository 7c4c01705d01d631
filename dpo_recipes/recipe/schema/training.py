"""The `training` section: how long, how large, how fast."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section

Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "polynomial",
]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_torch_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adafactor",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "ademamix",
    "ademamix_8bit",
    "rmsprop",
    "adagrad",
    "schedule_free_adamw",
    "schedule_free_radam",
    "sgd",
]


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
    lr_scheduler: Scheduler = Field(default="cosine", description="Course of the learning rate after the warm-up.")
    min_lr_ratio: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="Where the learning rate ends, as a share of its peak; with `cosine_with_min_lr`, which needs it.",
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="Share of the steps over which the learning rate rises, rounded up to W steps: step k of them has "
        "k / (W + 1) of the peak, so that none has a rate of 0. With 0 the first step has the full rate.",
    )
    optimizer: Optimizer = Field(
        default="adamw_torch",
        description="By the name transformers gives it. 8-bit and paged ones come with the extra `quant`, "
        "`schedule_free_*` with `schedule-free`; a `schedule_free_*` optimizer needs `lr_scheduler: constant`.",
    )
    weight_decay: float = Field(default=0.0, ge=0.0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="Gradients are scaled down to this global norm.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: much less memory, about a fifth more time.",
    )
    activation_offloading: bool = Field(
        default=False,
        description="Keep activations in the computer's memory between forward and backward pass (CUDA): less GPU "
        "memory, more time.",
    )
    prefix_sharing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compute what a pair's two sequences begin with once, and no padding: the same losses in a part of "
        "the time and memory. `auto` does so where a trial at the start shows that the model gives the same hidden "
        "states, and where a batch has something to share; `on` ends the run where the model cannot.",
    )
    max_tokens_per_pass: int | None = Field(
        default=None,
        ge=1,
        description="Fill micro-batches to so many tokens, a shared prompt counted once, rather than with "
        "`micro_batch_size` pairs: many short pairs go through the model together, and a few long ones need no more "
        "memory. The pairs of an optimizer step and its loss stay the same. The reference and evaluations are divided "
        "alike, but not where processes share the weights themselves. Without prefix sharing, padding counts. The "
        "losses `aot`, `aot_unpaired` and `sft` look at whole micro-batches and keep theirs, divided into passes, "
        "which bounds memory with `gradient_checkpointing`.",
    )
    logging_steps: int = Field(default=10, ge=1, description="Optimizer steps between two rows of metrics.jsonl.")
    eval_steps: Annotated[int, Field(ge=1)] | Literal["epoch"] | None = Field(
        default=None,
        description="Optimizer steps between two evaluations on the held-out pairs, or `epoch` for one after each. "
        "Absent: only at the end.",
    )
    seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of the data order, the split, the adapter's start and sampling."
    )
