"""Log-probabilities of the reference, once for each pair, and kept by content.

They depend on the reference's weights, the token ids and the precision computed in, and on nothing else of a recipe:
later epochs, runs that go on, and trials of a sweep over learning rates, losses or adapters find them in the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpo_recipes.cache import content_key, get_or_build

_VERSION = 1
"""Raise it when what is computed changes, and no entry of before is used again."""
_FILE = "logps.npy"
_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def add_reference(trainer: Any, pairs: Any) -> tuple[Any, bool]:
    """`pairs` with the columns `ref_chosen_logps` and `ref_rejected_logps`, and whether they were known already.

    The values are sums over an answer's tokens, in nats.
    """
    key = content_key(_VERSION, describe_computation(trainer), hash_weights(trainer), hash_pairs(pairs))
    folder, known = get_or_build("reference", key, lambda folder: _write(folder, reference_logps(trainer, pairs)))
    chosen, rejected = np.load(folder / _FILE)
    with_chosen = pairs.add_column("ref_chosen_logps", chosen.tolist())
    return with_chosen.add_column("ref_rejected_logps", rejected.tolist()), known


def describe_computation(trainer: Any) -> dict[str, Any]:
    """All but weights and tokens that decides about the numbers, as plain data."""
    model = trainer.ref_model or trainer.model
    config = json.loads(model.config.to_json_string())
    adapter = getattr(model, "peft_config", {}).get("ref")
    return {
        "model": {
            name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")
        },
        "attention": model.config._attn_implementation,
        "adapter": [adapter.r, adapter.lora_alpha, adapter.use_rslora, adapter.use_dora] if adapter else None,
        "weights": str(model.dtype),
        "autocast": trainer.accelerator.mixed_precision,
        "device": trainer.accelerator.device.type,
        "length_desensitized": trainer.ld_alpha,
        "torch": torch.__version__,
    }


def _write(folder: Path, logps: np.ndarray) -> None:
    np.save(folder / _FILE, logps)


@torch.no_grad()
def reference_logps(trainer: Any, pairs: Any) -> np.ndarray:
    """[2, rows] in 32 bits: of each pair the chosen and the rejected answer's log-probability under the reference.

    Pairs are taken in order of length, as many at a time as have the tokens of an average micro-batch, so that no batch
    takes more memory than training does.
    """
    model = trainer.ref_model or trainer.model
    logps = np.empty((2, len(pairs)), dtype=np.float32)
    training = [module for module in model.modules() if module.training]
    model.eval()  # an adapter that is the reference must not drop anything out
    try:
        for rows in batches_by_tokens(pair_tokens(pairs), trainer.args.per_device_train_batch_size):
            batch = trainer.data_collator([pairs[row] for row in rows])
            batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in batch.items()}
            chosen, rejected = trainer.compute_ref_log_probs(model, batch)
            logps[0, rows], logps[1, rows] = chosen.float().cpu().numpy(), rejected.float().cpu().numpy()
    finally:
        for module in training:
            module.training = True
    return logps


def pair_tokens(pairs: Any) -> np.ndarray:
    """Tokens of each pair with its prompt counted once, [rows]."""
    return np.array([sum(len(pair[column]) for column in _COLUMNS) for pair in pairs])


def batches_by_tokens(tokens: np.ndarray, pairs_per_batch: int) -> Iterator[list[int]]:
    """Rows in order of length, in batches of at most the tokens that `pairs_per_batch` average pairs have."""
    budget = pairs_per_batch * float(tokens.mean())
    batch: list[int] = []
    total = 0
    for row in np.argsort(-tokens, kind="stable").tolist():  # the longest first: what does not fit shows at once
        if batch and total + tokens[row] > budget:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += int(tokens[row])
    yield batch


def hash_weights(trainer: Any) -> str:
    """A digest of the reference's weights. Where it is the base below an adapter, the adapter does not count."""
    model = trainer.ref_model or trainer.model
    adapters = getattr(model, "peft_config", {})
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(_named(model), key=itemgetter(0)):
        if adapters and "ref" not in adapters and any(part in name for part in _OF_ADAPTERS):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_OF_ADAPTERS = ("lora_", "modules_to_save", "token_adapter")
"""In the names that peft 0.21 gives what it adds; modules that it copies to train them whole are among them."""


def _named(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights under the names that they have without an adapter, whichever layers that has."""
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        yield plain, tensor


def hash_pairs(pairs: Any) -> str:
    """A digest of all token ids in their order."""
    digest = hashlib.blake2b(digest_size=20)
    for pair in pairs:
        for column in _COLUMNS:
            digest.update(np.asarray([len(pair[column]), *pair[column]], dtype=np.int64).tobytes())
    return digest.hexdigest()
