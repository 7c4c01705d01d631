"""A reference that moves towards the policy during training (TR-DPO, https://arxiv.org/abs/2404.09656)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.backbone import in_evaluation_mode

_FILE = "reference.safetensors"


class LiveReference:
    """The reference model: the policy's frozen weights, and a copy of its trained ones.

    TRL 1.16 keeps a second whole model, and refuses adapters. Here only trained weights are copied, so an adapter needs
    a second adapter's memory and no second base. Each factor of a LoRA is mixed, as any other weight is.
    """

    def __init__(self, model: Any) -> None:
        """The reference equals the `model` of now, which must have its trainable weights on their device in their
        precision, and must not be sharded."""
        self._model = model
        self.weights = {name: weight.detach().clone() for name, weight in _trained(model)}
        """By the names of the model's parameters."""

    def __call__(self, **inputs: Any) -> Any:
        """The model's outputs with the reference's weights, without dropout."""
        # Autocast caches the copies of weights in 16 bits only for weights that require gradients, so none of the
        # reference's is taken for one of the policy.
        with in_evaluation_mode(self._model):
            return functional_call(self._model, self.weights, kwargs=inputs)

    @torch.no_grad()
    def follow(self, alpha: float) -> None:
        """Mix: alpha · policy + (1 - alpha) · reference, as TRL 1.16's SyncRefModelCallback does."""
        for name, weight in _trained(self._model):
            self.weights[name].mul_(1.0 - alpha).add_(weight.data, alpha=alpha)

    def save(self, folder: str | Path) -> None:
        """Write the weights into a checkpoint."""
        save_file({name: weight.contiguous() for name, weight in self.weights.items()}, Path(folder) / _FILE)

    def load(self, folder: str | Path) -> None:
        """Restore the weights from a checkpoint."""
        for name, weight in load_file(Path(folder) / _FILE).items():
            self.weights[name].copy_(weight)


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class MoveReference(TrainerCallback):
    """Moves the reference every `every_steps` optimizer steps, before a checkpoint or an evaluation of that step."""

    def __init__(
        self, reference: LiveReference, alpha: float, every_steps: int, on_message: Callable[[str], None]
    ) -> None:
        """`on_message` gets a note if the run has too few steps for the reference ever to move."""
        self._reference = reference
        self._alpha = alpha
        self._every_steps = every_steps
        self._on_message = on_message

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report a reference that will never move, which is known only when the steps are counted."""
        if state.max_steps <= self._every_steps:
            self._on_message(
                f"the reference never moves: it is updated every {self._every_steps} steps, and the run has "
                f"{state.max_steps}; lower `ref_model_sync_steps`"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move it, if the step is one of those."""
        if state.global_step % self._every_steps == 0:
            self._reference.follow(self._alpha)
