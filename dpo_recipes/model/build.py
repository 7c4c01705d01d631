"""Builds the policy with its tokenizer and adapter configuration, and a description of them for the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.model.adapters import attach_adapter, describe_adapter
from dpo_recipes.model.generation import prepare_generation
from dpo_recipes.model.gguf import CONFIG_NAME, converted
from dpo_recipes.model.heads import auto_class, configure_head, head_modules, initialize_head
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.missing_weights import judge_weights
from dpo_recipes.model.precision import choose_attention, choose_device, choose_dtype
from dpo_recipes.model.quantize import (
    check_own_quantization,
    describe_quantization,
    keep_differentiable,
    let_go_of_files,
    quantization_config,
)
from dpo_recipes.model.sources import ModelLocation, loaded_commit
from dpo_recipes.model.tied import describe_untied, tied_names
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Head
from dpo_recipes.recipe.adapter_as_base import adapter_as_base
from dpo_recipes.recipe.schema import Recipe

DropoutRates = list[tuple[Any, str, float]]
"""A configuration, the name of a dropout rate in it, and its original value."""


@dataclass
class ModelBundle:
    """What training needs of the model stage.

    There is no reference model: the log-probabilities of a frozen one are computed before the first step, by the policy
    with its adapter switched off or still untrained, and a moving one is a copy of the policy's trained weights.
    """

    policy: Any
    tokenizer: Any
    adapter_config: Any | None
    device: str
    dtype: str
    location: ModelLocation
    chat: Any
    """The recipe's chat template with its renderer and end tokens (`data.chat_template.Chat`)."""
    trust_remote_code: bool = False
    dropout_rates: DropoutRates = field(default_factory=list)
    """The dropout rates in the base's configuration before dropout was switched off."""
    stored_dtype: str = "float32"
    """The number format of the base's files; for a GGUF file, the format that it is unpacked to."""
    findings: list[Finding] = field(default_factory=list)
    """Warnings about the base, to be shown to the user."""
    model_info: dict[str, Any] = field(default_factory=dict)


def build_model(
    recipe: Recipe,
    location: ModelLocation,
    tokenizer: Any,
    chat: Any,
    *,
    trust_remote_code: bool,
    is_to_be_sharded: bool = False,
) -> ModelBundle:
    """Load the base model for training, with embeddings for all tokens, onto its device.

    A model that will be sharded stays in CPU memory, because one device may not hold all of it. Raises `RunError` M504
    (cannot be loaded), M507 and M508 (device and precision), M511 to M516.
    """
    device = choose_device(recipe.hardware.device)
    config = load_config(location, trust_remote_code=trust_remote_code)
    dtype = choose_dtype(recipe, device, getattr(config, "model_type", None))
    model = recipe.model
    own_quantization = check_own_quantization(
        config, model.path, wants_more=model.quantization is not None, has_adapter=model.adapter is not None
    )
    policy, warnings = _load_policy(recipe, location, device, dtype, trust_remote_code=trust_remote_code)
    dropout_rates = switch_off_dropout(policy)
    _fit_tokenizer(tokenizer, policy, recipe)
    if policy.device.type != device and not is_to_be_sharded:
        policy.to(device)
    findings: list[Finding] = []
    if objective_of(recipe).head == "causal_lm":
        findings = prepare_generation(policy, chat.end_ids, tokenizer.pad_token_id, model.path)
    weights_dtype = str(policy.dtype).removeprefix("torch.")
    num_parameters = policy.num_parameters()  # counts a 4-bit weight as one parameter
    tied = tied_names(policy)
    attached = attach_adapter(recipe, location, policy, chat.added_ids)
    adapter = attached.config or getattr(attached.policy, "peft_config", {}).get("default")
    findings += describe_untied(tied, adapter, model.path)
    made = (attached.policy, tokenizer, attached.config, device, dtype, location, chat)
    made = (*made, trust_remote_code, dropout_rates, stored_dtype(config, location, weights_dtype))
    bundle = ModelBundle(*made, [*warnings, *findings])
    bundle.model_info = {
        "base": recipe.model.path,
        "revision": loaded_commit(location) or recipe.model.revision,
        "architecture": type(policy).__name__,
        "dtype": dtype,
        "weights_dtype": weights_dtype,
        "quantization": describe_quantization(recipe.model.quantization, own_quantization),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else device,
        "attention": policy.config._attn_implementation,
        "adapter": describe_adapter(recipe),
        "added_tokens": tokenizer.convert_ids_to_tokens(chat.added_ids),
        "total_parameters": num_parameters,
        "reference": _describe_reference(recipe, attached.reference),
    }
    return bundle


