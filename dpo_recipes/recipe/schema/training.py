"""The `training` section: length of training, batch size, optimizer, schedule, memory and logging."""

import math
from typing import Annotated, Literal

from pydantic import Field

from dpo_recipes.section import Section

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


class EarlyStopping(Section):
    """Ends training when evaluations no longer improve (Prechelt 1998, https://doi.org/10.1007/3-540-49430-8_3). The
    model is then evaluated and saved as after the last step. The schedule of the learning rate is that of the whole
    run."""

    patience: int = Field(
        default=3,
        ge=1,
        description="The number of evaluations in sequence without an improvement after which training ends.",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0.0,
        description="An evaluation improves on the best one so far if it is better by more than this, in the unit of "
        "the metric.",
    )
    metric: str | None = Field(
        default=None,
        description="The key of the metric, such as `rewards/margins`. Absent: the objective's own metric, as with "
        "`checkpoints.keep_best: true`.",
    )


class Training(Section):
    """Optimization. One optimizer step uses micro_batch_size × gradient_accumulation_steps × processes rows."""

    num_epochs: float = Field(
        default=1.0, gt=0.0, description="The number of passes over the training rows; fractions are allowed."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after this number of optimizer steps; overrides `num_epochs`."
    )
    micro_batch_size: int = Field(
        default=2,
        ge=1,
        description="Rows that go through the model at once on one device; a pair has two sequences. If memory is "
        "short, lower it and raise `gradient_accumulation_steps` by the same factor: the result stays the same, unless "
        "the loss compares the rows of a micro-batch (`aot`) or averages over its tokens (`sft`).",
    )
    gradient_accumulation_steps: int = Field(
        default=8, ge=1, description="Micro-batches whose gradients are accumulated for one optimizer step."
    )
    learning_rate: float = Field(
        default=5e-6,
        gt=0.0,
        le=1.0,
        description="The peak learning rate. Usual for DPO: 5e-7 to 5e-6 with full fine-tuning, 5e-6 to 2e-4 with "
        "LoRA.",
    )
    lr_scheduler: Scheduler = Field(default="cosine", description="The learning-rate schedule after the warm-up.")
    min_lr_ratio: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="The final learning rate as a share of the peak. Required by `cosine_with_min_lr`, and used with "
        "nothing else.",
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="The share of the steps over which the learning rate rises, rounded up to W steps. Step k of them "
        "has k / (W + 1) of the peak rate, so no step has a rate of 0. With 0 the first step has the full rate.",
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="The number of steps over which the learning rate rises; overrides `warmup_ratio`.",
    )
    optimizer: Optimizer = Field(
        default="adamw_torch",
        description="The optimizer, by its name in transformers. Those of bitsandbytes (8-bit, paged, Lion, AdEMAMix) "
        "need the extra `quant`, `adamw_torch_8bit` the package `torchao`, and `schedule_free_*` the package "
        "`schedulefree` and a constant `lr_scheduler`.",
    )
    weight_decay: float = Field(default=0.0, ge=0.0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="The global norm to which gradients are clipped.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass. Needs much less memory and about a fifth more time.",
    )
    activation_offloading: bool = Field(
        default=False,
        description="Keep activations in CPU memory between forward and backward pass (CUDA only). Needs less GPU "
        "memory and more time.",
    )
    prefix_sharing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compute the shared prefix of a row's sequences once, and no padding: the same losses with "
        "less time and memory. `auto` does so if a trial at the start shows that the model returns the same hidden "
        "states, and only for batches that have something to share; `on` ends the run if the model does not support "
        "it.",
    )
    max_tokens_per_pass: int | None = Field(
        default=None,
        ge=1,
        description="Fill micro-batches up to this number of tokens, with a shared prompt counted once, instead of "
        "with `micro_batch_size` rows: many short rows go through the model together, and long rows need no more "
        "memory. The rows of an optimizer step and its loss stay the same. Reference passes and evaluations are "
        "divided in the same way, unless the weights are sharded across processes. Without prefix sharing, padding "
        "counts. A loss that compares the rows of a micro-batch or averages over its tokens, such as `aot` "
        "and `sft`, is computed over whole micro-batches of `micro_batch_size` rows; these are divided into passes, "
        "which bounds memory together with `gradient_checkpointing`.",
    )
    logging_steps: int = Field(default=10, ge=1, description="Optimizer steps between two lines of metrics.jsonl.")
    eval_steps: Annotated[int, Field(ge=1)] | Literal["epoch"] | None = Field(
        default=None,
        description="Optimizer steps between two evaluations on the held-out rows, or `epoch` for one after each "
        "epoch. Absent: one evaluation at the end.",
    )
    early_stopping: EarlyStopping | None = Field(
        default=None,
        description="Ending training when the evaluations of `eval_steps` no longer improve. `checkpoints.keep_best` "
        "then saves the best model instead of the last one. null: training never ends for this reason.",
    )
    seed: int = Field(
        default=42,
        ge=0,
        lt=2**32,
        description="The seed of the data order, mixtures, held-out splits and the adapter's initialization.",
    )

    def num_steps(self, epoch_steps: int | None) -> int | None:
        """Optimizer steps of a run whose epochs have `epoch_steps`; None if these are needed and not known."""
        if self.max_steps is not None:
            return self.max_steps
        return None if epoch_steps is None else math.ceil(self.num_epochs * epoch_steps)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Optimizer steps over which the rate rises in a run of `num_steps`, as transformers 5.23 rounds them; 0 for a
        schedule without any."""
        if self.lr_scheduler == "constant":
            return 0
        return math.ceil(num_steps * self.warmup_ratio) if self.warmup_steps is None else self.warmup_steps

    def num_evaluations(self, epoch_steps: int | None = None) -> int | None:
        """The evaluations of `eval_steps` before the last step of a run whose epochs have `epoch_steps`; None if these
        are needed and not known."""
        if self.eval_steps is None:
            return 0
        if self.eval_steps == "epoch" and self.max_steps is None:
            return math.ceil(self.num_epochs) - 1
        steps, every = self.num_steps(epoch_steps), epoch_steps if self.eval_steps == "epoch" else self.eval_steps
        return None if steps is None or every is None else (steps - 1) // every
