"""Log-probabilities of the reference, once for each pair, and kept by content.

They depend on the reference's weights, the token ids and the precision computed in, and on nothing else of a recipe:
later epochs, runs that go on, and trials of a sweep over learning rates, losses or adapters find them in the cache. A
pass that is ended leaves what it has computed (engine/reference_parts.py), and the next one computes the rest.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from copy import deepcopy
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
import trl

from dpo_recipes.cache import cache_folder, content_key, file_digest, get_or_build, is_whole
from dpo_recipes.data.tokenize import CONTEXT_COLUMNS
from dpo_recipes.engine.callbacks.stop import interrupted
from dpo_recipes.engine.fsdp import shard_policy
from dpo_recipes.engine.pair_names import name_pair
from dpo_recipes.engine.processes import Processes
from dpo_recipes.engine.reference_parts import ReferenceParts
from dpo_recipes.errors import Interrupted, RunError

_VERSION = 2
"""Raise it when what is computed changes, and no entry of before is used again."""
_FILE = "logps.npy"
_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def add_reference(trainer: Any, pairs: Any, split: str) -> tuple[Any, bool]:
    """The `pairs` of a split with the columns `ref_chosen_logps` and `ref_rejected_logps`, and whether they were known
    already.

    The values are sums over an answer's tokens, in nats. Several processes compute a share each, and the first one
    keeps the cache; its key is the same for any number of them. Raises `RunError` T622 where they have other pairs.
    """
    processes = trainer.processes
    tokens = hash_pairs(pairs)
    if len(set(processes.gather(tokens))) > 1:
        raise _other_pairs(processes)
    key, known = processes.share(_find(trainer, tokens) if processes.is_main else None)
    parts = ReferenceParts(key, processes.place.rank)
    logps = None if known else reference_logps(trainer, pairs, split, parts)
    chosen, rejected = processes.share(_keep(key, logps) if processes.is_main else None)
    parts.remove()
    with_chosen = pairs.add_column("ref_chosen_logps", chosen.tolist())
    return with_chosen.add_column("ref_rejected_logps", rejected.tolist()), known


def _find(trainer: Any, tokens: str) -> tuple[str, bool]:
    """The key of the cache's entry for some pairs, and whether there is one."""
    if trainer.reference_computation is None:
        trainer.reference_computation = describe_computation(trainer)
    key = content_key(_VERSION, trainer.reference_computation, weights_of(trainer), tokens)
    return key, is_whole(cache_folder() / "reference" / key)


def describe_computation(trainer: Any) -> dict[str, Any]:
    """All but weights and tokens that decides about the numbers, as plain data; of a model that no engine has changed
    yet."""
    model = trainer.ref_model or trainer.model
    config = json.loads(model.config.to_json_string())
    adapter = getattr(model, "peft_config", {}).get("ref")
    return {
        "model": {
            name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")
        },
        "attention": model.config._attn_implementation,
        "code": _foreign_code(model),
        "adapter": _describe_adapter(adapter.to_dict()) if adapter else None,
        "weights": str(model.dtype),
        "precision": _describe_precision(trainer),
        "device": trainer.accelerator.device.type,
        "length_desensitized": trainer.ld_alpha,
        "versions": {library.__name__: library.__version__ for library in (torch, transformers, peft, trl)},
    }


def _describe_precision(trainer: Any) -> tuple[str, str]:
    """What is computed in, and by whose means: in 16 bits each rounds something else."""
    precision = trainer.accelerator.mixed_precision
    if precision == "no":
        return precision, ""
    if trainer.is_deepspeed_enabled:
        return precision, "deepspeed"
    return precision, "fsdp" if trainer.is_fsdp_enabled else "autocast"


_NAMES = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode")
"""In an adapter's configuration, what says where it comes from and nothing of what it computes."""


def _describe_adapter(config: dict[str, Any]) -> dict[str, Any]:
    """An adapter's whole configuration as plain data, the same in every process: each of its numbers may decide."""
    as_plain = json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return {name: value for name, value in json.loads(as_plain).items() if name not in _NAMES}


def _foreign_code(model: Any) -> list[str] | None:
    """Digests of the files beside a model's class, where that is none of the libraries'; these go by the version."""
    kinds = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__mro__
    # FSDP puts a class of its own before the model's.
    kind = next((kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES), None)
    if kind is None:
        return None
    return [file_digest(path) for path in sorted(Path(inspect.getfile(kind)).parent.glob("*.py"))]


_LIBRARIES = ("transformers", "torch", "builtins")


def _keep(key: str, logps: np.ndarray | None) -> np.ndarray:
    """The cache's values, put there first where they are new."""

    def write(folder: Path) -> None:
        assert logps is not None, "the entry was whole a moment ago"
        np.save(folder / _FILE, logps)

    folder, _ = get_or_build("reference", key, write)
    return np.load(folder / _FILE)


def _other_pairs(processes: Processes) -> RunError:
    return RunError.of(
        "T622",
        f"the {processes.count} processes have read different pairs",
        why="each step would be made of others than the recipe says, and results could not be put together",
        fix="give all nodes the same files (a shared file system), and pin hub datasets with `revision`",
    )


def weights_of(trainer: Any) -> str:
    """The digest of the reference's weights, computed once: a model that is cut into pieces shows them no more."""
    if trainer.reference_weights is None:
        trainer.reference_weights = hash_weights(trainer)
    return trainer.reference_weights


