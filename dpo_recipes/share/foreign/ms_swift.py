"""ms-swift: YAML files and shell scripts with `swift rlhf`, `swift sft` or `megatron rlhf`."""

from __future__ import annotations

import math

from dpo_recipes.recipe.foreign_names import MS_SWIFT, TRAINER, TRL_DPO
from dpo_recipes.share.foreign import trl_common
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.machine import dtype_of, map_precision
from dpo_recipes.share.foreign.modelscope import hub_id
from dpo_recipes.share.foreign.ms_swift_data import map_data
from dpo_recipes.share.foreign.ms_swift_lists import LISTED
from dpo_recipes.share.foreign.ms_swift_megatron import map_megatron
from dpo_recipes.share.foreign.sources import need_source
from dpo_recipes.share.foreign.tool import Tool, count_signs
from dpo_recipes.share.foreign.trainer import TrainerDefaults, map_trainer
from dpo_recipes.share.foreign.trl_model import map_attention, put_targets
from dpo_recipes.share.foreign.values import flag, names, number, text, whole

_KINDS = {"dpo": "dpo", "orpo": "orpo", "simpo": "simpo", "kto": "kto", "cpo": "cpo", "rm": "reward"}
TEMPLATES = {
    "llama3": "llama3",
    "llama3_2": "llama3",
    "qwen2_5": "qwen2.5",
    "qwen2": "qwen2",
    "qwen": "qwen2.5",
    "qwen3": "qwen3",
    "chatml": "chatml",
    "gemma": "gemma",
    "gemma3_text": "gemma",
    "phi3": "phi3",
    "zephyr": "zephyr",
    "default": "tokenizer",
}
_OVERLONG = {"delete": "drop", "left": "truncate_prompt_start", "right": "truncate_completion_end"}
_OF_MEGATRON = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "micro_batch_size",
    "global_batch_size",
    "train_iters",
    "lr",
    "min_lr",
    "lr_warmup_fraction",
)
"""Keys that only Megatron has."""
_TUNERS = ("tuner_type", "train_type", "sft_type")


def signs(config: Config) -> int:
    """How many keys are ms-swift's alone."""
    return 3 * config.has("rlhf_type") + count_signs(
        config,
        "tuner_type train_type split_dataset_ratio lora_rank target_modules attn_impl truncation_strategy use_hf "
        "load_from_cache_file quant_bits model dataset custom_dataset_info",
    ) * (not isinstance(config.data.get("model"), dict) and not config.has("train_dataset", "stage"))


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    kind = _find_kind(keys, draft)
    num_processes = map_environment(draft)
    is_megatron = "megatron" in draft.config.command or draft.config.has(*_OF_MEGATRON)
    _map_objective(keys, kind)
    _map_model(keys, draft, default_tuner="full" if is_megatron else "lora")
    if is_megatron:
        map_megatron(keys)
    else:
        _map_training(keys, draft, num_processes)
    _map_text(keys, kind)
    map_data(keys, draft, kind)
    need_source(draft)


def _find_kind(keys: Keys, draft: Draft) -> str:
    given, command = keys.get("rlhf_type", text), draft.config.command
    if draft.kind:
        return draft.kind
    if given is not None:
        kind: str = _KINDS.get(given) or given
    elif "pt" in command:
        kind = "pretrain"
    elif "sft" in command:
        kind = "sft"
    elif "rlhf" in command:
        kind = "dpo"
    else:
        kind = trl_common.find_kind(draft) if not keys.has("split_dataset_ratio", "lora_rank") else _guess(draft)
    if kind not in trl_common.KINDS:
        raise trl_common.no_recipe(draft.config, kind, draft.config.where(("rlhf_type",)))
    if given is not None:
        draft.put("objective.kind", kind, keys.key("rlhf_type"))
    return kind


def _guess(draft: Draft) -> str:
    """`swift sft` and `swift rlhf` read the same YAML; the words in the path say which, or else its keys."""
    word = next((kind for kind in ("dpo", "orpo", "simpo", "kto", "cpo") if kind in draft.config.words), None)
    return word or ("dpo" if draft.config.has("beta", "rpo_alpha", "loss_type", "ref_model") else "sft")


def _map_objective(keys: Keys, kind: str) -> None:
    draft = keys.draft
    if kind == "simpo":
        draft.default("objective.beta", 2.0)
        keys.map("beta", "objective.beta")
        for name, to, value in (("simpo_gamma", "gamma", 1.0), ("cpo_alpha", "cpo_alpha", 1.0)):
            if not keys.map(name, f"objective.{to}", number):
                draft.default(f"objective.{to}", value)
        draft.put(
            "objective.kind", "simpo", *(draft.values["objective.kind"].keys if draft.has("objective.kind") else ())
        )
        trl_common.map_smoothing(keys, ["sigmoid"], ("sigmoid",), "label_smoothing")
        return
    trl_common.map_objective(keys, kind)
    if kind == "orpo" and draft.has("objective.nll_on_prompt"):
        del draft.values["objective.nll_on_prompt"]
        draft.default("objective.nll_on_prompt", False, "its log-likelihood is that of the answer")


