"""Schedule, warm-up and optimizer, by their names in transformers, which all of these tools use."""

from __future__ import annotations

from typing import get_args

from dpo_recipes.recipe.schema.training import Optimizer, Scheduler
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.values import mapping, number, text

_SCHEDULERS = {
    "cosine_warmup_with_min_lr": "cosine_with_min_lr",
    "warmup_stable_decay": "constant_with_warmup",
    "reduce_lr_on_plateau": "constant_with_warmup",
    "one_cycle": "cosine",
    "rex": "linear",
    "log_sweep": "constant",
    "greedy": "constant_with_warmup",
}
"""Schedules that do not exist here, with the most similar one."""
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adam": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_torch_xla": "adamw_torch",
    "adamw_torch_npu_fused": "adamw_torch_fused",
    "adamw_apex_fused": "adamw_torch_fused",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
    "rmsprop_bnb": "rmsprop",
    "rmsprop_bnb_32bit": "rmsprop",
    "paged_ademamix_32bit": "ademamix",
    "paged_ademamix_8bit": "ademamix_8bit",
    "ao_adamw_8bit": "adamw_torch_8bit",
}
"""Other names of optimizers that exist here."""
_SIMILAR = {"rmsprop_bnb_8bit": "rmsprop", "adamw_anyprecision": "adamw_torch", "adamw_torch_4bit": "adamw_torch_8bit"}
NO_CLIPPING = 1e9


def map_optimizer(keys: Keys, name: str, default: str) -> None:
    """`training.optimizer`."""
    draft = keys.draft
    given = keys.get(name, text)
    if given is None:
        draft.default("training.optimizer", default)
        return
    plain = given.removeprefix("OptimizerNames.").lower()
    known = plain if plain in get_args(Optimizer) else _OPTIMIZERS.get(plain)
    if known is not None:
        note = "" if known == given else f"`{given}` is another name of it"
        draft.put("training.optimizer", known, keys.key(name), note=note)
        return
    similar = _SIMILAR.get(plain, "lion_32bit" if "lion" in plain else "sgd" if "sgd" in plain else "adamw_torch")
    note = f"there is no `{given}` here; {similar} instead, which may need another learning rate"
    draft.put("training.optimizer", similar, keys.key(name), note=note, differs=True)


def map_scheduler(keys: Keys, name: str, default: str, kwargs: str = "lr_scheduler_kwargs") -> None:
    """`training.lr_scheduler` and `min_lr_ratio`."""
    draft, to = keys.draft, "training.lr_scheduler"
    given = keys.get(name, text)
    if given is None:
        draft.default(to, default)
    else:
        plain = given.removeprefix("SchedulerType.").lower()
        known = plain if plain in get_args(Scheduler) else _SCHEDULERS.get(plain)
        if known == plain:
            draft.put(to, known, keys.key(name))
        else:
            similar = known or default
            note = f"there is no `{given}` here; {similar} instead"
            draft.put(to, similar, keys.key(name), note=note, differs=similar != "cosine_with_min_lr")
    settings = keys.get(kwargs, mapping, {})
    inner = Keys(draft, (*keys.at, kwargs), settings)
    _map_min_rate(inner, draft)
    if inner.at not in draft.config.keys:  # a mapping, and not the JSON text of one
        settings = {key: value for key, value in settings.items() if (*inner.at, key) not in draft.outcomes}
    elif inner.at in draft.outcomes:
        settings = {}
    for key in settings:
        if key not in ("min_lr", "min_lr_rate"):
            inner.list(key, "this setting of the schedule does not exist here", differs=True)


def _map_min_rate(inner: Keys, draft: Draft) -> None:
    to, peak = "training.min_lr_ratio", draft.value("training.learning_rate")
    rate, ratio = inner.get("min_lr", number), inner.get("min_lr_rate", number)
    is_with_min = draft.value("training.lr_scheduler") == "cosine_with_min_lr"
    if not is_with_min:
        if rate or ratio:
            note = "only `cosine_with_min_lr` has a lowest rate"
            inner.derive(["min_lr", "min_lr_rate"], "training.lr_scheduler", note=note, differs=True)
    elif ratio is not None:
        draft.put(to, ratio, inner.key("min_lr_rate"))
    elif rate is not None and peak:
        draft.put(to, float(f"{rate / peak:.6g}"), inner.key("min_lr"), note=f"{rate:g} of the peak {peak:g}")
    else:
        draft.default(to, 0.0)


def map_warmup(keys: Keys, default: float = 0.0) -> None:
    """`training.warmup_ratio` or `warmup_steps`. transformers reads steps below 1 as a ratio; steps win over a ratio,
    unless they are 0."""
    draft = keys.draft
    steps, ratio = keys.get("warmup_steps", number), keys.get("warmup_ratio", number)
    if steps:
        if steps < 1:
            draft.put("training.warmup_ratio", steps, keys.key("warmup_steps"), note="below 1 it is a ratio")
        else:
            draft.put("training.warmup_steps", round(steps), keys.key("warmup_steps"))
        keys.list("warmup_ratio", "`warmup_steps` overrides it", differs=False)
        return
    if ratio is not None:
        draft.put("training.warmup_ratio", ratio, keys.key("warmup_ratio"))
        keys.derive(["warmup_steps"], "training.warmup_ratio", note="0 leaves it to `warmup_ratio`")
    elif steps is not None:
        draft.put("training.warmup_ratio", 0.0, keys.key("warmup_steps"))
    else:
        draft.default("training.warmup_ratio", default)


def map_length(keys: Keys, epochs: str, default: float) -> None:
    """`training.num_epochs` and `max_steps`, which overrides it if it is above 0."""
    draft = keys.draft
    if not keys.map(epochs, "training.num_epochs"):
        draft.default("training.num_epochs", default)
    steps = keys.get("max_steps", number)
    if steps is not None and steps > 0:
        draft.put("training.max_steps", round(steps), keys.key("max_steps"))
    elif steps is not None:
        keys.derive(["max_steps"], "training.num_epochs", note="0 or less leaves the length to the epochs")


def map_clipping(keys: Keys, name: str = "max_grad_norm", default: float = 1.0) -> None:
    """`training.max_grad_norm`, of which 0 means no clipping in transformers."""
    value = keys.get(name, number)
    if value is None:
        keys.draft.default("training.max_grad_norm", default)
    elif value > 0:
        keys.draft.put("training.max_grad_norm", value, keys.key(name))
    else:
        keys.draft.put("training.max_grad_norm", NO_CLIPPING, keys.key(name), note="0: gradients are not clipped")
