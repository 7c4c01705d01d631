"""TRL's command line: `trl dpo --config FILE`, and scripts that start it."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_recipes.recipe.foreign_names import TRAINER, TRL_DPO, TRL_MODEL
from dpo_recipes.recipe.paths import looks_local
from dpo_recipes.share.foreign import trainer, trl_common, trl_model
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.listed import listed
from dpo_recipes.share.foreign.sources import need_source, put_source
from dpo_recipes.share.foreign.tool import Tool, count_signs
from dpo_recipes.share.foreign.trainer import TrainerDefaults, map_trainer
from dpo_recipes.share.foreign.trl_common import PAIRS, find_kind, map_lengths, map_objective
from dpo_recipes.share.foreign.values import flag, number, text

_RATES = {"sft": 2e-5, "reward": 1e-4}
_METHODS = ("dpo", "kto", "orpo", "cpo", "reward", "sft", "grpo", "rloo")


def signs(config: Config) -> int:
    """How many keys are TRL's alone."""
    if config.has("dataset_mixer", "dataset_mixture", "stage", "finetuning_type", "rlhf_type"):
        return 0
    has_model = config.has("model_name_or_path") * 2
    return has_model + count_signs(
        config,
        "dataset_name dataset_config dataset_train_split dataset_test_split use_peft per_device_train_batch_size",
    )


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    method = next((word for word in reversed(draft.config.command) if word in _METHODS), "")
    method = method or next((m for m in _METHODS for word in draft.config.command if word.endswith(f"{m}.py")), "")
    kind = find_kind(draft, method)
    map_environment(draft)
    trl_model.map_trl_model(keys)
    map_objective(keys, kind)
    map_trainer(keys, _defaults(kind))
    map_lengths(keys, kind)
    _map_data(keys, draft, kind)
    keys.map("chat_template_path", "chat_template")


def _defaults(kind: str) -> TrainerDefaults:
    return TrainerDefaults(learning_rate=_RATES.get(kind, 1e-6), checkpointing=True, logging_steps=10)


def _map_data(keys: Keys, draft: Draft, kind: str) -> None:
    format_ = "preference" if kind in PAIRS else "auto"
    sources = list(_sources(keys))
    for index, source in enumerate(sources):
        put_source(source, index, path="path", name="name", split="split", format_=format_)
        _map_parts(source, index)
    if sources:
        keys.list("dataset_name", "`datasets` are used instead", differs=False)
    elif keys.has("dataset_name"):
        put_source(keys, 0, path="dataset_name", name="dataset_config", split="dataset_train_split", format_=format_)
    need_source(draft)
    if keys.get("dataset_streaming", flag, False):
        draft.put("data.train[0].streaming", True, keys.key("dataset_streaming"))
    else:
        keys.derive(["dataset_streaming"], "data.train[0].streaming")
    _map_held_out(keys, draft)


def _sources(keys: Keys) -> Iterator[Keys]:
    yield from keys.items("datasets")


def _map_parts(source: Keys, index: int) -> None:
    if source.has("data_files"):
        source.map("data_files", f"data.train[{index}].data_files")
    fraction = source.get("fraction", number)
    if fraction is not None and 0 < fraction < 1:
        split = source.draft.value(f"data.train[{index}].split", "train")
        slice_ = f"{split}[:{round(fraction * 100)}%]"
        source.draft.put(
            f"data.train[{index}].split", slice_, source.key("fraction"), note="the first rows of the split"
        )
    source.list("columns", "columns are chosen by the format", differs=False)


def _map_held_out(keys: Keys, draft: Draft) -> None:
    size = keys.get("test_split_size", number)
    if size is not None:
        put_held_out(keys, "test_split_size", size)
    strategy = keys.get("eval_strategy", text, "no")
    evaluates = strategy not in ("no", "False", "false")
    is_local = looks_local(str(draft.value("data.train[0].path", "")))
    if not evaluates:
        keys.list("dataset_test_split", "without `eval_strategy` it is not evaluated", differs=False)
    elif size is None and is_local:
        keys.list("dataset_test_split", "a local file has no splits; name a file in `data.eval.sources`", differs=False)
    elif size is None and not keys.map("dataset_test_split", "data.eval.split"):
        draft.default("data.eval.split", "test")


def put_held_out(keys: Keys, name: str, size: float) -> None:
    """`data.eval`: a share of the rows, or a number of them from 1 on."""
    if 0 < size < 1:
        keys.draft.put("data.eval.fraction", size, keys.key(name))
    elif size >= 1:
        keys.draft.put("data.eval.count", round(size), keys.key(name))
    else:
        keys.derive([name], "data.eval", note="nothing is held out")


TOOL = Tool(
    name="trl",
    title="TRL",
    version="1.16",
    programs=(
        *(f"trl {method}" for method in _METHODS),
        *(f"scripts/{method}.py" for method in _METHODS),
        *(f"{method}.py" for method in _METHODS),
    ),
    signs=signs,
    convert=convert,
    mapped={**TRL_MODEL, **TRL_DPO, **TRAINER},
    derived={
        "dataset_name, dataset_config, dataset_train_split, datasets": "data.train",
        "dataset_test_split, test_split_size": "data.eval",
        "max_length, truncation_mode": "data.max_length, data.overlong",
        "loss_type, loss_weights, label_smoothing, rpo_alpha": "objective",
        "desirable_weight, undesirable_weight, cpo_alpha, simpo_gamma, center_rewards_coefficient": "objective",
        "use_peft, lora_r, lora_alpha, lora_dropout, lora_target_modules, lora_modules_to_save": "model.adapter",
        "load_in_4bit, load_in_8bit, bnb_4bit_quant_type, use_bnb_nested_quant": "model.quantization",
        "dtype, torch_dtype, bf16, fp16": "model.dtype",
        "attn_implementation": "model.attn_implementation",
        "num_train_epochs, max_steps": "training.num_epochs, training.max_steps",
        "lr_scheduler_type, lr_scheduler_kwargs, warmup_ratio, warmup_steps": "training.lr_scheduler, warmup",
        "optim, max_grad_norm": "training.optimizer, training.max_grad_norm",
        "eval_strategy, eval_steps, logging_steps": "training.eval_steps, training.logging_steps",
        "save_strategy, save_steps, save_total_limit, load_best_model_at_end": "checkpoints",
        "report_to": "tracking.report_to",
        "deepspeed, fsdp, ddp_timeout": "launch",
    },
    listed=(
        *trl_common.LISTED,
        *trl_model.LISTED,
        *trainer.LISTED,
        *ENVIRONMENT_LISTED,
        listed("it works around a fault of PyTorch with buffers", "ignore_bias_buffers"),
        listed("columns are chosen by the format", "columns data_dir", is_feature=False),
        listed("streaming is a setting of each source: `data.train[].streaming`", "streaming"),
    ),
)
