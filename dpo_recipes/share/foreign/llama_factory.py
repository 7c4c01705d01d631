"""LLaMA-Factory 0.9: `stage: dpo|rm|kto|sft` with a dataset_info.json."""

from __future__ import annotations

from dpo_recipes.recipe.foreign_names import LLAMA_FACTORY, TRAINER
from dpo_recipes.share.foreign import trainer, trl_common
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.listed import listed
from dpo_recipes.share.foreign.llama_factory_data import map_data
from dpo_recipes.share.foreign.machine import map_precision
from dpo_recipes.share.foreign.progress import use_tracker
from dpo_recipes.share.foreign.sources import need_source
from dpo_recipes.share.foreign.tool import Tool, count_signs
from dpo_recipes.share.foreign.trainer import TrainerDefaults, map_trainer
from dpo_recipes.share.foreign.trl_model import put_targets
from dpo_recipes.share.foreign.values import flag, names, number, text, whole

TEMPLATES = {
    "llama3": "llama3",
    "llama2": "llama2",
    "chatml": "chatml",
    "qwen": "qwen2.5",
    "qwen3": "qwen3",
    "qwen3_nothink": "chatml",
    "mistral": "mistral",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "phi": "phi3",
    "alpaca": "alpaca",
    "vicuna": "vicuna",
    "zephyr": "zephyr",
    "empty": "plain",
}
"""Templates that are shipped here. `qwen3_nothink` is ChatML without a system message of its own."""
_ATTENTION = {
    "auto": "auto",
    "disabled": "eager",
    "sdpa": "sdpa",
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_2",
}
_STAGES = {"dpo": "dpo", "rm": "reward", "kto": "kto", "sft": "sft", "pt": "pretrain", "ppo": "ppo"}


def signs(config: Config) -> int:
    """How many keys are LLaMA-Factory's alone."""
    return 2 * count_signs(config, "stage finetuning_type cutoff_len pref_loss pref_beta") + count_signs(
        config, "template dataset_dir lora_target val_size preprocessing_num_workers overwrite_cache plot_loss"
    )


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    stage = keys.get("stage", text, "sft")
    kind: str = draft.kind or _STAGES.get(stage) or stage
    if kind not in trl_common.KINDS:
        raise trl_common.no_recipe(draft.config, kind, draft.config.where(("stage",)))
    map_environment(draft)
    keys.map_all(
        {
            name: to
            for name, to in LLAMA_FACTORY.items()
            if to.split(".")[0] in ("model", "data", "chat") and not to.startswith("model.adapter")
        }
    )
    _map_objective(keys, kind)
    _map_model(keys)
    defaults = TrainerDefaults(learning_rate=5e-5, checkpointing=True)
    if keys.get("disable_gradient_checkpointing", flag, False):
        draft.put("training.gradient_checkpointing", False, keys.key("disable_gradient_checkpointing"))
    else:
        keys.derive(["disable_gradient_checkpointing"], "training.gradient_checkpointing")
    map_trainer(keys, defaults)
    keys.map("early_stopping_steps", "training.early_stopping.patience")
    if keys.get("use_swanlab", flag, False):
        use_tracker(draft, "swanlab")
        keys.derive(["use_swanlab"], "tracking.report_to")
        if not keys.map("swanlab_project", "tracking.project"):
            draft.default("tracking.project", "llamafactory")
        if not draft.has("tracking.run_name"):
            keys.map("swanlab_run_name", "tracking.run_name")
    _map_text(keys, kind)
    map_data(keys, kind)
    need_source(draft)


def _map_objective(keys: Keys, kind: str) -> None:
    draft = keys.draft
    stage = [keys.key("stage")] if keys.has("stage") else []
    loss = keys.get("pref_loss", text, "sigmoid")
    if kind == "dpo" and loss in ("orpo", "simpo"):
        draft.put("objective.kind", loss, *stage, keys.key("pref_loss"))
        _map_reference_free(keys, loss)
        return
    draft.put("objective.kind", kind, *stage)
    if kind in ("dpo", "kto") and not keys.map("pref_beta", "objective.beta", number):
        draft.default("objective.beta", 0.1)
    if kind == "dpo":
        _map_dpo(keys, loss)
    elif kind == "kto":
        for name, to in (("kto_chosen_weight", "desirable_weight"), ("kto_rejected_weight", "undesirable_weight")):
            if not keys.map(name, f"objective.{to}", number):
                draft.default(f"objective.{to}", 1.0)
        if keys.get("pref_ftx", number):
            keys.list("pref_ftx", "KTO has no likelihood as a second term here", differs=True)