def _map_model(keys: Keys, draft: Draft, *, default_tuner: str) -> None:
    given = keys.get("model", text)
    if given is not None:
        uses_hf = keys.get("use_hf", flag, False) or draft.config.environment.get("USE_HF") == "1"
        path, is_known = (given, True) if uses_hf else hub_id(given, draft)
        note = "" if path == given else f"{given} on ModelScope"
        if not is_known:
            note = "an id of ModelScope; the same one is used on the hub, which may not exist there"
        draft.put("model.path", path, keys.key("model"), note=note, differs=not is_known)
    keys.map("model_revision", "model.revision")
    keys.derive(["use_hf"], "model.path")
    map_attention(keys, "attn_impl")
    map_precision(keys, ("torch_dtype",), "auto", "the precision of the base")
    tuner_name = next((name for name in _TUNERS if keys.has(name)), None)
    tuner = keys.get(tuner_name, text) if tuner_name else default_tuner
    _map_quantization(keys)
    given_keys = [keys.key(tuner_name)] if tuner_name else []
    lora = ["target_modules", "target_regex", "init_weights", "lora_bias"]
    lora += [name for name, to in MS_SWIFT.items() if to.startswith("model.adapter")]
    if tuner == "full":
        for key in given_keys:
            draft.account(key, "derived", "model.adapter", note="no adapter: every weight is trained")
        keys.derive(lora, "model.adapter", note="every weight is trained")
        return
    is_lora = tuner in ("lora", "qlora")
    note = "" if is_lora else f"`{tuner}` does not exist here; LoRA instead"
    draft.put("model.adapter.kind", "lora", *given_keys, note=note, differs=not is_lora)
    adapters = keys.get("adapters", names)
    if adapters and len(adapters) == 1:
        draft.put("model.adapter.path", adapters[0], keys.key("adapters"))
        keys.derive(lora, "model.adapter.path", note="the adapter's own are used")
        return
    _map_lora(keys, draft)


def _map_lora(keys: Keys, draft: Draft) -> None:
    keys.map_all({name: to for name, to in MS_SWIFT.items() if to.startswith("model.adapter")})
    for name, value in (("r", 8), ("alpha", 32), ("dropout", 0.05)):
        draft.default(f"model.adapter.{name}", value)
    if keys.has("target_regex"):
        draft.put("model.adapter.target_modules", keys.get("target_regex", text), keys.key("target_regex"))
        keys.derive(["target_modules"], "model.adapter.target_modules", note="`target_regex` overrides it")
    elif not put_targets(keys, "target_modules"):
        draft.default("model.adapter.target_modules", "all-linear")
    init = keys.get("init_weights", text)
    if init is not None:
        word = init.lower().split("_")[0]
        known = word if word in ("gaussian", "pissa", "olora", "loftq") else "default"
        is_same = known != "default" or word == "true"
        draft.put("model.adapter.init", known, keys.key("init_weights"), differs=not is_same)


def _map_quantization(keys: Keys) -> None:
    draft, bits = keys.draft, keys.get("quant_bits", whole)
    method = keys.get("quant_method", text)
    if bits not in (4, 8) or method not in (None, "bnb"):
        keys.list("quant_bits", "bases are quantized to 4 or 8 bits by bitsandbytes here", differs=bool(bits))
        keys.list("quant_method", "bases are quantized by bitsandbytes here", differs=method not in (None, "bnb"))
        return
    draft.put("model.quantization.bits", bits, keys.key("quant_bits"))
    keys.derive(["quant_method"], "model.quantization.bits")
    if bits == 8:
        return
    if not keys.map("bnb_4bit_quant_type", "model.quantization.quant_type"):
        draft.default("model.quantization.quant_type", "nf4")
    if not keys.map("bnb_4bit_use_double_quant", "model.quantization.double_quant"):
        draft.default("model.quantization.double_quant", True)
    keys.map("bnb_4bit_compute_dtype", "model.quantization.compute_dtype", dtype_of)


