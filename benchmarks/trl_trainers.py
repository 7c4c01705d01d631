"""TRL 1.16's own trainers of the objectives, on tokenized rows: what tests and benchmarks compare with."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def build_trl_trainer(
    model: Any, rows: Rows, arguments: dict[str, Any], params: Any, *, tokenizer: Any, adapter: Any = None,
    **more: Any,
) -> Any:  # fmt: skip
    """TRL's trainer of an objective with its own collator, padding and head.

    `arguments` are those of TrainingArguments, `params` the recipe's `objective` section, and `more` are further
    arguments of TRL's configuration. Rows have `prompt_ids`, `answer_ids`, and `label` for KTO.
    """
    make = {"orpo": _orpo, "cpo": _cpo, "simpo": _cpo, "sft": _sft, "kto": _kto, "reward": _reward}[params.kind]
    return make(model, rows, {**arguments, **more}, params, {"processing_class": tokenizer, "peft_config": adapter})


class _Pretokenized:
    """A mixin that takes the columns of a dataset as they are."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """The columns that `trl.experimental` reads."""
        prompt = feature["prompt_ids"]
        columns: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for name in ("chosen", "rejected"):
            answer = feature[f"{name}_ids"]
            columns[f"{name}_input_ids"] = [*prompt, *answer]
            columns[f"{name}_attention_mask"] = [1] * (len(prompt) + len(answer))
            columns[f"{name}_labels"] = [-100] * len(prompt) + answer
        return columns


def _pairs(rows: Rows) -> Any:
    """A dataset of pairs, with the texts whose absence the trainers would not accept."""
    from datasets import Dataset

    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    return Dataset.from_list([
        {"prompt_ids": row["prompt_ids"], "chosen_ids": row["answer_ids"][0], "rejected_ids": row["answer_ids"][1],
         **texts}
        for row in rows
    ])  # fmt: skip


def _orpo(model: Any, rows: Rows, arguments: dict[str, Any], params: Any, others: dict[str, Any]) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class Pretokenized(_Pretokenized, ORPOTrainer):
        pass

    config = ORPOConfig(**arguments, beta=params.beta, max_length=None, remove_unused_columns=False)
    return Pretokenized(model, config, train_dataset=_pairs(rows), **others)


def _cpo(model: Any, rows: Rows, arguments: dict[str, Any], params: Any, others: dict[str, Any]) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    class Pretokenized(_Pretokenized, CPOTrainer):
        pass

    losses = {"loss_type": params.loss_type}
    if params.kind == "simpo":
        losses = {"loss_type": "simpo", "simpo_gamma": params.gamma}
    config = CPOConfig(
        **arguments,
        **losses,
        beta=params.beta,
        cpo_alpha=params.cpo_alpha,
        label_smoothing=params.label_smoothing,
        max_length=None,
        remove_unused_columns=False,
    )
    return Pretokenized(model, config, train_dataset=_pairs(rows), **others)


def _sft(model: Any, rows: Rows, arguments: dict[str, Any], params: Any, others: dict[str, Any]) -> Any:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    data = Dataset.from_list([
        {"input_ids": [*row["prompt_ids"], *row["answer_ids"][0]],
         "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["answer_ids"][0])}
        for row in rows
    ])  # fmt: skip
    config = SFTConfig(**{"max_length": None, "packing": False, **arguments}, completion_only_loss=True)
    return SFTTrainer(model, config, train_dataset=data, **others)


def _kto(model: Any, rows: Rows, arguments: dict[str, Any], params: Any, others: dict[str, Any]) -> Any:
    from datasets import Dataset
    from transformers import Trainer
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    class Pretokenized(_Pretokenized, KTOTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            self.args.train_sampling_strategy = "random"  # TRL's pairing of answers rules out shuffling
            return Trainer._get_train_sampler(self, train_dataset)

    data = Dataset.from_list([
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["answer_ids"][0],
         "KL_completion_ids": row["answer_ids"][-1], "label": row["label"]}
        for row in rows
    ])  # fmt: skip
    config = KTOConfig(
        **{"precompute_ref_log_probs": True, **arguments, "train_sampling_strategy": "sequential"},
        beta=params.beta,
        loss_type=params.loss_type,
        desirable_weight=params.desirable_weight,
        undesirable_weight=params.undesirable_weight,
        max_length=None,
    )
    return Pretokenized(model, args=config, train_dataset=data, **others)


def _reward(model: Any, rows: Rows, arguments: dict[str, Any], params: Any, others: dict[str, Any]) -> Any:
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    class Pretokenized(_Pretokenized, RewardTrainer):
        pass

    margins = [{"margin": row["margin"]} if "margin" in row else {} for row in rows]
    data = Dataset.from_list([
        {**margin, "chosen_ids": [*row["prompt_ids"], *row["answer_ids"][0]],
         "rejected_ids": [*row["prompt_ids"], *row["answer_ids"][1]]}
        for row, margin in zip(rows, margins, strict=True)
    ])  # fmt: skip
    config = RewardConfig(
        **arguments, max_length=None, center_rewards_coefficient=params.center_rewards_coefficient or None
    )
    return Pretokenized(model, config, train_dataset=data, **others)