def _map_reference_free(keys: Keys, loss: str) -> None:
    draft = keys.draft
    if not keys.map("pref_beta", "objective.beta", number):
        draft.default("objective.beta", 0.1)
    if loss == "simpo":
        if not keys.map("simpo_gamma", "objective.gamma", number):
            draft.default("objective.gamma", 0.5)
        if not keys.map("pref_ftx", "objective.cpo_alpha", number):
            draft.default("objective.cpo_alpha", 0.0)
        return
    draft.default("objective.nll_on_prompt", False, "its log-likelihood is that of the answer")
    draft.remarks.append(
        "the log-likelihood of ORPO is a mean over all tokens of a micro-batch here, and over each answer there"
    )
    if keys.get("pref_ftx", number):
        keys.list("pref_ftx", "ORPO already has the likelihood of the chosen answer", differs=True)


def _map_dpo(keys: Keys, loss: str) -> None:
    draft = keys.draft
    losses = trl_common.put_losses(keys, [loss], "pref_loss")
    keys.map("ld_alpha", "objective.ld_alpha")
    trl_common.add_likelihood(keys, "pref_ftx", losses)
    weight = keys.get("pref_bco_weight", number)
    if weight:
        scale = 1 / (1 + weight)
        own = draft.value("objective.loss_type")
        parts = own if isinstance(own, list) else [own]
        weights = draft.value("objective.loss_weights") or [1.0]
        note = f"pref_bco_weight: {weight:g}; both are divided by {1 + weight:g}"
        draft.put("objective.loss_type", [parts[0], "bco_pair", *parts[1:]], keys.key("pref_bco_weight"), note=note)
        new = [round(scale, 6), round(weight * scale, 6), *weights[1:]]
        draft.put("objective.loss_weights", new, keys.key("pref_bco_weight"))
    else:
        keys.derive(["pref_bco_weight"], "objective.loss_type")
    trl_common.map_smoothing(keys, losses, trl_common.SMOOTHED, "dpo_label_smoothing")


def _map_model(keys: Keys) -> None:
    draft = keys.draft
    map_precision(keys, ("compute_dtype", "infer_dtype"), "float32", "neither bf16 nor fp16 is on")
    if keys.get("pure_bf16", flag, False):
        note = "weights that are trained stay in 32 bits"
        draft.put("model.dtype", "bfloat16", keys.key("pure_bf16"), note=note)
    attention = keys.get("flash_attn", text)
    if attention in _ATTENTION:
        draft.put("model.attn_implementation", _ATTENTION[attention], keys.key("flash_attn"))
    else:
        keys.list("flash_attn", "there is no such attention here; the device decides", differs=False)
    bits = keys.get("quantization_bit", whole)
    if bits in (4, 8):
        draft.put("model.quantization.bits", bits, keys.key("quantization_bit"))
        if bits == 4:
            if not keys.map("quantization_type", "model.quantization.quant_type"):
                draft.default("model.quantization.quant_type", "nf4")
            if not keys.map("double_quantization", "model.quantization.double_quant"):
                draft.default("model.quantization.double_quant", True)
    elif bits is not None:
        keys.list("quantization_bit", "a base has 4 or 8 bits here", differs=True)
    if keys.get("quantization_method", text, "bnb") not in ("bnb", "bitsandbytes"):
        keys.list("quantization_method", "bases are quantized by bitsandbytes here", differs=True)
    else:
        keys.derive(["quantization_method"], "model.quantization")
    _map_adapter(keys)


