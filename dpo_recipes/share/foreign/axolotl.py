"""Axolotl's configurations: `rl: dpo|ipo|orpo|simpo|kto`, reward models, and supervised fine-tuning."""

from __future__ import annotations

from dpo_recipes.errors import Finding, Where
from dpo_recipes.recipe.foreign_names import AXOLOTL
from dpo_recipes.share.foreign import trl_common
from dpo_recipes.share.foreign.axolotl_data import map_data, map_template
from dpo_recipes.share.foreign.axolotl_lists import LISTED, plugin_cost
from dpo_recipes.share.foreign.axolotl_model import map_model
from dpo_recipes.share.foreign.axolotl_run import map_run
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.machine import map_sharding, map_timeout
from dpo_recipes.share.foreign.schedule import map_clipping, map_length, map_optimizer, map_scheduler
from dpo_recipes.share.foreign.tool import Tool, count_signs
from dpo_recipes.share.foreign.trl_common import put_losses
from dpo_recipes.share.foreign.values import flag, names, number, numbers, text, whole

_KINDS = {"dpo": "dpo", "ipo": "dpo", "orpo": "orpo", "simpo": "simpo", "kto": "kto"}
_PARAMETERS: dict[str, tuple[tuple[str, str, float | None], ...]] = {
    "kto": (
        ("kto_desirable_weight", "desirable_weight", 1.0),
        ("kto_undesirable_weight", "undesirable_weight", 1.0),
    ),
    "simpo": (("simpo_gamma", "gamma", 0.5), ("cpo_alpha", "cpo_alpha", 1.0)),
    "reward": (("center_rewards_coefficient", "center_rewards_coefficient", None),),
}
"""Keys of an objective's own numbers, their fields, and Axolotl's defaults."""
_OVERLONG = {"drop": "drop", "truncate": "truncate_completion_end", "raise": "error"}


def signs(config: Config) -> int:
    """How many keys are Axolotl's alone."""
    found = count_signs(
        config,
        "base_model sequence_len num_epochs val_set_size rl lora_r lora_target_linear datasets sample_packing "
        "dataset_prepared_path wandb_project optimizer reward_model adapter load_in_4bit chat_template",
    )
    return found if config.has("base_model") else found // 2 if config.has("sequence_len", "rl") else 0


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    kind = _find_kind(keys)
    map_environment(draft)
    keys.map_all({name: to for name, to in AXOLOTL.items() if not to.startswith(("model.adapter", "training.early"))})
    map_model(keys)
    _map_objective(keys, kind)
    map_data(keys, kind)
    map_template(keys, kind)
    _map_length(keys, kind)
    _map_training(keys)
    map_run(keys)
    map_sharding(keys)
    map_timeout(keys)
    _list_plugins(keys)


def _find_kind(keys: Keys) -> str:
    """The objective. Raises `SharingError` S507 for a job that no recipe can describe."""
    draft = keys.draft
    rl = keys.get("rl", text)
    for name, kind in (("process_reward_model", "a process reward model"), ("pretraining_dataset", "pretrain")):
        if keys.get(name, _is_on, False):
            raise trl_common.no_recipe(draft.config, kind, keys.key(name).where)
    if draft.kind:
        return draft.kind
    if rl is not None:
        kind = _KINDS.get(rl.lower())
        if kind is None:
            raise trl_common.no_recipe(draft.config, rl, keys.key("rl").where)
        draft.put("objective.kind", kind, keys.key("rl"))
        return kind
    if keys.get("reward_model", flag, False):
        draft.put("objective.kind", "reward", keys.key("reward_model"))
        return "reward"
    draft.put("objective.kind", "sft")
    return "sft"


def _is_on(value: object) -> bool:
    return value not in (False, "false", 0)


def _map_objective(keys: Keys, kind: str) -> None:
    draft = keys.draft
    if not draft.has("objective.kind"):
        draft.put("objective.kind", kind)
    trl = keys.sub("trl")
    if kind in ("dpo", "kto", "orpo", "simpo"):
        _map_beta(keys, trl)
    if kind == "dpo":
        _map_dpo(keys, trl)
    elif kind == "orpo":
        draft.default("objective.nll_on_prompt", True, "TRL's log-likelihood includes the prompt")
    for name, to, value in _PARAMETERS.get(kind, ()):
        if not keys.map(name, f"objective.{to}", number) and value is not None:
            draft.default(f"objective.{to}", value)


