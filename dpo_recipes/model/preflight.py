"""Checks a base and its adapter before weights are read, from configuration and file headers.

`dpo-recipe plan` and each run do this first: a misspelt name is reported before data and weights are loaded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding, RecipeError, RunError
from dpo_recipes.model.adapters import adapter_config
from dpo_recipes.model.build import bare_model, load_config
from dpo_recipes.model.continued import check_continued
from dpo_recipes.model.heads import auto_class, is_classifier, is_encoder
from dpo_recipes.model.loading import loading_errors, quiet_loading
from dpo_recipes.model.missing_weights import judge_weights
from dpo_recipes.model.module_names import check_module_names
from dpo_recipes.model.positions import num_positions
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.model.stored import stored_weights
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Head
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.adapter import LoraAdapter


def check_base(recipe: Recipe, location: ModelLocation, *, trust_remote_code: bool) -> list[Finding]:
    """Warnings about a base and the recipe's adapter on it.

    Raises `RecipeError` R337 and R339 (names of modules), `RunError` M504, M509 (configuration), M512, M515 (an adapter
    that is continued), M516 (missing weights, if the files are local safetensors), M518 (a base of another kind than
    the objective needs), M519 (attention) and M526 (positions).
    """
    config = load_config(location, trust_remote_code=trust_remote_code)
    is_quantized = getattr(config, "quantization_config", None) is not None
    if is_quantized:
        del config.quantization_config
    head = objective_of(recipe).head
    _check_kind(config, location, head)
    base = bare_model(config, location, head, trust_remote_code=trust_remote_code)
    _check_attention(recipe, base)
    _check_positions(recipe, base)
    findings = check_module_names(recipe, base)
    if findings:
        raise RecipeError(*findings)
    doubts = [] if is_quantized or location.gguf_file else _check_stored(base, config, location, head)
    _check_adapter(recipe, base)
    return doubts


def _check_kind(config: Any, location: ModelLocation, head: Head) -> None:
    is_known = type(config) in auto_class(head)._model_mapping or hasattr(config, "auto_map")
    what, fix = f"{location.path} is not a causal language model", "use a decoder, such as a Llama, Qwen or GPT-2"
    if head == "score":
        what, fix = (
            f"{location.path} cannot become a reward model",
            "use a decoder such as Qwen, or an encoder like BERT",
        )
    if getattr(config, "is_encoder_decoder", False):
        why = f"{config.model_type} is an encoder-decoder: its answers do not follow the prompt in one sequence"
    elif head == "causal_lm" and is_encoder(config):
        why = f"{config.model_type} is an encoder: each token attends to later tokens, too"
        fix += "; an encoder can become a reward model (`objective: {kind: reward}`)"
    elif head == "causal_lm" and is_classifier(config):
        why = "it returns a number for a sequence, as a reward model does, and has no weights that predict tokens"
    elif not is_known:
        kind = "sequence classifier" if head == "score" else "causal language model"
        why = f"transformers has no {kind} of the type {config.model_type}"
    else:
        return
    raise RunError(Finding("M518", what, None, why, fix, at=("model", "path")))


def _check_attention(recipe: Recipe, base: Any) -> None:
    """Whether the architecture has the attention path that the recipe names (transformers 5.23, modeling_utils)."""
    wanted = recipe.model.attn_implementation
    has = {"sdpa": base._supports_sdpa, "flash_attention_2": base._supports_flash_attn}
    if has.get(wanted, True):
        return
    others = ["auto", "eager", *(name for name, is_there in has.items() if is_there)]
    raise RunError(
        Finding(
            "M519",
            f"{type(base).__name__} has no attention path `{wanted}`",
            why=f"transformers implements {', '.join(others[1:])} for this architecture",
            fix=f"write `attn_implementation: auto`; possible are {', '.join(others)}",
            at=("model", "attn_implementation"),
        )
    )


def _check_positions(recipe: Recipe, base: Any) -> None:
    """Whether the base has a position for each token of the longest row."""
    positions, longest = num_positions(base), recipe.data.max_length
    if positions is None or positions >= longest:
        return
    raise RunError(
        Finding(
            "M526",
            f"{type(base).__name__} reads at most {positions} tokens, and `data.max_length` is {longest}",
            None,
            why="its table of positions has no more rows, so a longer row would end the run; special tokens count",
            fix=f"write `max_length: {positions}`, or choose a base for longer texts",
            at=("data", "max_length"),
        )
    )


def _check_stored(base: Any, config: Any, location: ModelLocation, head: Head) -> list[Finding]:
    """Compare the headers of local files with the architecture, without reading weights.

    transformers itself loads them on the `meta` device, because it renames and joins weights of earlier versions.
    """
    folder = Path(location.path)
    weights = stored_weights(folder) if folder.is_dir() else None
    if weights is None:
        return []
    with loading_errors("the model", location), quiet_loading():
        model, info = type(base).from_pretrained(
            None,
            config=config,
            state_dict=weights,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return judge_weights(info, model, location.path, head)


def _check_adapter(recipe: Recipe, base: Any) -> None:
    """Add the adapter to the base as a trial; for an adapter that is continued, compare its file with the base."""
    from peft import get_peft_model

    config = adapter_config(recipe, base)
    adapter = recipe.model.adapter
    if config is None or adapter is None:
        return
    if adapter.path is not None:
        check_continued(adapter.path, config, base, is_resized=False)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself shows peft's warnings
            wrapped = get_peft_model(base, config)
    except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[0]
        what, fix = "peft cannot add this adapter to the model", "`target_modules: all-linear` fits every model"
        raise RecipeError(Finding("R339", what, None, why, fix, at=("model", "adapter"))) from error
    _check_rank(adapter, wrapped)


def _check_rank(adapter: LoraAdapter, wrapped: Any) -> None:
    """Whether each adapted matrix has the `r` singular values or columns that the update begins with."""
    from peft.tuners.lora import LoraLayer

    if adapter.init not in ("pissa", "olora", "loftq"):
        return
    ranks = {
        name.removeprefix("base_model.model."): min(layer.in_features, layer.out_features)
        for name, layer in wrapped.named_modules()
        if isinstance(layer, LoraLayer) and layer.in_features is not None and layer.out_features is not None
    }
    smallest = min(ranks, key=lambda name: ranks[name], default="")
    if smallest and ranks[smallest] < adapter.r:
        what = f"`init: {adapter.init}` needs an `r` of {ranks[smallest]} or less in this model"
        why = f"the update begins with the {adapter.r} main directions of each matrix, and `{smallest}` has "
        fix = "lower `r`, leave such modules out of `target_modules`, or write `init: default`"
        raise RecipeError(Finding("R339", what, None, f"{why}{ranks[smallest]}", fix, at=("model", "adapter", "r")))