def _map_adapter(keys: Keys) -> None:
    draft, way = keys.draft, keys.get("finetuning_type", text, "lora")
    given = ["lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora", "pissa_init"]
    if way not in ("lora", "oft"):
        keys.derive(given, "model.adapter", note=f"with `finetuning_type: {way}` there is no adapter")
        if way == "full":
            keys.derive(["finetuning_type"], "model.adapter", note="no adapter: every weight is trained")
        else:
            keys.list("finetuning_type", f"`{way}` does not exist here; every weight is trained", differs=True)
        return
    finetuning = [keys.key("finetuning_type")] if keys.has("finetuning_type") else []
    note = "OFT does not exist here; LoRA instead" if way == "oft" else ""
    draft.put("model.adapter.kind", "lora", *finetuning, note=note, differs=way == "oft")
    adapters = keys.get("adapter_name_or_path", names)
    if adapters and not keys.get("create_new_adapter", flag, False):
        if len(adapters) == 1:
            draft.put("model.adapter.path", adapters[0], keys.key("adapter_name_or_path"))
            keys.derive(given, "model.adapter.path", note="the adapter's own are used")
            return
        note = "several adapters cannot be merged first: merge them into the base"
        keys.list("adapter_name_or_path", note, differs=True)
    elif adapters:
        note = "merge this adapter into the base first, which is what `create_new_adapter` does"
        keys.list("adapter_name_or_path", note, differs=True)
    _map_lora(keys)


def _map_lora(keys: Keys) -> None:
    draft = keys.draft
    if not keys.map("lora_rank", "model.adapter.r", whole):
        draft.default("model.adapter.r", 8)
    if not keys.map("lora_alpha", "model.adapter.alpha", whole):
        draft.default("model.adapter.alpha", 2 * draft.value("model.adapter.r", 8), "twice the rank")
    if not keys.map("lora_dropout", "model.adapter.dropout"):
        draft.default("model.adapter.dropout", 0.0)
    if not put_targets(keys, "lora_target", ("all", "all-linear")):
        draft.default("model.adapter.target_modules", "all-linear")
    keys.map_all({name: to for name, to in LLAMA_FACTORY.items() if to.startswith("model.adapter")})
    keys.map("additional_target", "model.adapter.modules_to_save")
    if keys.get("pissa_init", flag, False):
        draft.put("model.adapter.init", "pissa", keys.key("pissa_init"))
    else:
        keys.derive(["pissa_init"], "model.adapter.init")


def _map_text(keys: Keys, kind: str) -> None:
    """The template, the length and which turns are trained on."""
    draft = keys.draft
    draft.default("data.max_length", 2048)
    draft.default("data.overlong", "truncate_completion_end", "it cuts the prompt and the answers in proportion")
    given = keys.get("template", text)
    if given is None:
        draft.default("chat_template", "tokenizer")
    elif given in TEMPLATES:
        draft.put("chat_template", TEMPLATES[given], keys.key("template"))
    else:
        note = f"the template `{given}` is not shipped here; the tokenizer's own, which is usually the same"
        draft.put("chat_template", "tokenizer", keys.key("template"), note=note, differs=True)
    if keys.has("enable_thinking"):
        thinking = keys.get("enable_thinking", flag)
        if draft.value("chat_template") in ("qwen3", "tokenizer"):
            kwargs = {"enable_thinking": thinking}
            draft.put("chat_template_kwargs", kwargs, keys.key("enable_thinking"))
        else:
            keys.list("enable_thinking", "the template has no thoughts", differs=False)
    if kind == "sft":
        for name, turns in (("train_on_prompt", "all"), ("mask_history", "last")):
            if keys.get(name, flag, False):
                draft.put("data.train_on_turns", turns, keys.key(name))
    keys.derive([n for n in ("train_on_prompt", "mask_history") if keys.has(n)], "data.train_on_turns")


