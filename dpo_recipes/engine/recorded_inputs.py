"""Writes inputs.json: the content of everything that a run learns from."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from dpo_recipes.cache import content_key
from dpo_recipes.data.store import rows_sha256
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.resume import identity, read_recipe
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.run_inputs import FIRST_ROWS, Computation, ReferenceLogps, RunInputs, SplitRows


def describe_logps(values: np.ndarray) -> ReferenceLogps:
    """The digest and the first values of log-probabilities, [K, rows]."""
    digest = hashlib.sha256(np.ascontiguousarray(values, dtype=np.float32).tobytes()).hexdigest()
    return ReferenceLogps(rows=values.shape[1], sha256=digest, first=values[:, :FIRST_ROWS].tolist())


def record_inputs(
    recipe: Recipe,
    bundle: ModelBundle,
    run: RunDirectory,
    tokenized: TokenizedSplits,
    reference: dict[str, ReferenceLogps],
    weights: dict[str, str] | None,
    distributed: DistributedContext,
) -> None:
    """Write inputs.json, in the first process. `weights` is what `digest_of_base` returns."""
    if not distributed.is_main:
        return
    tokenizer, info, given = bundle.tokenizer, bundle.model_info, read_recipe(run)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    RunInputs(
        recipe=content_key(identity(given)) if given else "",
        rows={name: SplitRows(rows=len(rows), sha256=rows_sha256(rows.path)) for name, rows in tokenized.rows.items()},
        tokenizer=content_key(tokenizer.backend_tokenizer.to_str(), special),
        chat_template=hashlib.sha256(bundle.chat.template.text.encode()).hexdigest(),
        commit=info["revision"],
        base_weights=None if weights is None else weights["digest"],
        reference=reference,
        computation=Computation(
            device=bundle.device,
            device_name=info["device_name"],
            dtype=bundle.dtype,
            attention=info["attention"],
            threads=torch.get_num_threads(),
            processes=distributed.num_processes,
            micro_batch_size=recipe.training.micro_batch_size,
            strategy=distributed.strategy,
        ),
    ).write(run.inputs)