def _describe_reference(recipe: Recipe, reference: str) -> str | None:
    """A description of the reference, or None for an objective without one."""
    kind = objective_of(recipe).reference(recipe.objective)
    if kind == "none":
        return None
    if kind == "each_step":
        return f"{reference}: it computes the answers that the policy writes, in each step"
    if kind == "live":
        return f"at first {reference}; it moves towards the policy, and its log-probabilities are computed in each step"
    return f"{reference}: its log-probabilities are computed once, before the first step"


def load_config(location: ModelLocation, *, trust_remote_code: bool) -> Any:
    """transformers' configuration of the base, without reading weights.

    Raises `RunError` M504 and M509, and `RecipeError` R350 for an adapter on the hub (validation finds local ones).
    """
    from transformers import AutoConfig

    with loading_errors("the configuration of", location):
        refuse_adapter(location)
        if location.gguf_path is None:
            return AutoConfig.from_pretrained(location.path, **_source(location, trust_remote_code=trust_remote_code))
        config = AutoConfig.from_pretrained(converted(location.gguf_path) / CONFIG_NAME)
        config.name_or_path = location.path
        return config


def stored_dtype(config: Any, location: ModelLocation, unpacked: str) -> str:
    """The number format of a base's files according to its configuration.

    It is `unpacked` for files of 8 bits or less, such as GGUF, and if the configuration names no format.
    """
    named = None if location.gguf_file else getattr(config.get_text_config(), "dtype", None) or config.dtype
    name = str(named).removeprefix("torch.")
    return name if name in ("float32", "bfloat16", "float16") else unpacked


