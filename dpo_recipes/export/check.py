"""The saved model is loaded again with transformers and peft, and must compute what the trained one does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dpo_recipes.errors import Finding, Interrupted, in_one_line, is_out_of_memory
from dpo_recipes.export.save import SavedModel, saved_kind
from dpo_recipes.hardware.machine import free_memory_bytes
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.model.loading import lacks_memory
from dpo_recipes.model.saved import load_saved
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_result import SavedModelComparison

_ROWS = 4
_TOKENS, _POSITIONS = 256, 16
"""The tokens of a text that are computed, and the last positions of these whose logits are compared."""
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The difference that rounding may cause, as a share of the largest logit. A wrong or missing matrix changes logits by
about as much as they are."""
_TF32, _INT8 = 2e-3, 1e-1
"""The same for float32 on CUDA, where matrix products may use TF32, and for 8-bit bases, which round activations too
until they are unpacked and merged."""


class SavedModelCheck:
    """Compares the saved model with the trained one on a few held-out rows; without any, on training rows.

    Create it before saving, because an adapter may be merged into the trained model itself. No failure of the check
    ends the run.
    """

    def __init__(self, trainer: Any, recipe: Recipe, bundle: ModelBundle, strategy: str) -> None:
        self.trainer, self.recipe, self.bundle = trainer, recipe, bundle
        self.reason: str | None = None
        """Why nothing can be compared."""
        self.num_rows = 0
        self._texts: list[list[int]] = []
        self._trained: list[torch.Tensor] = []
        if strategy != "ddp":
            self.reason = f"with `{strategy}` no process can compute the trained model alone"
        elif saved_kind(recipe, bundle) == "merged":
            self._attempt(self._note_trained)

    def compare(self, saved: SavedModel) -> tuple[SavedModelComparison, list[Finding]]:
        """The `saved_model` of result.json, and the error M525 if the saved model computes other logits.

        The optimizer is discarded and a fully tuned model is rounded to what was saved: the trainer must not be used
        afterwards.
        """
        if saved.kind != "merged":
            self._attempt(lambda: self._round(saved.dtype) if saved.kind == "full" else None)
            self._attempt(self._note_trained)
        self._attempt(self._free_memory)
        itemsize = getattr(torch, self._dtype(saved)).itemsize
        size = self.bundle.model_info["total_parameters"] * itemsize
        self.reason = self.reason or lacks_memory(size, self.bundle.device)
        logits = self._attempt(lambda: self._logits(self._reload(saved)))
        if logits is None:
            return SavedModelComparison(checked=False, reason=self.reason), []
        return self._judge(logits, saved)

    def _attempt(self, step: Callable[[], Any]) -> Any:
        """Execute a step unless an earlier one has failed; a failure becomes the reason and is logged."""
        if self.reason is not None:
            return None
        try:
            return step()
        except Exception as error:  # the model is saved: a check that fails must not end the run
            traceback.print_exc()
            self.reason = in_one_line(error)[:300]
            if isinstance(error, Interrupted):
                self.reason = "the run was asked to stop"
            if is_out_of_memory(error):
                self.reason = "there was not enough memory to load it beside the trained one"

    def _note_trained(self) -> None:
        trainer = self.trainer
        dataset = trainer.eval_dataset or trainer.test_dataset or trainer.train_dataset
        rows = [dataset[index] for index in range(min(_ROWS, len(dataset)))]
        self.num_rows = len(rows)
        # A prompt that the model answers in training has no answer here.
        self._texts = [(row["prompt_ids"] + ids)[:_TOKENS] for row in rows for ids in row["answer_ids"] or [[]]]
        self._trained = self._logits(trainer.model)

    @torch.no_grad()
    def _logits(self, model: Any) -> list[torch.Tensor]:
        model.eval()
        accelerator, logits = self.trainer.accelerator, []
        for text in self._texts:
            with accelerator.autocast():
                output = model(input_ids=torch.tensor([text], device=accelerator.device))
            # Those of a position, [1, T, V], or of a whole text, [1, 1].
            last = output.logits.flatten(0, -2)[-_POSITIONS:]
            logits.append(last.float().cpu())
        return logits

    def _round(self, dtype: str) -> None:
        """Round the trained weights to the saved format, so that only a fault makes a difference."""
        for weight in self.trainer.model.parameters():
            if weight.is_floating_point():
                weight.data.copy_(weight.data.to(getattr(torch, dtype)))

    def _free_memory(self) -> None:
        """Discard optimizer and gradients, and move the trained model from a GPU to CPU memory if it fits."""
        trainer = self.trainer
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
        for weight in trainer.model.parameters():
            weight.grad = None
        trainer.accelerator.free_memory()
        size = sum(weight.numel() * weight.element_size() for weight in trainer.model.parameters())
        if self.bundle.device == "cuda" and not self._is_quantized and 3 * size < free_memory_bytes("cpu"):
            trainer.model.to("cpu")
            torch.cuda.empty_cache()

    @property
    def _is_quantized(self) -> bool:
        return getattr(self.bundle.policy, "hf_quantizer", None) is not None

    def _dtype(self, saved: SavedModel) -> str:
        """The number format into which it is loaded: that of the trained model, so that both are computed alike."""
        return "float32" if saved.kind == "full" else self.bundle.dtype

    def _reload(self, saved: SavedModel) -> Any:
        bundle = self.bundle
        return load_saved(
            saved.folder,
            saved.kind,
            partial(reload_base, self.recipe, bundle, bundle.device),
            device=bundle.device,
            dtype=self._dtype(saved),
            attention=bundle.model_info["attention"],
            trust_remote_code=bundle.trust_remote_code,
        )

    def _judge(self, logits: list[torch.Tensor], saved: SavedModel) -> tuple[SavedModelComparison, list[Finding]]:
        largest = max(_largest(one, two) for one, two in zip(logits, self._trained, strict=True))
        scale = max(_largest(one) for one in self._trained)
        is_equal = largest <= self._tolerance(saved) * scale
        result = SavedModelComparison(
            checked=True,
            equal=is_equal,
            rows=self.num_rows,
            largest_logit_difference=largest,
            largest_logit=scale,
        )
        return result, [] if is_equal else [describe_difference(saved, largest, scale)]

    def _tolerance(self, saved: SavedModel) -> float:
        bundle = self.bundle
        tolerance = _TOLERANCE[bundle.dtype]
        if bundle.device == "cuda":
            tolerance = max(tolerance, _TF32)
        if saved.kind == "merged":
            tolerance = max(tolerance, _TOLERANCE[saved.dtype])
            quantization = self.recipe.model.quantization
            if quantization is not None and quantization.bits == 8:
                tolerance = max(tolerance, _INT8)
        return tolerance


def _largest(one: torch.Tensor, two: torch.Tensor | None = None) -> float:
    """The largest logit, or the largest difference of the logits that both have, as rows may be added to an embedding.
    For NaN and infinity, the largest float, which JSON can hold."""
    if two is not None:
        width = min(one.shape[-1], two.shape[-1])
        one = one[:, :width] - two[:, :width]
    most = torch.finfo(torch.float32).max
    return float(one.abs().nan_to_num(nan=most, posinf=most).max())


def describe_difference(saved: SavedModel, largest: float, scale: float) -> Finding:
    """M525."""
    return Finding(
        "M525",
        f"the model in {saved.folder} does not compute what the trained one does",
        why=f"loaded again, its logits differ by up to {largest:.3g}; the largest logit is {scale:.3g}",
        fix="do not use it before the cause is known: try another `model.adapter.save_as` or "
        "`model.save_dtype: float32`, and report this with run.log",
    )
