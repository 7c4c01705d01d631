"""Computes the log-probabilities of the reference once for each row, and caches them by content.

They depend only on the reference's weights, the token ids and the precision. Later epochs, resumed runs, and trials of
a sweep over learning rates, losses or adapters find them in the cache. An interrupted pass keeps its values
(engine/reference_parts.py), and the next one computes the rest.
"""

from __future__ import annotations

import contextlib
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
from datasets import List, Value

from dpo_recipes.cache import build_entry, cache_folder, content_key, entry_lock, file_digest, is_whole
from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT
from dpo_recipes.engine.callbacks.stop import interrupted
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.engine.fsdp import shard_policy
from dpo_recipes.engine.recorded_inputs import describe_logps
from dpo_recipes.engine.reference_parts import ReferenceParts
from dpo_recipes.engine.row_names import name_row
from dpo_recipes.errors import Interrupted, RunError
from dpo_recipes.run_inputs import ReferenceLogps

_VERSION = 3
"""Increase this number when the computation changes, so that older cache entries are not used."""
_FILE = "logps.npy"
REFERENCE = "reference_logps"
"""The column of the reference's log-probabilities of a row's answers: sums over their trained tokens, in nats."""


def add_reference(trainer: Any, rows: Any, split: str) -> tuple[Any, bool, ReferenceLogps]:
    """The `rows` of a split with the column REFERENCE, whether it was cached, and a description of its values.

    Several processes compute a share each, and the first one writes the cache; its key does not depend on their number.
    While it does, another run that needs the same values waits for them.
    Raises `RunError` T622 if the processes have different rows.
    """
    distributed = trainer.distributed
    tokens = hash_rows(rows)
    if len(set(distributed.gather(tokens))) > 1:
        raise _different_rows(distributed, trainer.context.objective.row_noun)
    with contextlib.ExitStack() as lock:
        key, known = distributed.share(_find(trainer, tokens, lock) if distributed.is_main else None)
        parts = ReferenceParts(key, distributed.rank)
        logps = None if known else reference_logps(trainer, rows, split, parts)
        keep = _keep if not trainer.context.is_reproduction else lambda _, computed: computed
        values = distributed.share(keep(key, logps) if distributed.is_main else None)
        parts.remove()
    with_reference = rows.add_column(REFERENCE, list(values.T), feature=List(Value("float32")))
    return with_reference, known, describe_logps(values)


def _find(trainer: Any, tokens: str, lock: contextlib.ExitStack) -> tuple[str, bool]:
    """The key of the cache entry for some rows, and whether the entry exists. If it does not, it is locked."""
    if trainer.reference_computation is None:
        trainer.reference_computation = describe_computation(trainer)
    key = content_key(_VERSION, trainer.reference_computation, weights_of(trainer), tokens)
    if trainer.context.is_reproduction:
        key = content_key(key, str(trainer.context.output_dir))  # for the parts of an interrupted pass
        lock.enter_context(entry_lock("reference", key))
        return key, False
    folder = cache_folder() / "reference" / key
    if is_whole(folder):
        return key, True
    lock.enter_context(entry_lock("reference", key))
    return key, is_whole(folder)


def describe_computation(trainer: Any) -> dict[str, Any]:
    """Everything except weights and tokens that affects the values, as plain data.

    It must be computed before DeepSpeed or FSDP changes the model.
    """
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
    """The precision and the library that applies it: in 16 bits, each library rounds other values."""
    precision = trainer.accelerator.mixed_precision
    if precision == "no":
        return precision, ""
    if trainer.is_deepspeed_enabled:
        return precision, "deepspeed"
    return precision, "fsdp" if trainer.is_fsdp_enabled else "autocast"


_NAMES = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode")
"""Fields of an adapter's configuration that name its origin and do not affect its values."""


def _describe_adapter(config: dict[str, Any]) -> dict[str, Any]:
    """An adapter's configuration as plain data, equal in every process. Any of its values may affect the result."""
    as_plain = json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return {name: value for name, value in json.loads(as_plain).items() if name not in _NAMES}


