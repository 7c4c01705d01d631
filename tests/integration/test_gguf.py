"""A GGUF base is converted once: its tokenizer and configuration are kept by the file's content."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_tokenizer

from dpo_recipes.errors import RunError
from dpo_recipes.model import gguf as ours
from dpo_recipes.model.build import load_config
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.model.tokenizer import load_tokenizer


def _write_gguf(path: Path, pre: str = "smollm", architecture: str = "llama") -> ModelLocation:
    """A one-layer model with the tiny tokenizer, as llama.cpp's converter writes it; for Gemma 3 as SentencePiece."""
    import json

    import gguf

    backend = json.loads(make_tokenizer().backend_tokenizer.to_str())
    vocabulary = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].get)
    special = {token["content"] for token in backend["added_tokens"]}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama" if architecture == "gemma3" else "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_scores([-float(rank) for rank in range(len(vocabulary))])
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_tensor("token_embd.weight", np.zeros((len(vocabulary), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelLocation(str(path.parent), gguf_file=path.name)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were converted."""
    seen: list[Path] = []
    original = ours._convert

    def convert(path: Path, folder: Path) -> None:
        seen.append(path)
        original(path, folder)

    monkeypatch.setattr(ours, "_convert", convert)
    return seen


def test_tokenizer_and_configuration_are_those_of_the_file(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    location = _write_gguf(tmp_path / "model.gguf")
    path: Any = location.gguf_path
    theirs = AutoTokenizer.from_pretrained(location.path, gguf_file="model.gguf")
    ours.restore_pre_tokenizer(theirs, path)
    tokenizer = load_tokenizer(location)
    assert tokenizer.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert "Digits" in tokenizer.backend_tokenizer.to_str()
    assert (tokenizer.bos_token, tokenizer.eos_token) == (theirs.bos_token, theirs.eos_token)
    for text in ("How long do I boil 12 eggs?<|im_end|>", "  2024\n\n", "äöü 日本"):
        assert tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    config = load_config(location, trust_remote_code=False)
    assert config.to_dict() == AutoConfig.from_pretrained(location.path, gguf_file="model.gguf").to_dict()


def test_a_file_is_converted_once_by_its_content(tmp_path: Path, conversions: list[Path]) -> None:
    first = _write_gguf(tmp_path / "model.gguf")
    for _ in range(2):
        load_tokenizer(first)
        load_config(first, trust_remote_code=False)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "model.gguf", tmp_path / "elsewhere" / "same.gguf")
    same = ModelLocation(str(tmp_path / "elsewhere"), gguf_file="same.gguf")
    assert load_tokenizer(same).name_or_path == same.path
    assert conversions == [tmp_path / "model.gguf"]
    _write_gguf(tmp_path / "model.gguf", pre="default")
    assert "Digits" not in load_tokenizer(first).backend_tokenizer.to_str()
    assert len(conversions) == 2


def test_a_file_is_parsed_once_while_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Gemma 3, for which transformers has no fast reader: each step of the conversion would parse the file."""
    import gguf

    made: list[Any] = []
    original = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: made.append(path) or original(path))
    location = _write_gguf(tmp_path / "model.gguf", architecture="gemma3")
    tokenizer = load_tokenizer(location)
    assert load_config(location, trust_remote_code=False).model_type == "gemma3_text"
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_one_reader", contextlib.nullcontext)
        patch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "another"))
        again = load_tokenizer(location)
    assert len(made) == 4  # configuration, class of the tokenizer, its pre-tokenizer
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_file_that_is_none_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    for _ in range(2):
        with pytest.raises(RunError) as raised:
            load_tokenizer(ModelLocation(str(tmp_path), gguf_file="model.gguf"))
        assert raised.value.findings[0].code == "M504"
    assert not list((tmp_path / "cache" / "gguf").iterdir())
