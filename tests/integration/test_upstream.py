"""Private and moving names of the libraries below us. When one of these fails, read the release notes first."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_recipes.objectives.dpo import PretokenizedDPOTrainer
from dpo_recipes.recipe.schema.objective import DpoLoss
from dpo_recipes.recipe.schema.training import Training


def test_the_method_that_is_overridden_exists_with_the_same_arguments() -> None:
    ours = inspect.signature(PretokenizedDPOTrainer._prepare_dataset).parameters
    theirs = inspect.signature(DPOTrainer._prepare_dataset).parameters
    assert list(ours) == list(theirs)


def test_the_collator_still_reads_our_columns() -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    batch = DataCollatorForPreference(pad_token_id=0)([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]}])
    assert batch["input_ids"].tolist() == [[1, 2, 0], [1, 3, 4]]
    assert batch["completion_mask"].tolist() == [[0, 1, 0], [0, 1, 1]]


def test_trl_knows_every_loss_of_the_schema() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    missing = [loss for loss in get_args(DpoLoss) if f'"{loss}"' not in source]
    assert not missing


def test_transformers_knows_every_scheduler_and_optimizer_of_the_schema() -> None:
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    for field, known in (("lr_scheduler", SchedulerType), ("optimizer", OptimizerNames)):
        names = get_args(Training.model_fields[field].annotation)
        assert set(names) <= {entry.value for entry in known}


def test_the_arguments_that_are_set_exist() -> None:
    names = {field.name for field in fields(DPOConfig)}
    assert {"precompute_ref_log_probs", "activation_checkpointing", "logging_nan_inf_filter", "warmup_steps"} <= names
