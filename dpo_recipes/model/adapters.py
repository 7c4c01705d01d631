"""Creates the recipe's adapter with peft, or loads an adapter that is trained further."""

from __future__ import annotations

from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.errors import RunError
from dpo_recipes.model.continued import check_continued, does_not_fit
from dpo_recipes.model.heads import head_modules
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.module_names import matching_any, tie_embeddings
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Head
from dpo_recipes.recipe.paths import is_hub_id
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.adapter import LoraAdapter

AT_ZERO = ("default", "gaussian", "orthogonal")
"""Initializations that leave the model's output unchanged: with the adapter switched off it is the reference."""


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """A context in which a model has its adapter switched off, or replaced by the copy of its first state that TRL 1.16
    keeps as `ref`."""
    from trl.trainer.utils import use_adapter

    return use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None)


@dataclass(frozen=True)
class Attached:
    """A policy that has its adapter, or a policy and peft's configuration with which the trainer adds one."""

    policy: Any
    config: Any | None = None
    reference: str = "the untouched base"
    """The model that the trained model is compared with, in words."""


def attach_adapter(recipe: Recipe, location: ModelLocation, policy: Any, added_ids: list[int]) -> Attached:
    """The policy with the recipe's adapter.

    An adapter whose initialization changes the model is added here, and its initial state is the reference: TRL 1.16
    keeps a copy of an existing adapter as `ref`. Raises `RunError` M512 (the adapter does not fit), M515 (it is not a
    LoRA), M504 and M509 (loading).
    """
    adapter = recipe.model.adapter
    if adapter is None:
        return Attached(policy)
    if adapter.path is not None:
        return Attached(_continued(adapter, recipe, policy), reference=f"the adapter {adapter.path} before training")
    config = _lora_config(adapter, policy, added_ids, objective_of(recipe).head)
    if adapter.init in AT_ZERO:
        return Attached(policy, config)
    from peft import get_peft_model

    wrapped = get_peft_model(policy, config)
    if adapter.init == "loftq":
        _apply_loftq(wrapped, location)
    # The copy that becomes the reference must have these weights, and must not be initialized again.
    wrapped.peft_config["default"].init_lora_weights = True
    return Attached(wrapped, reference=f"the base with its adapter as initialized by `{adapter.init}`")


def starts_away_from_base(adapter: LoraAdapter | None) -> bool:
    """Whether the model with a new adapter differs from the base with the adapter switched off, already before
    training: the adapter's initialization has changed the base, or is an approximation of what it lacks."""
    return adapter is not None and adapter.path is None and adapter.init not in AT_ZERO


def adapter_config(recipe: Recipe, base: Any) -> Any | None:
    """peft's configuration of the recipe's adapter on `base`; None for full fine-tuning.

    It determines the shapes of the adapter; its initialization leaves the base's weights unchanged. Only the
    configuration of an adapter that is continued is read. Raises `RunError` M504, M509 and M515.
    """
    adapter = recipe.model.adapter
    if adapter is None:
        return None
    if adapter.path is not None:
        from peft import PeftConfig

        with loading_errors("the adapter", ModelLocation(adapter.path)):
            config = PeftConfig.from_pretrained(adapter.path)
        _check_kind(adapter.path, config, objective_of(recipe).head)
        config.inference_mode = False
    else:
        config = _lora_config(adapter, base, [], objective_of(recipe).head)
        config.init_lora_weights = True
    return config


def _lora_config(adapter: LoraAdapter, policy: Any, added_ids: list[int], head: Head) -> Any:
    from peft import LoraConfig

    whole = list(adapter.modules_to_save)
    if head == "score":  # the head is new, so an update of low rank would not fit it
        whole += [name for name in head_modules(policy) if name not in whole]
    return LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        modules_to_save=whole or None,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        # LoftQ starts from zero and replaces the weights later, because peft's own initialization needs an unquantized
        # base.
        init_lora_weights=True if adapter.init in ("default", "loftq") else adapter.init,
        # Only the embedding rows of new tokens are trained and saved.
        trainable_token_indices=_embedding_rows(policy, added_ids, adapter.modules_to_save),
        task_type="SEQ_CLS" if head == "score" else "CAUSAL_LM",
    )


