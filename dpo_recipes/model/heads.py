"""The head of a model: one that predicts tokens, or one that returns a number for a whole sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dpo_recipes.objectives.base import Head

SCORE = "score"
"""The name of the scoring head in transformers' sequence classifiers of decoders."""
_LM_HEADS = ("lm_head", "embed_out")
"""The names of the heads that a base has for tokens and a sequence classifier does not."""


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


def without_head(names: Iterable[str], head: Head) -> list[str]:
    """The names of missing or unexpected weights without those that a base for token prediction is expected to lack or
    to have beside a model that scores."""
    if head == "causal_lm":
        return list(names)
    return [name for name in names if name.partition(".")[0] not in (SCORE, *_LM_HEADS)]


def initialize_score(model: Any, seed: int) -> None:
    """Sample the scoring head from the normal distribution of the model's other weights: always the same for a seed."""
    weight = getattr(model, SCORE).weight
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    sampled = torch.empty(weight.shape).normal_(0.0, std, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(sampled)
