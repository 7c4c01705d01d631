"""Prompts that several answers share are computed once, and the answers are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import make_tokenizer

from dpo_recipes.engine.generation import Sampling, write_answers
from dpo_recipes.engine.prompt_cache import cache_of_prompts

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20, 21, 22], [30, 31, 32, 33, 34]]
REPEATED = [prompt for prompt in PROMPTS for _ in range(4)]
PAD = 0


def _model(family: str, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    if family == "gpt2":
        special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD}
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **special}
    config = AutoConfig.for_model(family, vocab_size=len(make_tokenizer()), **sizes, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def _greedy(model: Any, prompts: list[list[int]], **cache: Any) -> list[list[int]]:
    from dpo_recipes.model.sequences import pad_left

    ids, mask = pad_left(prompts, PAD)
    written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, **cache)
    return written[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_answers_are_those_without_the_cache(family: str) -> None:
    model = _model(family)
    cache = cache_of_prompts(model, REPEATED, PAD)
    assert len(cache) == 1
    assert _greedy(model, REPEATED, **cache) == _greedy(model, REPEATED)


def test_each_prompt_is_computed_once() -> None:
    """The three prompts, padded to the longest, without their last tokens: 3 · 6 positions. Then one token of each of
    12 answers at a time, the first from the prompt's last token."""
    model, seen = _model("llama"), []
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda module, arguments, output: seen.append(tuple(arguments[0].shape)))
    sampling = Sampling(3, 1.0, 1.0, 12, PAD, (2,))
    write_answers(model, REPEATED, sampling, list(range(12)))
    assert seen == [(3, 6), (12, 1), (12, 1), (12, 1)]


def test_nothing_is_shared_without_equal_prompts_or_with_another_kind_of_cache() -> None:
    assert cache_of_prompts(_model("llama"), PROMPTS, PAD) == {}
    assert cache_of_prompts(_model("llama"), [[5], [5]], PAD) == {}
    window = _model("mistral", sliding_window=4)
    assert cache_of_prompts(window, REPEATED, PAD) == {}
