"""Finds changes that would make a job fit, cheapest first, with the effect of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dpo_recipes.launch.batch import divisors, max_tokens
from dpo_recipes.objectives import fixed_micro_batch_reason, objective_of
from dpo_recipes.recipe.schema import Recipe

Settings = dict[str, Any]
"""Values by their path in a recipe."""


@dataclass(frozen=True)
class Change:
    """Settings that make a job fit, or reduce its memory most."""

    settings: Settings
    price: str
    """A description of their price."""
    peak_bytes: int
    step_s: float
    fits: bool
    is_same_job: bool
    """Whether the result is the same or nearly so, so that `--fit` may decide it without the person."""

    def to_json(self) -> dict[str, Any]:
        """The change as plain data."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Outcome:
    """The memory and time of a variant of a recipe."""

    peak_bytes: int
    step_s: float
    fits: bool


Try = Callable[[Recipe], Outcome]

_EIGHT_BIT = {
    "adamw_torch": "adamw_8bit",
    "adamw_torch_fused": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_8bit",
    "lion_32bit": "lion_8bit",
    "paged_lion_32bit": "paged_lion_8bit",
    "ademamix": "ademamix_8bit",
}
SAME_RESULT = "the same result"


def apply(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with other values."""
    plain = recipe.model_dump(by_alias=True, exclude_none=False)
    for path, value in settings.items():
        *sections, name = path.split(".")
        at = plain
        for section in sections:
            at[section] = at.get(section) or {}
            at = at[section]
        at[name] = value
    return Recipe.model_validate(plain)


def as_written(settings: Settings, recipe: Recipe, num_processes: int) -> Settings:
    """Settings of one process in the form of a recipe. The accumulation of a recipe counts for `launch.num_processes`
    (`auto` counts as one), so that the effective batch stays the same."""
    name, meant = "training.gradient_accumulation_steps", recipe.launch.num_processes
    meant = 1 if meant == "auto" else meant
    if name not in settings or num_processes == meant:
        return settings
    accumulation, rest = divmod(settings[name] * num_processes, meant)
    return {**settings, "launch.num_processes": num_processes} if rest else {**settings, name: accumulation}


def find_changes(recipe: Recipe, try_: Try, *, is_cuda: bool) -> Iterator[Change]:
    """Ways to make a job fit, cheapest first.

    First come changes that keep the result, the faster one first. If none is enough, an optimizer with a smaller state;
    then changes that make it another job, each combined with the smallest of the settings before.
    """
    same = sorted((change for change in _same_result(recipe, try_) if change.fits), key=lambda change: change.step_s)
    yield from same
    if same:
        return
    leanest = _leanest(recipe)
    optimizer = _EIGHT_BIT.get(recipe.training.optimizer) if is_cuda else None
    if optimizer:
        leanest = {**leanest, "training.optimizer": optimizer}
        change = _change(recipe, try_, leanest, "the optimizer state in 8 bits: results differ slightly")
        yield change
        if change.fits:
            return
    yield from _other_losses(recipe, try_, leanest)
    for settings, price in _other_jobs(recipe, is_cuda=is_cuda):
        yield _change(recipe, try_, {**leanest, **settings}, price, is_same_job=False)


def _same_result(recipe: Recipe, try_: Try) -> Iterator[Change]:
    """The largest micro-batch that fits with the same effective batch, with checkpointing as it is and turned on."""
    for checkpointing in sorted({recipe.training.gradient_checkpointing, True}):
        for smaller in _smaller_micro_batches(recipe):
            settings = {**smaller, **_checkpointing(recipe, checkpointing)}
            if settings:
                change = _change(recipe, try_, settings, SAME_RESULT)
                yield change
                if change.fits:
                    break


def _smaller_micro_batches(recipe: Recipe) -> list[Settings]:
    """Settings of micro-batches with the same effective batch and result, from the recipe's down to the smallest. A
    token budget is halved down to the longest row; a number of rows takes every size that divides the rows of a
    step. A micro-batch that the loss depends on has no smaller one."""
    if fixed_micro_batch_reason(recipe):
        return [{}]
    most = max_tokens(recipe)
    if most is not None:
        least = min(most, 2 * recipe.data.max_length)
        budgets = [most]
        while budgets[-1] > least:
            budgets.append(max(least, budgets[-1] // 2))
        return [{} if budget == most else {"training.max_tokens_per_pass": budget} for budget in budgets]
    return [{}, *_smaller_sizes(recipe)]


def _smaller_sizes(recipe: Recipe) -> list[Settings]:
    """Settings of micro-batches with fewer rows and the same effective batch, the largest first."""
    training = recipe.training
    total = training.micro_batch_size * training.gradient_accumulation_steps
    return [
        {"training.micro_batch_size": size, "training.gradient_accumulation_steps": total // size}
        for size in divisors(total, training.micro_batch_size - 1)
    ]


def _checkpointing(recipe: Recipe, wanted: bool) -> Settings:
    return {} if wanted == recipe.training.gradient_checkpointing else {"training.gradient_checkpointing": wanted}


def _leanest(recipe: Recipe) -> Settings:
    return {**_smaller_micro_batches(recipe)[-1], **_checkpointing(recipe, True)}


def _other_losses(recipe: Recipe, try_: Try, leanest: Settings) -> Iterator[Change]:
    """The largest smaller micro-batch that fits, or the smallest, if the loss depends on the micro-batch."""
    reason = fixed_micro_batch_reason(recipe)
    if reason is None:
        return
    # A loss that compares rows needs two of them.
    least = 2 if objective_of(recipe).couples_batch(recipe.objective) else 1
    smaller = [size for size in _smaller_sizes(recipe) if size["training.micro_batch_size"] >= least]
    for settings in smaller:
        price = f"other results: {reason}"
        change = _change(recipe, try_, {**leanest, **settings}, price, is_same_job=False)
        if change.fits or settings is smaller[-1]:
            yield change
            return


def _other_jobs(recipe: Recipe, *, is_cuda: bool) -> Iterator[tuple[Settings, str]]:
    model, data = recipe.model, recipe.data
    if model.adapter is None:
        yield {"model.adapter": {"kind": "lora"}}, "LoRA instead of all weights: another learning rate (docs/advice.md)"
    if model.quantization is None and is_cuda and not model.path.endswith(".gguf"):
        settings: Settings = {"model.quantization": {"bits": 4}}
        if model.adapter is None:
            settings["model.adapter"] = {"kind": "lora"}
        yield settings, "QLoRA: the base in 4 bits, a third slower"
    length = data.max_length // 2
    if length >= 128:
        yield {"data.max_length": length}, "longer rows are dropped or cut, as `data.overlong` says"


def _change(recipe: Recipe, try_: Try, settings: Settings, price: str, *, is_same_job: bool = True) -> Change:
    outcome = try_(apply(recipe, settings))
    return Change(settings, price, outcome.peak_bytes, outcome.step_s, outcome.fits, is_same_job)
