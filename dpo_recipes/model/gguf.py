"""Converts the tokenizer and the configuration inside a GGUF file once, and caches them.

transformers 5.23 reads all metadata of the file for each of the two. For architectures without a fast reader, such as
Gemma 3, it uses `gguf`'s reader, which creates several numpy arrays for each of 262,000 tokens: half a minute each
time.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpo_recipes.cache import content_key, file_digest, get_or_build, remembered

CONVERSION_VERSION = 1
"""Increase this number when the conversion of a file changes, so that older cache entries are not used."""
CONFIG_NAME = "model_config.json"
"""Not `config.json`: if that exists, transformers chooses the tokenizer's class by the model type (Qwen2)."""


def converted(path: Path) -> Path:
    """The folder with the tokenizer's files from `save_pretrained`, and the configuration as `CONFIG_NAME`.

    Raises what transformers raises if it cannot read the file.
    """
    versions = [version(name) for name in ("transformers", "tokenizers", "gguf")]
    key = content_key(CONVERSION_VERSION, remembered("blake2b", path, file_digest), versions)
    return get_or_build("gguf", key, lambda folder: _convert(path, folder))[0]


def _convert(path: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    with _one_reader():
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        restore_pre_tokenizer(tokenizer, path)
    config.to_json_file(folder / CONFIG_NAME, use_diff=False)
    tokenizer.save_pretrained(folder)
    # Some classes rebuild the tokenizer from the saved files; the generic class loads it unchanged.
    again = AutoTokenizer.from_pretrained(str(folder))
    if again.is_fast and again.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        settings = folder / "tokenizer_config.json"
        plain = json.loads(settings.read_text(encoding="utf-8"))
        settings.write_text(json.dumps({**plain, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")


@contextlib.contextmanager
def _one_reader() -> Iterator[None]:
    """Make transformers parse a file only once. This can be removed when its fast reader supports all architectures."""
    import gguf

    original = gguf.GGUFReader
    gguf.GGUFReader = functools.lru_cache(maxsize=1)(original)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        gguf.GGUFReader = original  # type: ignore[misc]


def restore_pre_tokenizer(tokenizer: Any, gguf_path: Path) -> None:
    """Set the pre-tokenizer that the GGUF file names.

    transformers 5.23 restores byte-level BPE without the split into single digits that `smollm` and `starcoder`
    tokenizers have (llama.cpp's table: llama_vocab_pre_type), so numbers become other tokens than those that the model
    was trained on. This can be removed when transformers reads `tokenizer.ggml.pre`.
    """
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(str(gguf_path)).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in ("smollm", "starcoder", "refact", "command-r"):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
