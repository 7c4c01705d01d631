"""A real but tiny model: a two-layer Llama and a byte-level BPE tokenizer trained on a few lines of text."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = [
    "What is the capital of Peru? Lima.",
    "How long do I boil an egg? Eight minutes for a firm yolk.",
    "Many things could be said about this interesting question, and it depends.",
    "Human: Hello there! Assistant: How can I help you today?",
]
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(texts: Sequence[str] = TEXTS, vocab_size: int = 400) -> Any:
    """A fast byte-level BPE tokenizer with ChatML tokens and the shipped ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from dpo_recipes.shipped import template_paths

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=CHATML_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts] * 5, trainer)
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


def make_encoder_tokenizer(family: str = "bert") -> Any:
    """A fast tokenizer that joins two texts as those of an encoder do: BERT's with one separator, RoBERTa's with two
    marks between the texts and a byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if family == "roberta":
        special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(TEXTS * 5, trainer)
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        names = ["input_ids", "attention_mask"]
    else:
        special = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = sorted(set(re.findall(r"\w+", " ".join(TEXTS).lower())))
        letters = sorted(set(string.printable.lower()) - set(string.whitespace))
        vocabulary = [*tokens, *letters, *(f"##{letter}" for letter in letters), *words]  # a trainer's order varies
        ids = {token: place for place, token in enumerate(dict.fromkeys(vocabulary))}
        backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = ["input_ids", "token_type_ids", "attention_mask"]
    unknown, pad, mask = (next(token for token in tokens if part in token.lower()) for part in ("unk", "pad", "mask"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        pad_token=pad,
        mask_token=mask,
        model_input_names=names,
        **special,
    )


ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "albert", "electra", "mpnet")
"""Families of encoders that differ in their heads, positions or token types."""


def save_tiny_encoder(folder: Path, family: str = "bert", **settings: Any) -> Path:
    """Write a randomly initialized two-layer encoder with its head for masked tokens and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    two_marks = family in ("roberta", "mpnet")
    tokenizer = make_encoder_tokenizer("roberta" if two_marks else "bert")
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 130 if two_marks else 128, "embedding_size": 16,
    }  # fmt: skip
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **{**special, **sizes, **settings},
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
