"""Measures one side of benchmarks/throughput.py in its own process: `python throughput_side.py SIDE FOLDER`.

Reads recipe.json, pairs.json and, if a side does fewer steps, limits.json from the folder. Prints one line of JSON.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dpo_recipes.hardware.machine import peak_memory_bytes
from dpo_recipes.recipe.schema import Recipe


def load_model(recipe: Recipe) -> Any:
    """The policy with its tokenizer, built as in the worker."""
    from dpo_recipes.data.chat_template import apply_template
    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer

    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location, trust_remote_code=False)
    chat = apply_template(tokenizer, recipe.chat_template, recipe.model.add_special_tokens, recipe.chat_template_kwargs)
    return build_model(recipe, location, tokenizer, chat, trust_remote_code=False)


def build_ours(recipe: Recipe, bundle: Any, pairs: Any, folder: Path) -> Any:
    """The worker's trainer; its reference pass runs here."""
    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.train import prepare_trainer

    return prepare_trainer(
        bundle, TrainingContext(recipe, folder / "checkpoints", bundle.device, bundle.dtype), {"train": pairs}, []
    )


def build_others(recipe: Recipe, bundle: Any, rows: Any, folder: Path, *, packs: bool) -> Any:
    """TRL's own trainer of another objective than DPO, with its defaults: live reference, padding, all logits where it
    computes them. `packs` turns on the packing of its SFTTrainer."""
    from trl_trainers import build_trl_trainer

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.trainer_args import training_arguments

    arguments = training_arguments(TrainingContext(recipe, folder, bundle.device, bundle.dtype))
    more: dict[str, Any] = {"packing": True, "max_length": recipe.data.max_length} if packs else {}
    if recipe.objective.kind == "kto":
        more["precompute_ref_log_probs"] = False
    given = {"tokenizer": bundle.tokenizer, "adapter": bundle.adapter_config, **more}
    return build_trl_trainer(bundle.policy, list(rows), arguments, recipe.objective, **given)


def build_trls(recipe: Recipe, bundle: Any, pairs: Any, folder: Path, *, best: bool) -> Any:
    """TRL's own trainer on pairs of token ids."""
    from datasets import Dataset
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from trl.trainer.dpo_trainer import DPOTrainer

    from dpo_recipes.engine.collators import trl_columns
    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.dpo_trainer import dpo_config

    class PlainDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            """Upstream, `group_by_length` measures `input_ids`, which pairs do not have; this is the same sampler."""
            if not best:
                return super()._get_train_sampler(train_dataset)
            lengths = [len(row["prompt_ids"]) + max(map(len, row["answer_ids"])) for row in pairs]
            return LengthGroupedSampler(recipe.training.micro_batch_size, lengths=lengths)

    arguments = dpo_config(TrainingContext(recipe, folder, bundle.device, bundle.dtype))
    arguments.precompute_ref_log_probs = best
    # A GGUF base has no path from which TRL could load its reference; precomputed log-probabilities need no reference.
    is_full = bundle.adapter_config is None
    return PlainDPOTrainer(
        model=bundle.policy,
        ref_model=copy.deepcopy(bundle.policy) if is_full and not best else None,
        args=arguments,
        train_dataset=Dataset.from_list(list(map(trl_columns, pairs))),
        processing_class=bundle.tokenizer,
        peft_config=bundle.adapter_config,
    )


def main() -> None:
    """Train, and print the measurements."""
    import datasets

    side, folder = sys.argv[1], Path(sys.argv[2])
    recipe = Recipe.model_validate_json((folder / "recipe.json").read_text())
    pairs = datasets.Dataset.from_list(json.loads((folder / "pairs.json").read_text()))
    limits = folder / "limits.json"
    most = json.loads(limits.read_text()).get(side) if limits.exists() else None
    if most is not None:
        pairs = pairs.select(range(min(len(pairs), most * recipe.training.micro_batch_size)))
    datasets.disable_caching()
    bundle = load_model(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        started, cpu_started = time.perf_counter(), time.process_time()
        if side == "ours":
            trainer = build_ours(recipe, bundle, pairs, Path(scratch))
        elif recipe.objective.kind != "dpo":
            trainer = build_others(recipe, bundle, pairs, Path(scratch), packs=side == "trl-packed")
        else:
            trainer = build_trls(recipe, bundle, pairs, Path(scratch), best=side == "trl-best")
        built = time.perf_counter()
        trainer.train()
        ended, cpu_ended = time.perf_counter(), time.process_time()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print()
    print(
        json.dumps(
            {
                "pairs_per_second": len(pairs) * recipe.training.num_epochs / (ended - started),
                "reference_s": built - started,
                "training_s": ended - built,
                "cpu_s": cpu_ended - cpu_started,
                "peak_bytes": peak_memory_bytes(),
                "steps": len(losses),
                "losses": losses,
            }
        )
    )


if __name__ == "__main__":
    main()
