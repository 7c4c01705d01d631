"""Our trainer and TRL's own, on the same model and the same tokenized pairs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer

from dpo_recipes.data.fit_length import TokenizedRow
from dpo_recipes.model.heads import auto_class, configure_head
from dpo_recipes.objectives.base import Head

METRICS = (
    "loss", "grad_norm", "entropy", "num_tokens", "logits/chosen", "logits/rejected", "mean_token_accuracy",
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
ROPED = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**ROPED, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gemma": ("GemmaConfig", {**ROPED, "num_key_value_heads": 1, "head_dim": 8}),
    "mistral with a window of 8": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "gemma3 with windowed and full layers": (
        "Gemma3TextConfig",
        {**ROPED, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8,
         "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma2, soft-capped": ("Gemma2Config", {**ROPED, "num_key_value_heads": 1, "head_dim": 8}),
    "qwen3-next, linear attention": (
        "Qwen3NextConfig",
        {**GROUPED, "layer_types": ["linear_attention", "full_attention"], "num_experts": 0, "head_dim": 8},
    ),
    "glm with chosen keys": (
        "GlmMoeDsaConfig",
        {**ROPED, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
         "qk_nope_head_dim": 8, "v_head_dim": 8, "index_topk": 32, "index_head_dim": 16, "index_n_heads": 2,
         "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1},
    ),
    "bert": (
        "BertConfig",
        {**ROPED, "type_vocab_size": 1, "initializer_range": 0.2, "max_position_embeddings": 128},
    ),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}),
}  # fmt: skip


def make_model(architecture: str = "llama", head: Head = "causal_lm", **changes: Any) -> Any:
    """A randomly initialized model of two layers without dropout, the same in each call."""
    import transformers

    name, settings = ARCHITECTURES[architecture]
    tokenizer = make_tokenizer()
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = getattr(transformers, name)(vocab_size=len(tokenizer), **special, **{**settings, **changes})
    torch.manual_seed(0)
    model = auto_class(head).from_config(configure_head(config, head))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def make_pairs(
    count: int = 40,
    *,
    prompts: tuple[int, ...] = (1, 3, 12, 40),
    answers: tuple[int, ...] = (1, 4, 9, 20),
    same_starts: tuple[int, ...] = (0, 0, 3),
    equal_answers: bool = False,
    max_length: int | None = None,
    width: int = 380,
) -> list[dict[str, Any]]:
    """Pairs of random ids; lengths of prompts, answers and shared beginnings are sampled from those given."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, width) for _ in range(length)]

    pairs: list[dict[str, Any]] = []
    for _ in range(count):
        prompt, start = ids(draw.choice(prompts)), ids(draw.choice(same_starts))
        length = draw.choice(answers)
        chosen, rejected = start + ids(length), start + ids(length if equal_answers else draw.choice(answers))
        room = max(1, (max_length or 1000) - len(prompt))
        pairs.append({"prompt_ids": prompt, "answer_ids": [chosen[:room], rejected[:room]]})
    return pairs


def tokenized(prompt: list[int], *answers: list[int], context: tuple[list[int], ...] = ()) -> TokenizedRow:
    """A row of token ids, by default without context."""
    return TokenizedRow(prompt, answers, context or tuple([] for _ in answers))


@dataclass
class Trained:
    """A trainer after its last step."""

    trainer: Any
    start: torch.Tensor
    """The initial trainable weights, in one vector."""

    @property
    def rows(self) -> list[dict[str, float]]:
        """The logged metrics of each step."""
        return [row for row in self.trainer.state.log_history if "loss" in row]

    @property
    def weights(self) -> torch.Tensor:
        """The trainable weights, in one vector."""
        return flat_weights(self.trainer.model)


def flat_weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().float().flatten() for p in model.parameters() if p.requires_grad])