def _foreign_code(model: Any) -> list[str] | None:
    """Digests of the files beside a model's class; None for a class of a library, which its version identifies."""
    kinds = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__mro__
    # FSDP puts its own class before the model's.
    kind = next((kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES), None)
    if kind is None:
        return None
    return [file_digest(path) for path in sorted(Path(inspect.getfile(kind)).parent.glob("*.py"))]


_LIBRARIES = ("transformers", "torch", "builtins")


def _keep(key: str, logps: np.ndarray | None) -> np.ndarray:
    """The values of the cache, after writing `logps` if the entry did not exist."""

    folder = cache_folder() / "reference" / key
    if logps is not None:
        folder = build_entry("reference", key, lambda partial: np.save(partial / _FILE, logps))
    return np.load(folder / _FILE)


def _different_rows(distributed: DistributedContext, noun: str) -> RunError:
    return RunError.of(
        "T622",
        f"the {distributed.num_processes} processes have read different {noun}s",
        why=f"each step would have other {noun}s than the recipe says, and results could not be combined",
        fix="give all nodes the same files (a shared file system), and pin hub datasets with `revision`",
    )


def weights_of(trainer: Any) -> str:
    """The digest of the reference's weights, computed once, because a sharded model no longer exposes them."""
    if trainer.reference_weights is None:
        trainer.reference_weights = hash_weights(trainer)
    return trainer.reference_weights


@torch.no_grad()
def reference_logps(trainer: Any, rows: Any, split: str, parts: ReferenceParts) -> np.ndarray:
    """[K, rows] in 32 bits: the log-probabilities of each of the K answers of each row.

    Rows are ordered by length and batched up to the tokens of an average micro-batch, so that no batch needs more
    memory than training. Batch i is computed by process i modulo the number of processes. With the same micro-batch,
    batches are the same after an interruption, and results are equal to the bit. Raises `RunError` T608.
    """
    model, distributed = reference_model(trainer), trainer.distributed
    lengths = row_lengths(rows)
    num_answers = lengths.shape[1] - 1
    known = distributed.share(parts.read(num_answers, len(rows)) if distributed.is_main else None)
    logps = deepcopy(known)
    training = [module for module in model.modules() if module.training]
    model.eval()  # switches off the dropout of an adapter that is the reference
    tokens = lengths.sum(axis=1)
    batches = batches_by_tokens(tokens, trainer.args.per_device_eval_batch_size)
    missing = [batch for batch in batches if not known.is_known[batch].all()]
    trainer.reference_progress.begin(split, int(tokens.sum()), int(tokens[known.is_known].sum()))
    try:
        for batch, counts in share_of(missing, distributed.rank, distributed.num_processes):
            of_batch = _logps(trainer, model, [rows[row] for row in batch])
            _check_finite(trainer, rows, split, batch, of_batch)
            if counts:
                logps.add(batch, of_batch)
                parts.keep(logps)
                trainer.reference_progress.add(int(tokens[batch].sum()) * distributed.num_processes)
    except Interrupted:
        if logps.is_known.sum() > known.is_known.sum():
            raise interrupted("in the reference pass; its computed values are kept") from None
        raise
    finally:
        parts.write(logps)  # also at the end, because another process may still fail
        for module in training:
            module.training = True
    computed = np.where(known.is_known, 0.0, logps.values)
    total = np.array(distributed.total(computed.ravel()), dtype=np.float32)
    return np.where(known.is_known, known.values, total.reshape(known.values.shape))


def _logps(trainer: Any, model: Any, rows: list[Any]) -> np.ndarray:
    """[K, rows]: the log-probabilities of one batch, which the trainer computes as K tensors."""
    batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in trainer.data_collator(rows).items()}
    return torch.stack(trainer.compute_ref_log_probs(model, batch)).float().cpu().numpy()


