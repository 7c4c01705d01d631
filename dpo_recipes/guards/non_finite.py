"""Numbers that are NaN or infinite."""

from __future__ import annotations

from itertools import takewhile

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number

_ROWS_IN_FLOAT16 = 8
"""In float16, the loss is scaled so that gradients do not vanish. A step whose gradients overflow is left out and the
scale is halved, which is normal in the first steps: from 65,536 (torch's first scale) eight times halved is 256."""


class NonFinite(Guard):
    """Numbers that are NaN or infinite: the gradient norm of training, and the held-out loss. A training loss that is
    not a number always ends the run (T604)."""

    name = "non_finite"
    code = "T651"
    fires = (
        "the gradient norm or the held-out loss is NaN or infinite; in float16, a gradient norm in "
        f"{_ROWS_IN_FLOAT16} logged rows in sequence"
    )
    reason = (
        "all gradients are multiplied with the limit over their norm, so that such a norm reaches every weight; in "
        "float16 the steps are left out, and nothing is learned"
    )
    sources = (
        Reference("PyTorch", "https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html"),
        Reference("Micikevicius et al. 2018", "https://arxiv.org/abs/1710.03740"),
    )
    kinds = ("training", "evaluation")

    def look(self, job: Job, history: History) -> Sighting | None:
        """After a training row the gradient norm, after an evaluation the loss."""
        fix = "lower `training.learning_rate`, or use `model.dtype: float32`"
        evaluation = history.evaluations[-1] if history.evaluations else None
        if evaluation is not None and number(evaluation, "eval_loss") is None:
            return Sighting(f"the held-out loss is not a finite number at step {evaluation['step']}", fix)
        broken = list(takewhile(lambda row: row.get("grad_norm", 0.0) is None, reversed(history.training)))
        if len(broken) < (_ROWS_IN_FLOAT16 if job.dtype == "float16" else 1):
            return None
        return Sighting(f"the gradient norm is not a finite number at step {broken[-1]['step']}", fix)