def refuse_adapter(location: ModelLocation) -> None:
    """Raise `RecipeError` R350 if a hub repository holds an adapter.

    transformers would load the adapter's base as well, or only report a missing config.json.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if Path(location.path).is_absolute() or location.gguf_file:
        return
    found = find_adapter_config_file(location.path, revision=location.revision or "main")
    if found is not None:
        raise RecipeError(adapter_as_base(location.path, Path(found)))


def bare_model(
    config: Any, location: ModelLocation, head: Head = "causal_lm", *, trust_remote_code: bool = False
) -> Any:
    """The architecture of a configuration on the `meta` device. Raises `RunError` M504."""
    with loading_errors("the model", location), torch.device("meta"):
        return auto_class(head).from_config(configure_head(config, head), trust_remote_code=trust_remote_code)


def _source(location: ModelLocation, *, trust_remote_code: bool) -> dict[str, Any]:
    return {"revision": location.revision or "main", "trust_remote_code": trust_remote_code}


def _load_policy(
    recipe: Recipe, location: ModelLocation, device: str, dtype: str, *, trust_remote_code: bool
) -> tuple[Any, list[Finding]]:
    """The base, and warnings about its files. Raises `RunError` M516 if they lack weights."""
    from transformers import GgufConfig

    model, head = recipe.model, objective_of(recipe).head
    # Full fine-tuning keeps 32-bit weights: the updates of a small learning rate are lost in 16-bit weights.
    extra: dict[str, Any] = {"dtype": getattr(torch, dtype if model.adapter else "float32")}
    if location.gguf_file or head == "score":
        # For a GGUF file, the configuration is passed in because transformers would otherwise parse it all again.
        extra["config"] = configure_head(load_config(location, trust_remote_code=trust_remote_code), head)
    if location.gguf_file:
        extra["gguf_file"] = location.gguf_file
        extra["quantization_config"] = GgufConfig(dequantize=True)
    elif model.quantization is not None:
        whole = None
        if head == "score":  # transformers would keep only the last weight of the head as it is
            whole = head_modules(bare_model(extra["config"], location, head, trust_remote_code=trust_remote_code))
        extra["quantization_config"] = quantization_config(model.quantization, dtype, whole)
        extra["device_map"] = {"": device}  # quantized weights cannot be moved afterwards
    if not location.gguf_file:
        extra["use_safetensors"] = None if model.allow_pickle else True
    attention = choose_attention(model.attn_implementation, device, dtype)
    if attention is not None:
        extra["attn_implementation"] = attention
    with loading_errors("the model", location, allow_pickle=model.allow_pickle):
        source = _source(location, trust_remote_code=trust_remote_code)
        # Loading tolerates weights of another shape, so that all of them can be reported below.
        extra |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = auto_class(head).from_pretrained(location.path, **source, **extra)
    policy, info = loaded
    warnings = judge_weights(info, policy, model.path, head)
    if head == "score":
        initialize_head(policy, info["missing_keys"], recipe.training.seed)
    keep_differentiable(policy)
    if model.quantization is not None and device == "cpu":
        let_go_of_files(policy)
    return policy, warnings


def _fit_tokenizer(tokenizer: Any, policy: Any, recipe: Recipe) -> None:
    """Enlarge the embeddings to one row for each token, if needed; many bases have spare rows.

    A model that scores finds the last token of a row by the id of padding."""
    if objective_of(recipe).head == "score":
        policy.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > policy.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng():  # transformers samples the new rows around the mean of the old ones
            torch.manual_seed(recipe.training.seed)
            policy.resize_token_embeddings(len(tokenizer))


def load_base(
    recipe: Recipe, location: ModelLocation, tokenizer: Any, device: str, dtype: str, *, trust_remote_code: bool
) -> Any:
    """The base before training, with embeddings for all tokens of the tokenizer, on its device. Raises `RunError`."""
    policy, _ = _load_policy(recipe, location, device, dtype, trust_remote_code=trust_remote_code)
    _fit_tokenizer(tokenizer, policy, recipe)
    return policy if policy.device.type == device else policy.to(device)


def reload_base(recipe: Recipe, bundle: ModelBundle, device: str = "cpu") -> Any:
    """The base of a bundle before training, loaded again. A quantized base is always on the bundle's device. Raises
    `RunError`."""
    wanted = device if recipe.model.quantization is None else bundle.device
    trust = bundle.trust_remote_code
    policy = load_base(recipe, bundle.location, bundle.tokenizer, wanted, bundle.dtype, trust_remote_code=trust)
    if objective_of(recipe).head == "causal_lm":
        policy.generation_config = bundle.policy.generation_config
    return policy


def switch_off_dropout(policy: torch.nn.Module) -> DropoutRates:
    """Switch off the base's dropout, and return the rates of its configuration, which are restored in the saved model.

    TRL's `disable_dropout` does the same, but after the adapter is added; here the adapter keeps its own dropout.
    Besides dropout modules, many layers have a rate as an attribute or read it from the configuration.
    """
    rates: DropoutRates = []
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        _clear_rates(module)
        rates += _clear_rates(getattr(module, "config", None))
    return rates


def _clear_rates(holder: Any) -> DropoutRates:
    values = list(getattr(holder, "__dict__", {}).items())
    # attention_dropout, resid_pdrop, layerdrop
    rates = [(holder, name, value) for name, value in values if "drop" in name and isinstance(value, float) and value]
    for _, name, _ in rates:
        setattr(holder, name, 0.0)
    return rates