def _map_training(keys: Keys, draft: Draft, num_processes: int) -> None:
    is_full = not draft.has("model.adapter.kind")
    micro = keys.get("per_device_train_batch_size", whole, 1) or 1
    defaults = TrainerDefaults(
        learning_rate=1e-5 if is_full else 1e-4,
        micro_batch_size=1,
        accumulation=max(1, math.ceil(16 / micro / num_processes)),
        scheduler="cosine",
        weight_decay=0.1,
        checkpointing=True,
        logging_steps=5,
        trackers=("tensorboard",),
    )
    map_trainer(keys, defaults)
    keys.map("early_stop_interval", "training.early_stopping.patience")
    note_beta2(keys, draft)
    has_rows = keys.has("val_dataset", "cached_val_dataset") or bool(keys.get("split_dataset_ratio", number, 0))
    saves = keys.get("save_strategy", text, "steps")
    if has_rows and not keys.has("eval_strategy"):
        steps = keys.get("eval_steps", number)
        if saves == "epoch":
            draft.default("training.eval_steps", "epoch", "it follows saving")
        elif steps is not None and steps >= 1:
            draft.put("training.eval_steps", round(steps), keys.key("eval_steps"))
        elif saves == "steps":
            draft.default("training.eval_steps", draft.value("checkpoints.save_steps", 500), "it follows saving")


def note_beta2(keys: Keys, draft: Draft) -> None:
    """Adam's second number is 0.95 in ms-swift unless the file says otherwise."""
    if not keys.has("adam_beta2"):
        draft.remarks.append("Adam's beta2 is 0.999 here, and 0.95 in ms-swift by default; a recipe cannot set it")


def _map_text(keys: Keys, kind: str) -> None:
    draft = keys.draft
    if not keys.map("max_length", "data.max_length"):
        draft.default("data.max_length", trl_common.NO_LIMIT, "there the model's own maximum")
    way = keys.get("truncation_strategy", text)
    if way is None:
        draft.default("data.overlong", "drop")
    else:
        draft.put(
            "data.overlong", _OVERLONG.get(way, "drop"), keys.key("truncation_strategy"), differs=way not in _OVERLONG
        )
    template = keys.get("template", text)
    if template is None:
        draft.default("chat_template", "tokenizer", "the model's own")
    elif template in TEMPLATES:
        draft.put("chat_template", TEMPLATES[template], keys.key("template"))
    else:
        note = f"the template `{template}` is not shipped here; the tokenizer's own, which is usually the same"
        draft.put("chat_template", "tokenizer", keys.key("template"), note=note, differs=True)
    if keys.has("enable_thinking"):
        draft.put(
            "chat_template_kwargs", {"enable_thinking": keys.get("enable_thinking", flag)}, keys.key("enable_thinking")
        )
    scale = keys.get("loss_scale", text)
    turns = {"default": "assistant", "last_round": "last", "all": "all"}
    if scale in turns and kind == "sft":
        draft.put("data.train_on_turns", turns[scale], keys.key("loss_scale"))


TOOL = Tool(
    name="ms-swift",
    title="ms-swift",
    version="4.6",
    programs=(
        "swift rlhf",
        "swift sft",
        "swift pt",
        "megatron rlhf",
        "megatron sft",
        "megatron pt",
        "swift/cli/rlhf.py",
        "swift/cli/sft.py",
    ),
    signs=signs,
    convert=convert,
    mapped={**MS_SWIFT, **TRL_DPO, **TRAINER, "max_length": "data.max_length"},
    derived={
        "rlhf_type, loss_type, loss_weights, rpo_alpha": "objective.kind, objective.loss_type",
        "beta, simpo_gamma, cpo_alpha, desirable_weight, undesirable_weight, center_rewards_coefficient": "objective",
        "model, use_hf": "model.path",
        "torch_dtype, bf16, fp16": "model.dtype",
        "quant_bits, quant_method, bnb_4bit_quant_type, bnb_4bit_use_double_quant": "model.quantization",
        "tuner_type, train_type, adapters, target_modules, target_regex, init_weights": "model.adapter",
        "attn_impl": "model.attn_implementation",
        "dataset, columns, streaming": "data.train",
        "val_dataset, split_dataset_ratio": "data.eval",
        "max_length, truncation_strategy": "data.max_length, data.overlong",
        "template, enable_thinking": "chat_template, chat_template_kwargs",
        "num_train_epochs, max_steps, lr_scheduler_type, warmup_ratio, warmup_steps, optim": "training",
        "eval_strategy, eval_steps, logging_steps": "training.eval_steps, training.logging_steps",
        "save_strategy, save_steps, save_total_limit": "checkpoints",
        "report_to": "tracking.report_to",
        "deepspeed, fsdp, NPROC_PER_NODE, NNODES": "launch",
        "micro_batch_size, global_batch_size, lr, lr_warmup_fraction, min_lr, train_iters": "training (Megatron)",
    },
    listed=LISTED,
    prepares=("swift export",),
)
