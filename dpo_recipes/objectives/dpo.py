"""Direct preference optimization with TRL's DPOTrainer, fed with pairs that are tokenized already."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_recipes.engine.trainer_args import RunArguments, dpo_config
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe


class PretokenizedDPOTrainer(DPOTrainer):
    """TRL 1.16's DPOTrainer without its dataset preparation: columns prompt_ids, chosen_ids, rejected_ids come in.

    `_prepare_dataset` is private upstream; tests/integration/test_upstream.py fails when it moves.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


def build_trainer(
    recipe: Recipe, bundle: ModelBundle, run: RunArguments, datasets: dict[str, Any], callbacks: list[TrainerCallback]
) -> DPOTrainer:
    """A trainer ready to train. Computes the reference log-probabilities of all pairs on the way."""
    return PretokenizedDPOTrainer(
        model=bundle.policy,
        args=dpo_config(recipe, run),
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("eval"),
        processing_class=bundle.tokenizer,
        peft_config=bundle.adapter_config,
        callbacks=callbacks,
    )
