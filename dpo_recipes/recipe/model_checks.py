"""Checks of how the model is built and optimized: quantization, adapters, optimizers and schedules."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.paths import exists, looks_local, relative_note
from dpo_recipes.recipe.rule_findings import does_nothing
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.adapter import LoraAdapter
from dpo_recipes.recipe.schema.quantization import Quantization

_MODULE_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_FROM_BITSANDBYTES = ("8bit", "paged", "lion", "ademamix")
_OF_FOUR_BITS = ("quant_type", "double_quant", "compute_dtype")
_OF_A_NEW_ADAPTER = ("r", "alpha", "dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora", "init")


def optimizer_library(optimizer: str) -> tuple[str, str] | None:
    """The library that provides an optimizer of the schema, and the command that installs it; None for torch's own."""
    if optimizer.startswith("schedule_free"):
        return "schedulefree", "pip install schedulefree"
    if optimizer == "adamw_torch_8bit":
        return "torchao", "pip install torchao"
    if any(part in optimizer for part in _FROM_BITSANDBYTES):
        return "bitsandbytes", "pip install 'dpo-recipe[quant]'"
    return None


def saves_adapter(recipe: Recipe) -> bool:
    """Whether a run saves its adapter alone, and not a whole model."""
    adapter = recipe.model.adapter
    if adapter is None:
        return False
    return adapter.save_as == "adapter" or (adapter.save_as == "auto" and not recipe.model.path.endswith(".gguf"))


