"""The tokenizer of a base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_recipes.errors import RunError
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.sources import ModelLocation


def load_tokenizer(location: ModelLocation, *, trust_remote_code: bool = False) -> Any:
    """A fast tokenizer with tokens for the end of a text and for padding.

    Raises `RunError` M504 (cannot be loaded), M506 (no end-of-sequence token), M510 (no fast tokenizer).
    """
    from transformers import AutoTokenizer

    with loading_errors("the tokenizer of", location):
        tokenizer = AutoTokenizer.from_pretrained(
            location.path,
            revision=location.revision or "main",
            trust_remote_code=trust_remote_code,
            **({"gguf_file": location.gguf_file} if location.gguf_file else {}),
        )
    if not tokenizer.is_fast:
        raise RunError.of(
            "M510",
            f"the tokenizer of {location.path} has no fast form",
            why="it is written in Python, which is too slow and gives no account of what it does",
            fix="convert it to a tokenizer.json with `transformers`, or use another base",
        )
    if location.gguf_path is not None:
        restore_pre_tokenizer(tokenizer, location.gguf_path)
    if tokenizer.eos_token is None:
        raise RunError.of(
            "M506",
            "the tokenizer has no end-of-sequence token",
            why="a model trained without one never learns to stop",
            fix="set `eos_token` in its tokenizer_config.json",
        )
    if tokenizer.pad_token is None:
        # Padding is masked by position, never by id, so the end token can serve without leaving the loss.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def restore_pre_tokenizer(tokenizer: Any, gguf_path: Path) -> None:
    """Give a tokenizer restored from GGUF the pre-tokenizer that its file names.

    transformers 5.23 restores byte-level BPE without the split into single digits that `smollm` and `starcoder`
    tokenizers have (llama.cpp's table: llama_vocab_pre_type), so numbers came out as other tokens than the model
    was trained on. Ends when transformers reads `tokenizer.ggml.pre`.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf_path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in ("smollm", "starcoder", "refact", "command-r"):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
