"""Checks whether the loss and the settings of DPO fit together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Locate

if TYPE_CHECKING:
    from dpo_recipes.objectives.dpo import DpoParams
    from dpo_recipes.recipe.schema import Recipe

Losses = tuple[str, ...]
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""The losses that use `label_smoothing` in TRL 1.16, where `sigmoid` ignores it."""
_DIVERGENT = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
"""The losses that TRL 1.16 combines with another divergence than `reverse_kl`."""
_SORTS = "it sorts the rewards of a micro-batch, so a weight would meet another pair"
_WITHOUT_WEIGHTING = {
    "aot": _SORTS,
    "aot_unpaired": _SORTS,
    "sft": "it is one mean over the tokens of all chosen answers, so a pair has no loss of its own",
    "hinge": "TRL 1.16 overwrites the loss with the weighted one, and its gradient needs the former",
}
"""The losses that TRL 1.16 cannot combine with `use_weighting`, and why."""


def check_dpo(recipe: Recipe, losses: Losses, locate: Locate) -> Iterator[Finding]:
    """R311 to R313, R356, R358 and R396: the loss and the settings of DPO do not fit together."""
    params, where = cast("DpoParams", recipe.objective), locate(("objective", "loss_type"))
    if not losses:
        yield Finding("R311", "`objective.loss_type` is an empty list", where, None, "name at least one loss")
    weights = params.loss_weights
    if weights is not None and len(weights) != len(losses):
        yield Finding(
            "R311",
            f"{len(weights)} loss_weights for {len(losses)} losses",
            locate(("objective", "loss_weights")),
            "each loss of `loss_type` needs one weight",
            "give the same number of weights and losses, or remove `loss_weights`",
        )
    if "exo_pair" in losses and params.label_smoothing == 0.0:
        yield Finding(
            "R312",
            "`exo_pair` needs `label_smoothing` above 0",
            where,
            "the loss contains its logarithm (https://arxiv.org/abs/2402.00856)",
            "add `label_smoothing: 1e-3`",
        )
    if params.label_smoothing > 0.0 and not {*SMOOTHED} & {*losses}:
        yield Finding(
            "R313",
            f"`label_smoothing` has no effect with {', '.join(losses)}",
            locate(("objective", "label_smoothing"), key=True),
            f"only {', '.join(SMOOTHED)} use it",
            "remove it, or write `loss_type: robust`, which is `sigmoid` for labels of which some are wrong"
            if "sigmoid" in losses
            else "remove it, or choose one of these losses",
        )
    yield from _check_variants(params, losses, locate)
    yield from _check_weights(recipe, losses, locate)
    yield from _check_live_reference(recipe, params, locate)


def _check_weights(recipe: Recipe, losses: Losses, locate: Locate) -> Iterator[Finding]:
    """R356: a weight of each pair with a loss that compares other values than those of one pair."""
    data, sorting = recipe.data, sorting_losses(losses)
    if not sorting:
        return
    held_out = [((section, "sources"), getattr(data, section).sources) for section in ("eval", "test")]
    for at, sources in ((("train",), data.train), *held_out):
        for index, source in enumerate(sources):
            if "weight" in source.columns:
                yield Finding(
                    "R356",
                    f"a weight of each pair cannot be combined with {', '.join(sorting)}",
                    locate(("data", *at, index, "columns", "weight"), key=True),
                    _SORTS,
                    "remove the column, or choose another loss",
                )


