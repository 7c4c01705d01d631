"""The head of a model: one that predicts tokens, or one that returns a number for a whole sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dpo_recipes.objectives.base import Head

_TOKEN_HEADS = (
    *("lm_head", "embed_out"),  # decoders, RoBERTa
    *("cls", "predictions", "vocab_transform", "vocab_layer_norm", "vocab_projector"),  # BERT, ALBERT, DistilBERT
    *("generator_predictions", "generator_lm_head", "discriminator_predictions"),  # ELECTRA
    *("lm_predictions", "mask_predictions", "decoder.bias"),  # DeBERTa, ModernBERT
)
"""The names of the modules and weights that a base has to predict tokens and a sequence classifier does not have."""
_POOLER = "pooler"
"""The name of the layer between an encoder's first hidden state and the classifier. It is inside the backbone or beside
it, and the files of an encoder often lack it."""


def auto_class(head: Head) -> Any:
    """transformers' Auto class of the models with a head."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if head == "score" else AutoModelForCausalLM


def configure_head(config: Any, head: Head) -> Any:
    """The configuration, which is changed to that of a model with this head: one that scores returns one number."""
    if head == "score":
        config.num_labels = 1
    return config


def is_classifier(config: Any) -> bool:
    """Whether a base was saved as a sequence classifier, such as a reward model."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def is_encoder(config: Any) -> bool:
    """Whether each token of a model attends to later tokens, too, as in BERT."""
    from transformers import AutoModelForMaskedLM

    return type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False)


def reads_token_types(config: Any, tokenizer: Any) -> bool:
    """Whether a model distinguishes the two parts of its input by `token_type_ids`, as BERT does."""
    is_marked = "token_type_ids" in tokenizer.model_input_names
    return is_encoder(config) and is_marked and getattr(config, "type_vocab_size", 0) > 1


def head_modules(model: Any) -> list[str]:
    """The paths of the modules between the hidden states of a sequence classifier and its number: `score` in decoders,
    for example `bert.pooler` and `classifier` in encoders."""
    prefix = model.base_model_prefix
    inside = [f"{prefix}.{_POOLER}"] if getattr(model.base_model, _POOLER, None) is not None else []
    return inside + [name for name, part in model.named_children() if name != prefix and [*part.parameters()]]


def is_of_head(name: str, modules: Iterable[str]) -> bool:
    """Whether a weight is one of those, or belongs to one of the modules, that are given by their paths."""
    return any(name == path or name.startswith(f"{path}.") for path in modules)


def without_head(names: Iterable[str], model: Any, head: Head) -> list[str]:
    """The names of missing or unexpected weights without those that a base for token prediction is expected to lack or
    to have beside a model that scores."""
    if head == "causal_lm":
        return list(names)
    new = [*head_modules(model), *_TOKEN_HEADS, _POOLER, f"{model.base_model_prefix}.{_POOLER}"]
    return [name for name in names if not is_of_head(name, new)]


def initialize_head(model: Any, missing: Iterable[str], seed: int) -> None:
    """Sample the missing matrices of the head from the normal distribution of the model's other weights: always the
    same for a seed. Biases and norms keep transformers' constant values."""
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    generator = torch.Generator().manual_seed(seed)
    modules = head_modules(model)
    for name in sorted(missing):
        weight = model.get_parameter(name)
        if is_of_head(name, modules) and weight.dim() > 1:
            with torch.no_grad():
                weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))