_MORE = (
    listed("rows are cut differently", "reserved_label_len", differs=True),
    listed(
        "prepared rows are cached by their content",
        "overwrite_cache tokenized_path data_shared_file_system buffer_size cache_dir",
        is_feature=False,
    ),
    listed("the folder of pictures and sounds", "media_dir"),
    listed(
        "only for generating answers",
        "do_sample temperature top_p top_k num_beams repetition_penalty "
        "length_penalty skip_special_tokens max_length eval_num_beams infer_backend vllm_* sglang_* "
        "use_kv_cache predict_with_generate",
        is_feature=False,
    ),
    listed("only for exporting and quantizing", "export_*"),
    listed(
        "a matter of speed or memory; the result is the same",
        "use_unsloth use_unsloth_gc enable_liger_kernel "
        "use_reentrant_gc use_v1_kernels upcast_lmhead_output block_diag_attn use_fast_tokenizer "
        "quantization_device_map ray_* master_addr master_port use_mca use_hyper_parallel hyper_parallel_args "
        "enable_torch_profiler profiler_* profile_modules print_param_status use_kt kt_* "
        "ignore_pad_token_for_loss shift_attn model_max_length",
        is_feature=False,
    ),
    listed(
        "the layers' precision and structure are those of the base",
        "upcast_layernorm mixture_of_depths "
        "rope_scaling train_from_scratch resize_vocab split_special_tokens add_tokens add_special_tokens "
        "new_special_tokens_config init_special_tokens fp8 fp8_*",
        differs=True,
    ),
    listed(
        "this optimizer does not exist here",
        "use_galore galore_* use_apollo apollo_* use_badam badam_* use_adam_mini use_muon loraplus_lr_ratio",
        differs=True,
    ),
    listed("only with another optimizer", "loraplus_lr_embedding"),
    listed("all weights are trained, or an adapter on all layers", "freeze_* use_llama_pro", differs=True),
    listed(
        "which parts of a model for images are frozen",
        "image_* video_* crop_to_patches use_audio_in_video audio_sampling_rate",
        is_feature=False,
    ),
    listed(
        "the reference is the untouched base", "ref_model ref_model_adapters ref_model_quantization_bit", differs=True
    ),
    listed("only for PPO", "ppo_* reward_model reward_model_* "),
    listed("this loss does not exist here", "use_dft_loss use_asft_loss use_eaft_loss", differs=True),
    listed("only with another loss", "asft_alpha eaft_alpha", is_feature=False),
    listed("a default system message does not exist here", "default_system", differs=True),
    listed("how tools are written follows from the template", "tool_format preserve_thinking", differs=True),
    listed("rows are in random order in each epoch", "disable_shuffling", differs=True),
    listed("only with OFT", "oft_* module_dropout"),
    listed("only with PiSSA", "pissa_iter pissa_convert", is_feature=False),
    listed("a new adapter is what `model.adapter` makes", "create_new_adapter adapter_folder", is_feature=False),
    listed("accounts come from the environment", "swanlab_*", is_feature=False),
    listed(
        "the objective does not use it",
        "pref_beta pref_loss pref_ftx simpo_gamma kto_chosen_weight "
        "kto_rejected_weight dpo_label_smoothing ld_alpha quantization_type double_quantization",
        is_feature=False,
    ),
)

TOOL = Tool(
    name="llama-factory",
    title="LLaMA-Factory",
    version="0.9.5",
    programs=("llamafactory-cli train", "lmf train", "src/train.py", "src/train_bash.py"),
    signs=signs,
    convert=convert,
    mapped={**LLAMA_FACTORY, **TRAINER},
    derived={
        "stage, pref_loss": "objective.kind, objective.loss_type",
        "pref_beta, pref_ftx, pref_bco_weight, simpo_gamma, kto_chosen_weight, kto_rejected_weight": "objective",
        "dataset, dataset_dir, max_samples, mix_strategy, interleave_probs, streaming": "data.train",
        "eval_dataset, val_size": "data.eval",
        "template, enable_thinking": "chat_template, chat_template_kwargs",
        "train_on_prompt, mask_history": "data.train_on_turns",
        "finetuning_type, lora_rank, lora_alpha, lora_dropout, lora_target, additional_target": "model.adapter",
        "adapter_name_or_path, pissa_init": "model.adapter.path, model.adapter.init",
        "quantization_bit, quantization_type, double_quantization": "model.quantization",
        "bf16, fp16, pure_bf16": "model.dtype",
        "flash_attn": "model.attn_implementation",
        "disable_gradient_checkpointing": "training.gradient_checkpointing",
        "num_train_epochs, max_steps, lr_scheduler_type, warmup_ratio, warmup_steps, optim": "training",
        "eval_strategy, eval_steps, logging_steps": "training.eval_steps, training.logging_steps",
        "save_strategy, save_steps, save_total_limit, load_best_model_at_end": "checkpoints",
        "report_to, use_swanlab, swanlab_project, swanlab_run_name": "tracking",
        "deepspeed, fsdp, ddp_timeout": "launch",
    },
    listed=(*_MORE, *trl_common.LISTED, *trainer.LISTED, *ENVIRONMENT_LISTED),
)