def _check_live_reference(recipe: Recipe, params: DpoParams, locate: Locate) -> Iterator[Finding]:
    """R356: a moving reference that never moves; R358: settings that it cannot be combined with; R396: trials whose
    references differ."""
    yield from _check_sweep_of_live_references(recipe, params, locate)
    if not params.sync_ref_model:
        return
    every, max_steps = params.ref_model_sync_steps, recipe.training.max_steps
    if max_steps is not None and max_steps <= every:
        yield Finding(
            "R356",
            f"the reference never moves: it is updated every {every} steps, and there are {max_steps}",
            locate(("objective", "sync_ref_model")),
            "an update after the last step changes nothing",
            f"lower `ref_model_sync_steps` (now {every}), or remove `sync_ref_model`",
        )
    strategy = recipe.launch.strategy
    if strategy not in ("auto", "ddp"):
        yield Finding(
            "R358",
            f"`sync_ref_model` cannot be combined with `{strategy}`",
            locate(("launch", "strategy")),
            "the reference is a copy of the trained weights, which each process must have whole and in 32 bits",
            "write `strategy: ddp`, or remove `sync_ref_model`",
        )
    chosen_by_metrics = {
        ("checkpoints", "keep_best"): recipe.checkpoints.keep_best,
        ("training", "early_stopping"): recipe.training.early_stopping,
    }
    for at in (at for at, is_wanted in chosen_by_metrics.items() if is_wanted):
        yield Finding(
            "R358",
            f"`{at[-1]}` cannot be combined with `sync_ref_model`",
            locate(at),
            "DPO's metrics compare the policy with its reference, and evaluations of different steps have different "
            "references",
            f"remove `{at[-1]}`, or remove `sync_ref_model`",
        )


def _check_sweep_of_live_references(recipe: Recipe, params: DpoParams, locate: Locate) -> Iterator[Finding]:
    """R396, which a metric of the policy alone does not get."""
    sweep = recipe.sweep
    if sweep is None or (sweep.metric or "").startswith("logps/"):
        return
    name = "objective.sync_ref_model"
    moving: list[tuple[str | int, ...]] = [("objective", "sync_ref_model")] if params.sync_ref_model else []
    for kind in ("grid", "zip", "random", "tpe"):
        values = getattr(sweep, kind).get(name, [])
        moving += [("sweep", kind, name, index) for index, value in enumerate(values) if value is True]
    if moving:
        yield Finding(
            "R396",
            "the metrics of a trial with a moving reference cannot be compared with those of other trials",
            locate(moving[0]),
            "DPO's metrics compare the policy with its reference, and each trial ends with another one",
            "remove `sync_ref_model`, or judge the trials by their answers (`evaluation`)",
            "warning",
        )


def _check_variants(params: DpoParams, losses: Losses, locate: Locate) -> Iterator[Finding]:
    """R356: f-divergences and weights that a loss does not have, and settings without effect."""
    if params.f_divergence_type != "reverse_kl" and (others := [loss for loss in losses if loss not in _DIVERGENT]):
        yield Finding(
            "R356",
            f"`f_divergence_type: {params.f_divergence_type}` cannot be combined with {', '.join(others)}",
            locate(("objective", "f_divergence_type")),
            "these losses do not compare the two answers, so that the divergence's unknown constant remains",
            f"choose among the losses {', '.join(sorted(_DIVERGENT))}, or remove it",
        )
    for loss in losses if params.use_weighting else ():
        if loss in _WITHOUT_WEIGHTING:
            yield Finding(
                "R356",
                f"`use_weighting` cannot be combined with {loss}",
                locate(("objective", "use_weighting")),
                _WITHOUT_WEIGHTING[loss],
                "remove `use_weighting`, or choose another loss",
            )
    unused = {
        "f_alpha_divergence_coef": (
            params.f_divergence_type != "alpha_divergence",
            "it belongs to `f_divergence_type: alpha_divergence`",
        ),
        "discopop_tau": ("discopop" not in losses, "it belongs to `loss_type: discopop`"),
        "ref_model_mixup_alpha": (not params.sync_ref_model, "it belongs to `sync_ref_model: true`"),
        "ref_model_sync_steps": (not params.sync_ref_model, "it belongs to `sync_ref_model: true`"),
    }
    for name, (has_no_effect, why) in unused.items():
        if has_no_effect and getattr(params, name) != type(params).model_fields[name].default:
            at = locate(("objective", name), key=True)
            yield Finding("R356", f"`objective.{name}` has no effect", at, why, "remove it, or choose that value")


def sorting_losses(losses: Losses) -> list[str]:
    """Those of the losses that sort the rewards of a micro-batch."""
    return [loss for loss in losses if loss.startswith("aot")]
