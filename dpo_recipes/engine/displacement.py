"""Measures before training which pairs are most likely to displace likelihood, with the model that training begins
with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dpo_recipes.data.inspect.displacement import pair_scores, summarize
from dpo_recipes.data.inspect.rows import spread_evenly
from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.callbacks.progress import Emit, PassProgress
from dpo_recipes.engine.collators import AnswerCollator
from dpo_recipes.engine.prefix_sharing import PrefixSharing, check_longest_row, share_prefixes
from dpo_recipes.engine.reference import batches_by_tokens
from dpo_recipes.engine.row_names import LocateRow, name_row
from dpo_recipes.errors import Finding, RunError, causes, is_out_of_memory
from dpo_recipes.launch.batch import smaller_batch_fix
from dpo_recipes.model.build import ModelBundle, build_model
from dpo_recipes.model.loading import quiet_loading
from dpo_recipes.model.preflight import check_base
from dpo_recipes.prepared_data import PreparedData
from dpo_recipes.recipe.schema import Recipe


def measure_displacement(
    recipe: Recipe, prepared: PreparedData, split: str, num_pairs: int, emit: Emit, *, trust_remote_code: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """The scores of `num_pairs` pairs at even distances in a split, of all if it is 0, as plain data
    (`data.inspect.displacement.summarize`), and warnings about the base.

    Raises the errors of loading a model (M5xx), and `RunError` T603 (no memory), T606, T607 and T608 (a score is not a
    number).
    """
    emit("stage", name="check", detail=f"{recipe.model.path}: module names and weights")
    warnings = check_base(recipe, prepared.location, trust_remote_code=trust_remote_code)
    rows = prepared.splits.for_trainer(split)
    measured = rows.select(spread_evenly(len(rows), num_pairs or len(rows)))
    try:
        emit("stage", name="model", detail=recipe.model.path)
        with quiet_loading():
            bundle = build_model(
                recipe, prepared.location, prepared.tokenizer, prepared.chat, trust_remote_code=trust_remote_code
            )
        emit("stage", name="measure", detail=f"{len(measured):,} pairs on {bundle.device}, {bundle.dtype}")
        scores, num_tokens = score_pairs(recipe, bundle, measured, split, emit, prepared.splits.where)
    except (RuntimeError, MemoryError) as error:
        if any(map(is_out_of_memory, causes(error))):
            raise _out_of_memory(recipe, error) from error
        raise
    places = [prepared.splits.where(split, int(row)) for row in measured["row"]]
    report = {"model": recipe.model.path, "dtype": bundle.dtype, "split": split, "pairs": len(rows)}
    findings = [*warnings, *(finding for finding in bundle.findings if finding not in warnings)]
    return {**report, **summarize(places, scores, num_tokens)}, findings


@torch.no_grad()
def score_pairs(
    recipe: Recipe, bundle: ModelBundle, rows: Any, split: str, emit: Emit, locate: LocateRow
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The scores of pairs by their name, [rows] each, and the numbers of trained tokens, [2, rows].

    Batches are those of a reference pass: no batch needs more memory than training, and only numbers are kept of it.
    Raises `RunError` T606 to T608.
    """
    training = recipe.training
    sharing = share_prefixes(bundle.policy, training.prefix_sharing, training.max_tokens_per_pass)
    most, shares = training.max_tokens_per_pass, sharing.is_active
    check_longest_row({split: rows}, most, shares=shares, noun="pair", locate=locate)
    tokens = row_lengths(rows).sum(axis=1)
    scores: dict[str, np.ndarray] = {}
    num_tokens = np.zeros((2, len(rows)), np.int64)
    progress = PassProgress("measure", emit)
    progress.begin(split, int(tokens.sum()), 0)
    collate = AnswerCollator(bundle.tokenizer.pad_token_id)
    dtype = getattr(torch, bundle.dtype)
    try:
        with in_evaluation_mode(bundle.policy), torch.autocast(bundle.device, dtype, enabled=dtype != torch.float32):
            for batch in batches_by_tokens(tokens, training.micro_batch_size):
                sums, num_tokens[:, batch] = sum_hidden(sharing, collate([rows[row] for row in batch]))
                if len(bad := np.flatnonzero(~np.isfinite(sums).all(axis=(0, 2)))):
                    raise _not_finite(name_row(rows, batch[bad[0]], split, noun="pair", locate=locate))
                for name, values in pair_scores(sums, num_tokens[:, batch]).items():
                    scores.setdefault(name, np.zeros(len(rows)))[batch] = values
                progress.add(int(tokens[batch].sum()))
    finally:
        sharing.remove()
    return scores, num_tokens


def sum_hidden(sharing: PrefixSharing, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the hidden states that predict the trained tokens of the two answers of B pairs, [2, B, H] in 32
    bits, and the numbers of these tokens, [2, B].

    A hidden state is what the head receives at a position: its inner products with the head's weights are the logits of
    the token after it.
    """
    device = next(sharing.backbone.parameters()).device
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    hidden = sharing.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    with torch.autocast(device.type, enabled=False):
        predicts = batch["completion_mask"][:, None, 1:].to(device).float()
        sums = torch.bmm(predicts, hidden[:, :-1].float())[:, 0]
    return sums.unflatten(0, (2, -1)).cpu().numpy(), predicts[:, 0].sum(dim=1).unflatten(0, (2, -1)).cpu().numpy()


def _not_finite(named: str) -> RunError:
    return RunError.of(
        "T608",
        f"the model returns NaN or infinity for {named}",
        why="nothing was trained: weights of the base are NaN, or its activations overflow",
        fix="use `model.dtype: float32`; if it is already float32, the base's files are damaged",
    )


def _out_of_memory(recipe: Recipe, error: BaseException) -> RunError:
    return RunError.of(
        "T603",
        "measuring the pairs is out of memory",
        why=f"{type(error).__name__}: {error}".splitlines()[0],
        fix=f"{smaller_batch_fix(recipe)}; or write `model.quantization`. `dpo-recipe plan` says whether training fits",
    )