@contextmanager
def trls_own_head() -> Iterator[None]:
    """Restore TRL's own scoring of all positions, regardless of other tests."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    ours, tokens = utils._use_triton, chunked_logprob.TOKEN_CHUNK_SIZE
    utils._use_triton, chunked_logprob.TOKEN_CHUNK_SIZE = chunked_logprob._use_triton, 4096
    try:
        yield
    finally:
        utils._use_triton, chunked_logprob.TOKEN_CHUNK_SIZE = ours, tokens


def recipe(training: dict[str, Any], objective: dict[str, Any] | None = None) -> Any:
    """A recipe whose model and data are never loaded."""
    from dpo_recipes.recipe.schema import Recipe

    defaults = {
        "max_steps": 20, "micro_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1,
        "learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0,
    }  # fmt: skip
    return Recipe.model_validate({
        "schema": 1, "name": "sharing", "model": {"path": "owner/model"}, "data": {"train": [{"path": "owner/pairs"}]},
        "objective": {"kind": "dpo", **(objective or {})}, "training": {**defaults, **training},
    })  # fmt: skip


def train_ours(
    folder: Path, model: Any, pairs: list[Any], recipe: Any, adapter: Any = None, dtype: str = "float32", **more: Any
) -> Trained:
    """The objective's trainer as in the worker, with prefix sharing according to the recipe."""
    from datasets import Dataset

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.engine_trainer import build_trainer
    from dpo_recipes.model.build import ModelBundle

    bundle = ModelBundle(model, make_tokenizer(), adapter, "cpu", dtype, None, None)  # type: ignore[arg-type]
    datasets = {"train": Dataset.from_list(pairs), **{name: Dataset.from_list(rows) for name, rows in more.items()}}
    torch.manual_seed(1)  # an adapter is initialized at random
    trainer = build_trainer(bundle, TrainingContext(recipe, folder, "cpu", dtype), datasets, [])
    start = flat_weights(trainer.model).clone()
    trainer.train()
    return Trained(trainer, start)


def train_trls(
    folder: Path, model: Any, pairs: list[Any], recipe: Any, adapter: Any = None, dtype: str = "float32", *,
    moving: Any = None, **more: Any,
) -> Trained:  # fmt: skip
    """TRL's DPOTrainer itself, with the same arguments, its own collator, padding, head and reference pass. `moving` is
    a model that becomes a reference that moves."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    from dpo_recipes.engine.collators import trl_columns
    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.dpo_trainer import dpo_config

    class PlainDPOTrainer(DPOTrainer):
        """Skip tokenization, because the pairs are already token ids."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    args = dpo_config(TrainingContext(recipe, folder, "cpu", dtype))
    if moving is not None:
        args.precompute_ref_log_probs, args.sync_ref_model = False, True
        args.ref_model_mixup_alpha = recipe.objective.ref_model_mixup_alpha
        args.ref_model_sync_steps = recipe.objective.ref_model_sync_steps
    with trls_own_head():
        torch.manual_seed(1)
        trainer = PlainDPOTrainer(
            model=model,
            ref_model=moving,
            args=args,
            train_dataset=Dataset.from_list(list(map(trl_columns, pairs))),
            eval_dataset=Dataset.from_list(list(map(trl_columns, more["eval"]))) if more else None,
            processing_class=make_tokenizer(),
            peft_config=adapter,
        )
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        start = flat_weights(trainer.model).clone()
        trainer.train()
    return Trained(trainer, start)


def train_referee(folder: Path, model: Any, rows: list[Any], recipe: Any, adapter: Any = None) -> Trained:
    """TRL's trainer of the recipe's objective, with the same arguments, its own collator, padding and head."""
    from trl_trainers import build_trl_trainer

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.trainer_args import training_arguments

    arguments = training_arguments(TrainingContext(recipe, folder, "cpu", "float32"))
    with trls_own_head(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="trl")  # `trl.experimental` warns that it may change
        torch.manual_seed(1)
        trainer = build_trl_trainer(
            model, rows, arguments, recipe.objective, tokenizer=make_tokenizer(), adapter=adapter
        )
        start = flat_weights(trainer.model).clone()
        trainer.train()
    return Trained(trainer, start)


def lora(architecture: str = "llama", head: Head = "causal_lm") -> Any:
    """Rank 4 on all linear layers."""
    from peft import LoraConfig

    is_transposed = architecture == "gpt2"
    task = "SEQ_CLS" if head == "score" else "CAUSAL_LM"
    return LoraConfig(r=4, target_modules="all-linear", task_type=task, fan_in_fan_out=is_transposed)