def _map_beta(keys: Keys, trl: Keys) -> None:
    """`trl.beta` wins over `rl_beta`, and that over `orpo_alpha`."""
    to = "objective.beta"
    found = [(trl, "beta"), (keys, "rl_beta"), (keys, "dpo_beta"), (keys, "orpo_alpha")]
    for place, name in found:
        if not place.has(name):
            continue
        if not keys.draft.has(to):
            place.map(name, to)
        else:
            place.derive([name], to, note="another key overrides it")
    keys.draft.default(to, 0.1)


def _map_dpo(keys: Keys, trl: Keys) -> None:
    draft, to = keys.draft, "objective.loss_type"
    if keys.get("rl", text) == "ipo":
        draft.put(to, "ipo", keys.key("rl"))
        losses = ["ipo"]
        keys.list("dpo_loss_type", "`rl: ipo` overrides it", differs=False)
    else:
        losses = put_losses(keys, keys.get("dpo_loss_type", names) or ["sigmoid"], "dpo_loss_type")
        weights = keys.get("dpo_loss_weights", numbers)
        if weights and len(losses) > 1:
            draft.put("objective.loss_weights", weights, keys.key("dpo_loss_weights"))
    trl_common.add_likelihood(keys, "rpo_alpha", losses)
    trl_common.map_smoothing(keys, losses, trl_common.SMOOTHED, "dpo_label_smoothing")
    keys.map("dpo_use_weighting", "objective.use_weighting")
    if trl.get("sync_ref_model", flag, False):
        trl.map("sync_ref_model", "objective.sync_ref_model")
        for name, default in (("ref_model_mixup_alpha", 0.9), ("ref_model_sync_steps", 64)):
            if not trl.map(name, f"objective.{name}"):
                draft.default(f"objective.{name}", default)
    else:
        names_ = ["sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"]
        trl.derive(names_, "objective.sync_ref_model", note="the reference does not move")


def _map_length(keys: Keys, kind: str) -> None:
    draft, to = keys.draft, "data.overlong"
    draft.default("data.max_length", 512)
    way = keys.get("excess_length_strategy", text)
    if way is not None and way.lower() in _OVERLONG:
        draft.put(to, _OVERLONG[way.lower()], keys.key("excess_length_strategy"))
    else:
        draft.default(to, "truncate_completion_end" if kind == "reward" else "drop")
        keys.list("excess_length_strategy", f"it is one of {', '.join(_OVERLONG)}", differs=True)
    if kind == "sft":
        if keys.get("train_on_inputs", flag, False):
            draft.put("data.train_on_turns", "all", keys.key("train_on_inputs"))
        else:
            keys.derive(["train_on_inputs"], "data.train_on_turns")


def _map_training(keys: Keys) -> None:
    draft = keys.draft
    if not draft.has("training.learning_rate"):
        why = "Axolotl has no default learning rate"
        where = Where(draft.config.file)
        draft.findings.append(Finding("S505", "`learning_rate` is missing", where, why, "add `learning_rate: 1e-5`"))
    draft.default("training.micro_batch_size", 1)
    _map_accumulation(keys)
    draft.default("training.weight_decay", 0.0)
    draft.default("training.gradient_checkpointing", False)
    draft.default("training.seed", 42)
    map_length(keys, "num_epochs", 1.0)
    _map_schedule(keys)
    map_optimizer(keys, "optimizer", "adamw_torch_fused")
    map_clipping(keys)
    for name, usual in {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}.items():
        value = keys.get(name, number)
        if value is not None:
            note = "it is the same here" if value == usual else f"a recipe cannot set it; it is {usual:g} here"
            keys.list(name, note, differs=value != usual)