@torch.no_grad()
def reference_logps(trainer: Any, pairs: Any, split: str, parts: ReferenceParts) -> np.ndarray:
    """[2, rows] in 32 bits: of each pair the chosen and the rejected answer's log-probability under the reference.

    Pairs are taken in order of length, as many at a time as have the tokens of an average micro-batch, so that no batch
    takes more memory than training does. Of several processes each takes every so-manieth of these batches. With the
    same micro-batch, batches are the same after an interruption, and results to the bit. Raises `RunError` T608.
    """
    model, processes = reference_model(trainer), trainer.processes
    known = processes.share(parts.read(len(pairs)) if processes.is_main else None)
    logps = deepcopy(known)
    training = [module for module in model.modules() if module.training]
    model.eval()  # an adapter that is the reference must not drop anything out
    tokens = pair_tokens(pairs)
    batches = batches_by_tokens(tokens, trainer.args.per_device_eval_batch_size)
    missing = [rows for rows in batches if not known.is_known[rows].all()]
    trainer.reference_progress.begin(split, int(tokens.sum()), int(tokens[known.is_known].sum()))
    try:
        for rows, counts in share_of(missing, processes.place.rank, processes.count):
            of_rows = _logps(trainer, model, [pairs[row] for row in rows])
            _check_finite(trainer, pairs, split, rows, of_rows)
            if counts:
                logps.add(rows, of_rows)
                parts.keep(logps)
                trainer.reference_progress.add(int(tokens[rows].sum()) * processes.count)
    except Interrupted:
        if logps.is_known.sum() > known.is_known.sum():
            raise interrupted("in the reference pass; what it has computed is kept") from None
        raise
    finally:
        parts.write(logps)  # also at the end: another process may fail yet
        for module in training:
            module.training = True
    computed = np.where(known.is_known, 0.0, logps.values)
    total = np.array(processes.total(computed.ravel()), dtype=np.float32)
    return np.where(known.is_known, known.values, total.reshape(known.values.shape))


def _logps(trainer: Any, model: Any, pairs: list[Any]) -> np.ndarray:
    """[2, rows] of one batch."""
    batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in trainer.data_collator(pairs).items()}
    return torch.stack(trainer.compute_ref_log_probs(model, batch)).float().cpu().numpy()


def _check_finite(trainer: Any, pairs: Any, split: str, rows: list[int], logps: np.ndarray) -> None:
    """Raise `RunError` T608 for a value that no loss can be computed with, before it is kept."""
    bad = np.flatnonzero(~np.isfinite(logps).all(axis=0))
    if not len(bad):
        return
    chosen, rejected = logps[:, bad[0]]
    raise RunError.of(
        "T608",
        f"the reference gives no number for {name_pair(pairs, rows[bad[0]], split, trainer.locate)}",
        why=f"its log-probabilities are {chosen} (chosen) and {rejected} (rejected), and nothing was trained yet: "
        "weights of the base are no numbers, or its activations overflow",
        fix="use `model.dtype: float32`; where that is no other, the base's files are damaged",
    )


def share_of(batches: list[list[int]], rank: int, num_processes: int) -> Iterator[tuple[list[int], bool]]:
    """The batches of one process, and whether they count: all get equally many, because a model in pieces goes forward
    only when all of them do."""
    for first in range(0, len(batches), num_processes):
        number = first + rank
        yield (batches[number], True) if number < len(batches) else (batches[first][:1], False)


def reference_model(trainer: Any) -> Any:
    """The model that gives the reference, where it can be computed with."""
    model = trainer.ref_model or trainer.model
    if trainer.is_fsdp_enabled:
        return shard_policy(trainer)
    if not trainer.is_deepspeed_enabled:
        return model
    # Whatever the stage: in 16 bits DeepSpeed rounds the weights themselves, where others leave that to autocast.
    if trainer._precompute_engine is None:
        from trl.models.utils import prepare_deepspeed

        trainer._precompute_engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    return trainer._precompute_engine


def try_one_pair(trainer: Any) -> None:
    """Send a pair through a model whose weights are cut into pieces, so that prefix sharing has had its trial, which
    only a whole forward pass of all processes can be, also where the reference was known. Raises `RunError` T606."""
    if trainer.prefix_sharing.is_active and not trainer.prefix_sharing.is_proven:
        _logps(trainer, reference_model(trainer), [trainer.train_dataset[0]])


def pair_tokens(pairs: Any) -> np.ndarray:
    """Tokens of each pair with its prompt counted once, [rows]."""
    return np.array([sum(len(pair[column]) for column in _COLUMNS) for pair in pairs])


def batches_by_tokens(tokens: np.ndarray, pairs_per_batch: int) -> list[list[int]]:
    """Rows in order of length, in batches of at most the tokens that `pairs_per_batch` average pairs have."""
    budget = pairs_per_batch * float(tokens.mean())
    batches: list[list[int]] = []
    total = 0
    for row in np.argsort(-tokens, kind="stable").tolist():  # the longest first: what does not fit shows at once
        if not batches or total + tokens[row] > budget:
            batches.append([])
            total = 0
        batches[-1].append(row)
        total += int(tokens[row])
    return batches


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
    """A digest of all token ids in their order, and of those that are not trained where there are any."""
    digest = hashlib.blake2b(digest_size=20)
    for pair in pairs:
        for column in _COLUMNS:
            digest.update(np.asarray([len(pair[column]), *pair[column]], dtype=np.int64).tobytes())
        runs = [pair.get(column) or [] for column in CONTEXT_COLUMNS]
        if any(runs):  # behind a number that is no length, so that no ids give the same bytes
            numbers = [-1, *(number for of_answer in runs for number in (len(of_answer), *of_answer))]
            digest.update(np.asarray(numbers, dtype=np.int64).tobytes())
    return digest.hexdigest()
