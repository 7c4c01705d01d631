"""Loads the tokenizer of a base model."""

from __future__ import annotations

from typing import Any

from dpo_recipes.errors import RunError
from dpo_recipes.model.gguf import converted
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.sources import ModelLocation


def load_tokenizer(location: ModelLocation, *, trust_remote_code: bool = False, is_encoder: bool = False) -> Any:
    """A fast tokenizer that has an end-of-sequence token, which an encoder does not need, and a padding token.

    Raises `RunError` M504 (cannot be loaded), M506 (no end-of-sequence token), M510 (no fast tokenizer).
    """
    from transformers import AutoTokenizer

    with loading_errors("the tokenizer of", location):
        tokenizer = AutoTokenizer.from_pretrained(
            location.path if location.gguf_path is None else str(converted(location.gguf_path)),
            revision=location.revision or "main",
            trust_remote_code=trust_remote_code,
        )
        tokenizer.name_or_path = location.path
    if not tokenizer.is_fast:
        raise RunError.of(
            "M510",
            f"the tokenizer of {location.path} has no fast version",
            why="it is written in Python, which is too slow, and it does not report the positions of its tokens",
            fix="convert it to a tokenizer.json with `transformers`, or use another base",
        )
    if tokenizer.eos_token is None and not (is_encoder and tokenizer.pad_token):
        raise RunError.of(
            "M506",
            "the tokenizer has no end-of-sequence token",
            why="a model trained without one never learns to stop",
            fix="set `eos_token` in its tokenizer_config.json",
        )
    if tokenizer.pad_token is None:
        # Padding is masked by position, not by id, so the end token can be used for padding and still be trained.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