def _check_finite(trainer: Any, rows: Any, split: str, batch: list[int], logps: np.ndarray) -> None:
    """Raise `RunError` T608 if a value is NaN or infinite, before it is cached."""
    bad = np.flatnonzero(~np.isfinite(logps).all(axis=0))
    if not len(bad):
        return
    values = ", ".join(map(str, logps[:, bad[0]]))
    named = name_row(rows, batch[bad[0]], split, noun=trainer.context.objective.row_noun, locate=trainer.locate)
    raise RunError.of(
        "T608",
        f"the reference returns NaN or infinity for {named}",
        why=f"the log-probabilities of its answers are {values}, and nothing was trained yet: weights of the base are "
        "NaN, or its activations overflow",
        fix="use `model.dtype: float32`; if it is already float32, the base's files are damaged",
    )


def share_of(batches: list[list[int]], rank: int, num_processes: int) -> Iterator[tuple[list[int], bool]]:
    """The batches of one process, and whether each one counts.

    All processes get the same number of batches, because the forward pass of a sharded model needs all processes.
    """
    for first in range(0, len(batches), num_processes):
        number = first + rank
        yield (batches[number], True) if number < len(batches) else (batches[first][:1], False)


def reference_model(trainer: Any) -> Any:
    """The model that computes the reference, prepared for a forward pass."""
    model = trainer.ref_model or trainer.model
    if trainer.is_fsdp_enabled:
        return shard_policy(trainer)
    if not trainer.is_deepspeed_enabled:
        return model
    # For every ZeRO stage, because DeepSpeed rounds the weights themselves to 16 bits instead of using autocast.
    if trainer._precompute_engine is None:
        from trl.models.utils import prepare_deepspeed

        trainer._precompute_engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    return trainer._precompute_engine


def try_one_row(trainer: Any) -> None:
    """Compute a row with a sharded model, as the trial of prefix sharing if the reference was cached.

    Only a whole forward pass of all processes can be this trial. Raises `RunError` T606.
    """
    if trainer.prefix_sharing.is_active and not trainer.prefix_sharing.is_verified:
        _logps(trainer, reference_model(trainer), [trainer.train_dataset[0]])


def release_reference_engine(trainer: Any) -> None:
    """Remove DeepSpeed's hooks of the forward passes before training. Training has hooks of its own; with both, modules
    would be counted twice, and ZeRO-3's record of their order would fail."""
    if trainer._precompute_engine is not None:
        trainer._precompute_engine.destroy()
        trainer._precompute_engine = None


def batches_by_tokens(tokens: np.ndarray, rows_per_batch: int) -> list[list[int]]:
    """Batches of rows, ordered by length, with at most the tokens of `rows_per_batch` average rows.

    `tokens`, [rows], counts the prompt of a row once.
    """
    budget = rows_per_batch * float(tokens.mean())
    batches: list[list[int]] = []
    total = 0
    for row in np.argsort(-tokens, kind="stable").tolist():  # longest first, so that a lack of memory shows at once
        if not batches or total + tokens[row] > budget:
            batches.append([])
            total = 0
        batches[-1].append(row)
        total += int(tokens[row])
    return batches


def hash_weights(trainer: Any) -> str:
    """A digest of the reference's weights. If the reference is the base of an adapter, the adapter is ignored."""
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
"""Parts of the names of weights that peft 0.21 adds, including copies of modules that are trained whole."""


def _named(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights under their names without an adapter, regardless of the layers that the adapter covers."""
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        yield plain, tensor


def hash_rows(rows: Any) -> str:
    """A digest of all token ids in order, and of the untrained runs of tokens, if there are any."""
    digest = hashlib.blake2b(digest_size=20)
    for row in rows:
        texts, contexts = (row[PROMPT], *row[ANSWERS]), row.get(CONTEXT) or []
        digest.update(np.asarray([len(texts), *map(len, texts)], dtype=np.int64).tobytes())
        for ids in texts:
            digest.update(np.asarray(ids, dtype=np.int64).tobytes())
        if any(contexts):  # after -1, which is not a length, so that no token ids have the same bytes
            numbers = [-1, *(number for runs in contexts for number in (len(runs), *runs))]
            digest.update(np.asarray(numbers, dtype=np.int64).tobytes())
    return digest.hexdigest()
