"""The tokenizer with its chat template and a padding token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_recipes.errors import RunError
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.shipped import template_paths


def load_tokenizer(location: ModelLocation, chat_template: str, *, trust_remote_code: bool = False) -> Any:
    """A fast tokenizer whose `chat_template` is the recipe's.

    Raises `RunError` M504 (cannot be loaded), M505 (no chat template), M506 (no end-of-sequence token).
    """
    from transformers import AutoTokenizer

    with loading_errors("the tokenizer of", location):
        tokenizer = AutoTokenizer.from_pretrained(
            location.path,
            revision=location.revision or "main",
            trust_remote_code=trust_remote_code,
            **({"gguf_file": location.gguf_file} if location.gguf_file else {}),
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
    if chat_template != "tokenizer":
        path = Path(chat_template) if chat_template.endswith(".jinja") else template_paths()[chat_template]
        tokenizer.chat_template = path.read_text(encoding="utf-8").rstrip("\n")
    elif tokenizer.chat_template is None:
        raise RunError.of(
            "M505",
            "the tokenizer has no chat template",
            why="base models usually have none; `chat_template: tokenizer` asks for the model's own",
            fix=f"choose a shipped one: `chat_template: plain` ({', '.join(template_paths())})",
        )
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