def _map_accumulation(keys: Keys) -> None:
    draft, to = keys.draft, "training.gradient_accumulation_steps"
    total, micro = keys.get("batch_size", whole), draft.value("training.micro_batch_size")
    steps = keys.get("gradient_accumulation_steps", whole)
    if steps:
        draft.put(to, steps, keys.key("gradient_accumulation_steps"))
        keys.derive(["batch_size"], to, note="`gradient_accumulation_steps` overrides it")
    elif total and micro:
        draft.put(to, max(1, total // micro), keys.key("batch_size"), note=f"batch_size: {total}")
    else:
        draft.default(to, 1)


def _map_schedule(keys: Keys) -> None:
    draft = keys.draft
    if keys.draft.value("training.gradient_checkpointing") == "unsloth":
        draft.put("training.gradient_checkpointing", True, keys.key("gradient_checkpointing"))
    map_scheduler(keys, "lr_scheduler", "cosine")
    ratio = keys.get("cosine_min_lr_ratio", number)
    if ratio is not None and draft.value("training.lr_scheduler", "").startswith("cosine"):
        schedulers = draft.values["training.lr_scheduler"].keys
        draft.put("training.lr_scheduler", "cosine_with_min_lr", *schedulers, keys.key("cosine_min_lr_ratio"))
        draft.put("training.min_lr_ratio", ratio, keys.key("cosine_min_lr_ratio"))
    steps, share = keys.get("warmup_steps", number), keys.get("warmup_ratio", number)
    total = draft.value("training.max_steps")
    if steps is not None and steps >= 1:
        draft.put("training.warmup_steps", 2 if steps == 1 else round(steps), keys.key("warmup_steps"))
        keys.list("warmup_ratio", "`warmup_steps` overrides it", differs=False)
    elif steps is not None or share is not None:
        name = "warmup_steps" if steps is not None else "warmup_ratio"
        draft.put("training.warmup_ratio", keys.get(name, number), keys.key(name))
        if name == "warmup_steps":
            keys.list("warmup_ratio", "`warmup_steps` overrides it", differs=False)
    elif total:
        draft.default("training.warmup_steps", min(int(0.03 * total), 100), "3 % of the steps, at most 100")
    else:
        draft.default("training.warmup_ratio", 0.03, "3 % of the steps, there at most 100 of them")


def _list_plugins(keys: Keys) -> None:
    """Name each plugin with what it costs not to have it."""
    given = keys.get("plugins", names) or []
    if given:
        costs = [(name.rpartition(".")[2], *plugin_cost(name)) for name in given]
        note = "; ".join(f"{name}: {cost}" for name, cost, _ in costs)
        keys.list("plugins", note, differs=any(differs for *_, differs in costs))


TOOL = Tool(
    name="axolotl",
    title="Axolotl",
    version="0.19",
    programs=("axolotl train", "axolotl.cli.train", "axolotl preprocess"),
    signs=signs,
    convert=convert,
    mapped=AXOLOTL,
    derived={
        "rl, reward_model": "objective.kind",
        "rl_beta, dpo_beta, trl.beta, orpo_alpha": "objective.beta",
        "dpo_loss_type, dpo_loss_weights, dpo_label_smoothing, rpo_alpha": "objective.loss_type, ...",
        "simpo_gamma, cpo_alpha, kto_desirable_weight, kto_undesirable_weight, center_rewards_coefficient": "objective",
        "dpo_use_weighting, trl.sync_ref_model, trl.ref_model_mixup_alpha, trl.ref_model_sync_steps": "objective",
        "datasets, test_datasets, val_set_size": "data.train, data.eval",
        "datasets[].type": "data.train[].format, chat_template",
        "datasets[].field_messages, datasets[].field_chosen, datasets[].field_rejected": "data.train[].columns",
        "dataset_exact_deduplication": "data.dedup",
        "excess_length_strategy, train_on_inputs": "data.overlong, data.train_on_turns",
        "chat_template, chat_template_jinja": "chat_template",
        "bf16, fp16, bfloat16, float16, float32": "model.dtype",
        "load_in_4bit, load_in_8bit, bnb_config_kwargs": "model.quantization",
        "adapter, lora_model_dir, lora_target_linear, lora_target_modules, peft_init_lora_weights": "model.adapter",
        "attn_implementation, flash_attention, sdp_attention, eager_attention": "model.attn_implementation",
        "num_epochs, max_steps": "training.num_epochs, training.max_steps",
        "gradient_accumulation_steps, batch_size": "training.gradient_accumulation_steps",
        "lr_scheduler, lr_scheduler_kwargs, cosine_min_lr_ratio": "training.lr_scheduler, training.min_lr_ratio",
        "warmup_steps, warmup_ratio": "training.warmup_steps, training.warmup_ratio",
        "optimizer, max_grad_norm": "training.optimizer, training.max_grad_norm",
        "eval_steps, evals_per_epoch, eval_strategy, logging_steps": "training.eval_steps, training.logging_steps",
        "save_steps, saves_per_epoch, save_strategy, save_total_limit, load_best_model_at_end": "checkpoints",
        "wandb_project, wandb_name, use_wandb, use_mlflow, mlflow_experiment_name, use_tensorboard": "tracking",
        "deepspeed, fsdp, fsdp_config, ddp_timeout": "launch",
    },
    listed=LISTED,
)