def _continued(adapter: LoraAdapter, recipe: Recipe, policy: Any) -> Any:
    from peft import PeftConfig, PeftModel

    path = adapter.path or ""
    with loading_errors("the adapter", ModelLocation(path)):
        config = PeftConfig.from_pretrained(path)
    _check_kind(path, config, objective_of(recipe).head)
    base = config.base_model_name_or_path
    if base and base != recipe.model.path and is_hub_id(base) and is_hub_id(recipe.model.path):
        raise does_not_fit(path, f"it was trained on {base}, and `model.path` is {recipe.model.path}")
    # Added tokens enlarge the base, as they did before the adapter was saved.
    check_continued(path, config, _bare_copy(policy), is_resized=True)
    with loading_errors("the adapter", ModelLocation(path)):
        return PeftModel.from_pretrained(policy, path, is_trainable=True)


def _bare_copy(policy: Any) -> Any:
    """The same architecture without weights and without quantization."""
    config = deepcopy(policy.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return type(policy)(config)


def _check_kind(path: str, config: Any, head: Head) -> None:
    if config.peft_type == "LORA":
        if (config.task_type == "SEQ_CLS") != (head == "score"):
            scores = "returns one number for a sequence, as a reward model does", "predicts tokens"
            has, needs = scores if head == "causal_lm" else scores[::-1]
            fix = "merge it into its base and use the result as `model.path`, or begin a new adapter without `path`"
            if head == "causal_lm":
                fix = "continue it with `objective: {kind: reward}`, or use an adapter of a model that predicts tokens"
            raise does_not_fit(path, f"its model {has}, and this objective needs one that {needs}", fix)
        return
    raise RunError.of(
        "M515",
        f"the adapter {path} is not a LoRA but {config.peft_type.value}",
        why="the reference, the plan and saving support only LoRA, rsLoRA and DoRA",
        fix="merge it into its base with peft and use the result as `model.path`, or continue a LoRA",
    )


def _apply_loftq(wrapped: Any, location: ModelLocation) -> None:
    from peft import replace_lora_weights_loftq

    if not torch.cuda.is_available():
        raise RunError.of(
            "M514",
            "`init: loftq` needs a CUDA GPU",
            why="peft 0.21 computes the initial adapter only there",
            fix="remove `init`; on a CPU a 4-bit base saves memory but no time",
        )

    folder = Path(location.path)
    index = folder / "model.safetensors.index.json"
    file = folder / "model.safetensors" if not index.exists() else None
    path = str(file) if file is not None and file.exists() else None
    with loading_errors("the unquantized weights of", location):
        replace_lora_weights_loftq(wrapped, model_path=path)


def _embedding_rows(policy: Any, added_ids: list[int], whole: list[str]) -> dict[str, list[int]] | None:
    if not added_ids:
        return None
    _let_wrapped_heads_show_their_bias()
    embeddings = (policy.get_input_embeddings(), policy.get_output_embeddings())
    # Tied embeddings are listed once; peft then ties its own rows.
    wanted = embeddings[:1] if tie_embeddings(policy) else embeddings
    names = [name for name, module in policy.named_modules() if any(module is layer for layer in wanted)]
    # A module that is trained whole already contains its new rows.
    names = [name.rpartition(".")[2] for name in names if not matching_any(whole, name)]
    return dict.fromkeys(names, added_ids) or None


def describe_adapter(recipe: Recipe) -> str:
    """A description of what is trained."""
    adapter = recipe.model.adapter
    if adapter is None:
        return "none: full fine-tuning"
    modules = adapter.target_modules
    if adapter.path is not None:
        return f"continued from {adapter.path}"
    on = "all linear layers" if modules == "all-linear" else modules if isinstance(modules, str) else ", ".join(modules)
    kind = "DoRA" if adapter.use_dora else "rsLoRA" if adapter.use_rslora else "LoRA"
    start = "" if adapter.init == "default" else f", initialized by {adapter.init}"
    whole = f"; whole: {', '.join(adapter.modules_to_save)}" if adapter.modules_to_save else ""
    return f"{kind} r={adapter.r} alpha={adapter.alpha} dropout={adapter.dropout:g} on {on}{start}{whole}"


def _let_wrapped_heads_show_their_bias() -> None:
    """Make the bias of a head with trained rows visible.

    TRL 1.16's fused LM head reads `weight` and `bias`. peft 0.21's wrapper around such a head exposes `weight` (merged,
    which is correct) and hides `bias`. This can be removed when peft exposes all attributes.
    """
    from peft.utils.other import TrainableTokensWrapper

    TrainableTokensWrapper.bias = property(lambda self: self.original_module.bias)  # pyright: ignore
