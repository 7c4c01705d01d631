"""ms-swift's arguments for Megatron, which has names and defaults of its own."""

from __future__ import annotations

from dpo_recipes.share.foreign.draft import Keys
from dpo_recipes.share.foreign.progress import map_limit, map_trackers
from dpo_recipes.share.foreign.schedule import map_clipping, map_length
from dpo_recipes.share.foreign.values import number, text, whole

_NAMES = {
    "micro_batch_size": "training.micro_batch_size",
    "lr": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "seed": "training.seed",
    "output_dir": "output_dir",
    "save": "output_dir",
}


def map_megatron(keys: Keys) -> None:
    """The section `training`. The global batch is kept, whatever the number of devices was."""
    draft = keys.draft
    keys.map_all(_NAMES)
    is_full = not draft.has("model.adapter.kind")
    for to, value in {
        "training.micro_batch_size": 1,
        "training.learning_rate": 1e-5 if is_full else 1e-4,
        "training.weight_decay": 0.1,
        "training.seed": 42,
    }.items():
        draft.default(to, value)
    _map_batch(keys)
    map_length(keys, "max_epochs" if keys.has("max_epochs") else "num_train_epochs", 1.0)
    steps = keys.get("train_iters", whole)
    if steps:
        draft.put("training.max_steps", steps, keys.key("train_iters"))
    _map_rates(keys)
    map_clipping(keys, "clip_grad")
    draft.default("training.optimizer", "adamw_torch_fused", "Megatron's Adam")
    granularity = keys.get("recompute_granularity", text, "selective")
    if keys.has("recompute_granularity"):
        draft.put("training.gradient_checkpointing", granularity != "none", keys.key("recompute_granularity"))
    else:
        draft.default("training.gradient_checkpointing", True)
    for name, to, value in (
        ("logging_steps", "training.logging_steps", 5),
        ("log_interval", "training.logging_steps", 5),
        ("save_steps", "checkpoints.save_steps", 500),
        ("save_interval", "checkpoints.save_steps", 500),
    ):
        if not keys.map(name, to):
            draft.default(to, value)
    for name in ("eval_steps", "eval_interval"):
        keys.map(name, "training.eval_steps", whole)
    map_limit(keys)
    map_trackers(keys, default=("tensorboard",))
    for name, to in (("wandb_project", "tracking.project"), ("wandb_exp_name", "tracking.run_name")):
        if "wandb" in draft.value("tracking.report_to", []):
            keys.map(name, to)
    if not keys.has("adam_beta2"):
        draft.remarks.append("Adam's beta2 is 0.999 here, and 0.95 in ms-swift by default; a recipe cannot set it")


def _map_batch(keys: Keys) -> None:
    draft, micro = keys.draft, keys.draft.value("training.micro_batch_size", 1)
    total = keys.get("global_batch_size", whole, 16) or 16
    processes = draft.values.pop("launch.num_processes", None)
    draft.values.pop("launch.num_nodes", None)
    for key in processes.keys if processes else ():
        draft.outcomes.pop(key.path, None)
        note = "Megatron divides the model among devices; here `--num-processes` says how many there are"
        draft.account(key, "listed", note=note, differs=False)
    steps = max(1, total // micro)
    if keys.has("global_batch_size"):
        note = f"global_batch_size: {total}"
        draft.put("training.gradient_accumulation_steps", steps, keys.key("global_batch_size"), note=note)
    else:
        draft.default("training.gradient_accumulation_steps", steps, f"global_batch_size: {total}")


def _map_rates(keys: Keys) -> None:
    draft = keys.draft
    style, least = keys.get("lr_decay_style", text), keys.get("min_lr", number, 0)
    peak = draft.value("training.learning_rate")
    known = {
        "cosine": "cosine",
        "linear": "linear",
        "constant": "constant_with_warmup",
        "inverse-square-root": "inverse_sqrt",
    }
    kind = known.get(style or "cosine", "cosine")
    if least and peak and kind == "cosine":
        given = [keys.key(name) for name in ("lr_decay_style", "min_lr") if keys.has(name)]
        draft.put("training.lr_scheduler", "cosine_with_min_lr", *given)
        ratio = float(f"{least / peak:.6g}")
        draft.put("training.min_lr_ratio", ratio, keys.key("min_lr"), note=f"{least:g} of the peak {peak:g}")
    elif style is not None:
        draft.put("training.lr_scheduler", kind, keys.key("lr_decay_style"), differs=style not in known)
    else:
        draft.default("training.lr_scheduler", "cosine")
    if "min_lr" in keys.data and ("min_lr",) not in draft.outcomes:
        keys.list("min_lr", "only a cosine has a lowest rate here", differs=bool(least))
    iters, share = keys.get("lr_warmup_iters", whole), keys.get("lr_warmup_fraction", number)
    if share is not None:
        draft.put("training.warmup_ratio", share, keys.key("lr_warmup_fraction"))
        keys.list("lr_warmup_iters", "`lr_warmup_fraction` overrides it", differs=False)
    elif iters:
        draft.put("training.warmup_steps", iters, keys.key("lr_warmup_iters"))
    else:
        draft.default("training.warmup_ratio", 0.0)
        keys.derive(["lr_warmup_iters"], "training.warmup_ratio")