def check_quantization(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R316, R327, R331, R332: a quantized base without an adapter or without its library, a base that cannot be
    quantized, or a field without effect."""
    quantization, at = recipe.model.quantization, ("model", "quantization")
    if quantization is None:
        return
    where = composed.where(at, key=True)
    if recipe.model.adapter is None:
        yield Finding(
            "R331",
            "a quantized base needs an adapter",
            where,
            f"weights of {quantization.bits} bits are too coarse for the small steps of training",
            "add `adapter: {kind: lora}` under `model`, or remove `quantization`",
        )
    if recipe.model.path.endswith(".gguf"):
        yield Finding(
            "R332",
            "a GGUF file cannot be quantized by bitsandbytes",
            where,
            "its weights are already quantized, and are dequantized for training",
            "remove `quantization`, or use a base with safetensors",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        why, fix = "4-bit and 8-bit weights need it", "pip install 'dpo-recipe[quant]', or remove `quantization`"
        yield Finding("R316", "bitsandbytes is not installed", where, why, fix)
    if quantization.bits == 8:
        for field in _OF_FOUR_BITS:
            if getattr(quantization, field) != Quantization.model_fields[field].default:
                yield does_nothing((*at, field), "it is used with `bits: 4` only", composed)


def check_adapter(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R301, R327, R333, R334, R338: a continued adapter, names of modules, or settings that do not fit together."""
    adapter, at = recipe.model.adapter, ("model", "adapter")
    if adapter is None:
        return
    if recipe.model.save_dtype != "auto" and saves_adapter(recipe):
        why = "an adapter alone is saved in 32 bits, as it was trained; `save_dtype` is used with `save_as: merged`"
        yield does_nothing(("model", "save_dtype"), why, composed)
    if adapter.path is not None:
        yield from _check_continued(adapter, composed)
    yield from _check_names(adapter, composed)
    refusal = _refuse_init(adapter, recipe.model.quantization)
    if refusal:
        why, fix = refusal
        yield Finding("R334", f"`init: {adapter.init}` cannot be used here", composed.where((*at, "init")), why, fix)


def _check_continued(adapter: LoraAdapter, composed: Composed) -> Iterator[Finding]:
    at = ("model", "adapter")
    path = Path(adapter.path or "")
    if (looks_local(str(path)) or path.is_absolute()) and not exists(path / "adapter_config.json"):
        note = "it has no adapter_config.json" if exists(path) else relative_note(composed, (*at, "path"))
        fix = "give the folder that a run or `save_pretrained` wrote"
        yield Finding("R301", f"there is no adapter in {path}", composed.where((*at, "path")), note, fix)
    for field in _OF_A_NEW_ADAPTER:
        if getattr(adapter, field) != LoraAdapter.model_fields[field].get_default(call_default_factory=True):
            yield Finding(
                "R333",
                f"`{field}` cannot be changed for an adapter that is continued",
                composed.where((*at, field), key=True),
                f"{adapter.path} has its own",
                f"remove `{field}`, or remove `path` to train a new adapter",
            )


def _check_names(adapter: LoraAdapter, composed: Composed) -> Iterator[Finding]:
    """R338: an entry in a list of module names that is not a name, or an invalid regular expression."""
    targets, at = adapter.target_modules, ("model", "adapter", "target_modules")
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            fix = "write a list of names, `all-linear`, or a regular expression"
            yield Finding("R338", f"`{targets}` is not a valid regular expression", composed.where(at), str(error), fix)
    elif not targets:
        fix = "remove it, which means `all-linear`, or name modules"
        yield Finding("R338", "`target_modules` is an empty list", composed.where(at), "nothing would be trained", fix)
    for index, name in enumerate(() if isinstance(targets, str) else targets):
        if not _MODULE_NAME.fullmatch(name) or name.lower() == "all-linear":
            why = "a list contains only names, and a pattern in it would match nothing"
            fix = f"write one text instead of a list: `target_modules: {_quoted(name)}`" if name else "remove it"
            what = f"`{name}` in the list `target_modules` is not the name of a module"
            yield Finding("R338", what, composed.where((*at, index)), why, fix)
    for index, name in enumerate(adapter.modules_to_save):
        if not _MODULE_NAME.fullmatch(name):
            what, why = (
                f"`{name}` in `modules_to_save` is not the name of a module",
                "it contains names and no patterns",
            )
            where = composed.where(("model", "adapter", "modules_to_save", index))
            yield Finding("R338", what, where, why, "write the name of a module, such as `embed_tokens`")


def _quoted(text: str) -> str:
    """A text as a YAML scalar, quoted if necessary."""
    return text if _MODULE_NAME.fullmatch(text) else "'" + text.replace("'", "''") + "'"


def _refuse_init(adapter: LoraAdapter, quantization: Quantization | None) -> tuple[str, str] | None:
    """The reason why an initialization cannot be used, and the fix; None if it can be used."""
    moves_base = adapter.init in ("pissa", "olora")
    if adapter.init == "loftq" and (quantization is None or quantization.bits != 4):
        return (
            "LoftQ compensates for the quantization error of a 4-bit base",
            "add `quantization: {bits: 4}`, or remove `init`",
        )
    if moves_base and quantization is not None:
        return (
            "it moves weights of the base into the adapter, which a quantized base does not allow",
            "use `init: loftq`",
        )
    if moves_base and adapter.use_dora:
        return "a DoRA update cannot be saved as the difference from its start", "remove `use_dora` or `init`"
    if adapter.init == "orthogonal" and adapter.r % 2:
        return "it needs an even rank", f"write `r: {adapter.r + 1}`"
    return None


def check_optimizer(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R316: the optimizer's library is not installed; R335: the schedule does not fit the optimizer or lacks a setting;
    R327: a setting has no effect."""
    training = recipe.training
    where = composed.where(("training", "optimizer"))
    library = optimizer_library(training.optimizer)
    if library is not None and importlib.util.find_spec(library[0]) is None:
        fix = f"{library[1]}, or write `optimizer: adamw_torch`"
        yield Finding("R316", f"{library[0]} is not installed", where, f"`{training.optimizer}` comes from it", fix)
    if training.optimizer.startswith("schedule_free") and not training.lr_scheduler.startswith("constant"):
        yield Finding(
            "R335",
            f"`{training.optimizer}` cannot be used with `lr_scheduler: {training.lr_scheduler}`",
            composed.where(("training", "lr_scheduler")),
            "it averages its steps instead of lowering the learning rate (https://arxiv.org/abs/2405.15682)",
            "write `lr_scheduler: constant_with_warmup`, or another optimizer",
        )
    needs_end = training.lr_scheduler == "cosine_with_min_lr"
    if needs_end and training.min_lr_ratio is None:
        yield Finding(
            "R335",
            "`cosine_with_min_lr` needs `min_lr_ratio`",
            composed.where(("training", "lr_scheduler")),
            "it sets the final learning rate",
            "add `min_lr_ratio: 0.1`, or write `lr_scheduler: cosine`",
        )
    if training.min_lr_ratio is not None and not needs_end:
        yield does_nothing(("training", "min_lr_ratio"), "only `lr_scheduler: cosine_with_min_lr` uses it", composed)
    if training.activation_offloading and recipe.hardware.device in ("cpu", "mps"):
        yield does_nothing(("training", "activation_offloading"), "activations are already in that memory", composed)


RULES = (check_quantization, check_adapter, check_optimizer)
