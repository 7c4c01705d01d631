"""A real but tiny model: a two-layer Llama and a byte-level BPE tokenizer trained on a few lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = [
    "What is the capital of Peru? Lima.",
    "How long do I boil an egg? Eight minutes for a firm yolk.",
    "Many things could be said about this interesting question, and it depends.",
    "Human: Hello there! Assistant: How can I help you today?",
]
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer() -> Any:
    """A fast byte-level BPE tokenizer with ChatML tokens and the shipped ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from dpo_recipes.shipped import template_paths

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CHATML_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = template_paths()["chatml"].read_text(encoding="utf-8")
    return tokenizer


def save_tiny_model(folder: Path) -> Path:
    """Write a randomly initialized two-layer Llama with its tokenizer, the same in each call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pairs(path: Path, count: int = 24) -> Path:
    """Preference pairs with distinct prompts."""
    rows = [
        {
            "prompt": f"What is {number} plus one?",
            "chosen": f"{number + 1}.",
            "rejected": f"Many things could be said about {number}.",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe_text(model: Path | str, data: Path | str, extra: str = "", adapter: str = "{kind: lora, r: 4}") -> str:
    """A recipe for a run of a few seconds."""
    return f"""schema: 1
name: tiny
model: {{path: '{model}', adapter: {adapter}}}
data:
  train: [{{path: '{data}'}}]
  eval: {{fraction: 0.25}}
  max_length: 128
training: {{max_steps: 3, micro_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1e-2, logging_steps: 1}}
evaluation: {{num_samples: 2, max_new_tokens: 8}}
hardware: {{device: cpu}}
{extra}"""
