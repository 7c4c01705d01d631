"""Adapters, as peft's configuration of them."""

from __future__ import annotations

from typing import Any

from dpo_recipes.recipe.schema import Recipe


def adapter_config(recipe: Recipe, policy: Any, added_ids: list[int]) -> Any | None:
    """peft's configuration of the recipe's adapter, which also trains the embeddings of tokens that were added."""
    adapter = recipe.model.adapter
    if adapter is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        # Of the embeddings, only the rows of new tokens are trained and saved.
        trainable_token_indices=_embedding_rows(policy, added_ids),
        task_type="CAUSAL_LM",
    )


def _embedding_rows(policy: Any, added_ids: list[int]) -> dict[str, list[int]] | None:
    if not added_ids:
        return None
    _let_wrapped_heads_show_their_bias()
    embeddings = (policy.get_input_embeddings(), policy.get_output_embeddings())
    # Tied embeddings appear once among the modules that peft is told; it ties its own rows then.
    tied = policy.config.get_text_config().tie_word_embeddings
    wanted = embeddings[:1] if tied else embeddings
    names = [name.rpartition(".")[2] for name, module in policy.named_modules() if any(module is e for e in wanted)]
    return dict.fromkeys(names, added_ids)


def describe_adapter(recipe: Recipe) -> str:
    """What is trained, in words."""
    adapter = recipe.model.adapter
    if adapter is None:
        return "none: full fine-tuning"
    modules = adapter.target_modules
    on = "all linear layers" if modules == "all-linear" else modules if isinstance(modules, str) else ", ".join(modules)
    return f"LoRA r={adapter.r} alpha={adapter.alpha} dropout={adapter.dropout:g} on {on}"


def _let_wrapped_heads_show_their_bias() -> None:
    """TRL 1.16's fused LM head reads `weight` and `bias`; peft 0.21's wrapper around a head with trained rows shows the
    first (as merged weights, which is right) and hides the second. Ends when peft shows all attributes."""
    from peft.utils.other import TrainableTokensWrapper

    TrainableTokensWrapper.bias = property(lambda self: self.original_module.bias)  # pyright: ignore
