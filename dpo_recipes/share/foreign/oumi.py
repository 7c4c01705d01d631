"""oumi's training configurations: `TRL_DPO`, `TRL_KTO`, `TRL_SFT` and others, with sections for model, data, training
and PEFT."""

from __future__ import annotations

from dpo_recipes.recipe.foreign_names import OUMI, TRL_DPO
from dpo_recipes.share.foreign import trainer, trl_common
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.listed import listed
from dpo_recipes.share.foreign.machine import dtype_of, map_precision
from dpo_recipes.share.foreign.progress import map_evaluation, map_logging, use_tracker
from dpo_recipes.share.foreign.schedule import map_clipping, map_length, map_optimizer, map_scheduler, map_warmup
from dpo_recipes.share.foreign.sources import need_source, put_source
from dpo_recipes.share.foreign.tool import Tool
from dpo_recipes.share.foreign.trl_common import find_kind, map_lengths, map_objective
from dpo_recipes.share.foreign.trl_model import default_targets, map_attention, put_targets
from dpo_recipes.share.foreign.values import flag, number, text, whole

_TRAINERS = {
    "trl_dpo": "dpo",
    "trl_kto": "kto",
    "trl_sft": "sft",
    "trl_grpo": "grpo",
    "trl_gkd": "gkd",
    "trl_gold": "gold",
    "verl_grpo": "grpo",
    "hf": "pretrain",
    "oumi": "pretrain",
}
_MIXED = {"bf16": "bfloat16", "fp16": "float16", "none": None}
_MODEL_NAMES = ("model_name", "model_revision", "trust_remote_code")
_PEFT_NAMES = ("lora_r", "lora_alpha", "lora_dropout", "lora_modules_to_save")
_FORMATS = {"mlabonne/orpo-dpo-mix-40k": "chat_template.argilla_chat", "argilla/kto-mix-14k": "unpaired"}


def signs(config: Config) -> int:
    """How many keys are oumi's alone: its sections with their own names."""
    model, training = config.data.get("model"), config.data.get("training")
    data, found = config.data.get("data"), 0
    if isinstance(model, dict):
        found += 5 * ("model_name" in model)
    if isinstance(training, dict):
        found += 5 * ("trainer_type" in training) + ("enable_wandb" in training)
    if isinstance(data, dict) and isinstance(data.get("train"), dict):
        found += 2 * ("datasets" in data["train"])
    return found


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    training, model = keys.sub("training"), keys.sub("model")
    given = training.get("trainer_type", text)
    named = "" if given is None else given.lower().removeprefix("trainertype.")
    method: str = _TRAINERS.get(named) or named
    if method == "pretrain" and not draft.kind:
        raise trl_common.no_recipe(draft.config, "pretrain", draft.config.where(("training", "trainer_type")))
    kind = find_kind(draft, method)
    map_environment(draft)
    kwargs = training.sub("trainer_kwargs")
    draft.put("objective.kind", kind, *([training.key("trainer_type")] if given is not None else []))
    map_objective(kwargs, kind)
    _map_model(model, training, draft)
    _map_adapter(keys.sub("peft"), training)
    _map_training(training, kwargs)
    _map_text(model, kwargs, kind)
    _map_data(keys.sub("data"), draft, kind)
    _map_sharding(keys, draft)


def _map_model(model: Keys, training: Keys, draft: Draft) -> None:
    model.map_all({name: OUMI[name] for name in _MODEL_NAMES})
    map_attention(model, "attn_implementation")
    mixed = (training.get("mixed_precision_dtype", text) or "none").lower()
    if _MIXED.get(mixed):
        draft.put("model.dtype", _MIXED[mixed], training.key("mixed_precision_dtype"))
        model.derive(["torch_dtype_str"], "model.dtype", note="`mixed_precision_dtype` decides")
    else:
        training.derive(["mixed_precision_dtype"], "model.dtype")
        if not model.map("torch_dtype_str", "model.dtype", dtype_of):
            map_precision(model, (), "auto", "the precision of the base")
    if model.has("adapter_model"):
        model.map("adapter_model", "model.adapter.path")
        draft.put("model.adapter.kind", "lora")


def _map_adapter(peft: Keys, training: Keys) -> None:
    draft = peft.draft
    if draft.has("model.adapter.path"):
        peft.derive(list(peft.data), "model.adapter.path", note="the adapter's own are used")
        training.derive(["use_peft"], "model.adapter")
        return
    if not training.get("use_peft", flag, False):
        training.derive(["use_peft"], "model.adapter", note="no adapter")
        peft.derive(list(peft.data), "model.adapter", note="without `use_peft` there is no adapter")
        return
    draft.put("model.adapter.kind", "lora")
    training.derive(["use_peft"], "model.adapter")
    peft.map_all({name: OUMI[name] for name in _PEFT_NAMES})
    for name, value in (("r", 8), ("alpha", 8), ("dropout", 0.0)):
        draft.default(f"model.adapter.{name}", value)
    if not put_targets(peft, "lora_target_modules"):
        default_targets(draft)
    init = peft.get("lora_init_weights", text)
    if init is not None:
        known = init.lower() if init.lower() in ("gaussian", "pissa", "olora", "loftq") else "default"
        is_same = known != "default" or init.lower() in ("default", "true")
        draft.put("model.adapter.init", known, peft.key("lora_init_weights"), differs=not is_same)
    if not peft.get("q_lora", flag, False):
        names = ["q_lora", "q_lora_bits", *(name for name in peft.data if name.startswith(("bnb_", "use_bnb")))]
        peft.derive(names, "model.quantization", note="no quantization")
        return
    bits = peft.get("q_lora_bits", whole, 4)
    given = [peft.key(name) for name in ("q_lora", "q_lora_bits") if peft.has(name)]
    draft.put("model.quantization.bits", 8 if bits == 8 else 4, *given)
    if bits != 8:
        _map_four_bits(peft)


def _map_four_bits(peft: Keys) -> None:
    draft = peft.draft
    if not peft.map("bnb_4bit_quant_type", "model.quantization.quant_type"):
        draft.default("model.quantization.quant_type", "fp4")
    if not peft.map("use_bnb_nested_quant", "model.quantization.double_quant"):
        draft.default("model.quantization.double_quant", False)
    if not peft.map("bnb_4bit_compute_dtype", "model.quantization.compute_dtype", dtype_of):
        draft.default("model.quantization.compute_dtype", "float32")


def _map_training(training: Keys, kwargs: Keys) -> None:
    draft = training.draft
    training.map_all({name: to for name, to in OUMI.items() if to.startswith(("training", "output", "tracking"))})
    for to, value in {
        "training.micro_batch_size": 8,
        "training.gradient_accumulation_steps": 1,
        "training.learning_rate": 5e-5,
        "training.weight_decay": 0.0,
        "training.gradient_checkpointing": False,
        "training.seed": 42,
    }.items():
        draft.default(to, value)
    map_length(training, "num_train_epochs", 3.0)
    map_scheduler(training, "lr_scheduler_type", "linear")
    map_warmup(training)
    map_optimizer(training, "optimizer", "adamw_torch")
    map_clipping(training)
    map_logging(training, 50)
    map_evaluation(training, default_steps=500)
    steps = training.get("save_steps", number)
    if steps is not None and steps >= 1:
        draft.put("checkpoints.save_steps", round(steps), training.key("save_steps"))
    elif steps is None and not training.get("save_epoch", flag, False):
        draft.default("checkpoints.save_steps", 500)
    for name, tracker, is_default in (
        ("enable_tensorboard", "tensorboard", True),
        ("enable_wandb", "wandb", False),
        ("enable_mlflow", "mlflow", False),
    ):
        is_on = training.get(name, flag)
        if is_on or (is_on is None and is_default):
            use_tracker(draft, tracker)
        training.derive([name], "tracking.report_to")
    for name, usual in {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}.items():
        value = training.get(name, number)
        if value is not None:
            note = "it is the same here" if value == usual else f"a recipe cannot set it; it is {usual:g} here"
            training.list(name, note, differs=value != usual)
    if kwargs.has("save_total_limit"):
        kwargs.map("save_total_limit", "checkpoints.save_total_limit")


def _map_text(model: Keys, kwargs: Keys, kind: str) -> None:
    draft = model.draft
    length = model.get("model_max_length", whole)
    if kind in ("sft", "dpo") and length and length > 0:
        # `TrainingConfig.__post_init__` of oumi 0.9 hands it to these trainers as `max_length`.
        draft.put("data.max_length", length, model.key("model_max_length"))
        kwargs.list("max_length", "oumi replaces it by `model.model_max_length`", differs=False)
    else:
        model.list("model_max_length", "oumi does not hand it to this trainer", differs=False)
    map_lengths(kwargs, kind)
    template = model.get("chat_template", text)
    shipped = {
        "chat_ml": "chatml",
        "chatml": "chatml",
        "llama3-instruct": "llama3",
        "zephyr": "zephyr",
        "phi3-instruct": "phi3",
    }
    if template is None:
        draft.default("chat_template", "tokenizer")
    elif template in shipped or "{" in template or template.endswith(".jinja"):
        draft.put("chat_template", shipped.get(template, template), model.key("chat_template"))
    else:
        note = f"the template `{template}` is not shipped here; the tokenizer's own, which is usually the same"
        draft.put("chat_template", "tokenizer", model.key("chat_template"), note=note, differs=True)
    model.map("chat_template_kwargs", "chat_template_kwargs")


def _map_data(data: Keys, draft: Draft, kind: str) -> None:
    train, validation = data.sub("train"), data.sub("validation")
    sources = list(train.items("datasets"))
    shares = [source.get("mixture_proportion", number) for source in sources]
    for index, source in enumerate(sources):
        _put_dataset(source, index, "data.train", kind)
        share = shares[index]
        if share and len(sources) > 1 and all(shares):
            draft.put(f"data.train[{index}].weight", share, source.key("mixture_proportion"))
        elif share:
            source.derive(["mixture_proportion"], "data.train", note="there is one source")
    if train.get("stream", flag, False) and sources:
        for index in range(len(sources)):
            draft.put(f"data.train[{index}].streaming", True, train.key("stream"))
    need_source(draft)
    for index, source in enumerate(validation.items("datasets")):
        _put_dataset(source, index, "data.eval.sources", kind)


def _put_dataset(source: Keys, index: int, section: str, kind: str) -> None:
    draft, at = source.draft, f"{section}[{index}]"
    path = "dataset_path" if source.has("dataset_path") else "dataset_name"
    given = put_source(source, index, path=path, name="subset", split="split", section=section)
    if path == "dataset_path":
        source.list("dataset_name", "the file is read by its columns", differs=False)
    rows = "preference" if kind in trl_common.PAIRS else "auto"
    format_ = _FORMATS.get(given, rows)
    if format_ != "auto" and not (kind == "kto" and format_ != "unpaired"):
        draft.put(f"{at}.format", format_)
    count = source.get("sample_count", whole)
    if count and count > 0:
        draft.put(f"{at}.limit", count, source.key("sample_count"))
    if source.get("shuffle", flag, False):
        draft.put("data.shuffle", True, source.key("shuffle"))
    else:
        source.derive(["shuffle"], "data.shuffle")


def _map_sharding(keys: Keys, draft: Draft) -> None:
    fsdp, deepspeed = keys.sub("fsdp"), keys.sub("deepspeed")
    if deepspeed.get("enable_deepspeed", flag, False):
        stage = deepspeed.get("zero_stage", text, "0").lower()[-1:]
        strategy = f"deepspeed-zero{stage}" if stage in ("1", "2", "3") else "ddp"
        given = [deepspeed.key(name) for name in ("enable_deepspeed", "zero_stage") if deepspeed.has(name)]
        draft.put("launch.strategy", strategy, *given)
        if strategy != "ddp" and (deepspeed.data.get("offload_param") or deepspeed.data.get("offload_optimizer")):
            part = "offload_param" if deepspeed.data.get("offload_param") else "offload_optimizer"
            draft.put("launch.offload", "all" if part == "offload_param" else "optimizer", *deepspeed.under(part))
    elif fsdp.get("enable_fsdp", flag, False):
        draft.put("launch.strategy", "fsdp", fsdp.key("enable_fsdp"))
        if fsdp.get("cpu_offload", flag, False):
            draft.put("launch.offload", "all", fsdp.key("cpu_offload"))
    else:
        fsdp.derive(["enable_fsdp"], "launch.strategy", note="no FSDP")
        deepspeed.derive(["enable_deepspeed"], "launch.strategy", note="no DeepSpeed")


TOOL = Tool(
    name="oumi",
    title="oumi",
    version="0.9",
    programs=("oumi train",),
    signs=signs,
    convert=convert,
    mapped={
        **{f"model.{name}": OUMI[name] for name in _MODEL_NAMES},
        **{f"peft.{name}": OUMI[name] for name in _PEFT_NAMES},
        **{f"training.{name}": to for name, to in OUMI.items() if to.startswith(("training", "output", "tracking"))},
        **{f"training.trainer_kwargs.{name}": to for name, to in TRL_DPO.items()},
    },
    derived={
        "training.trainer_type": "objective.kind",
        "training.trainer_kwargs": "objective, data.max_length, data.overlong",
        "data.train.datasets, data.validation.datasets": "data.train, data.eval",
        "model.torch_dtype_str, training.mixed_precision_dtype": "model.dtype",
        "model.attn_implementation, model.chat_template": "model.attn_implementation, chat_template",
        "model.adapter_model": "model.adapter.path",
        "training.use_peft, peft.lora_target_modules, peft.lora_init_weights": "model.adapter",
        "peft.q_lora, peft.q_lora_bits, peft.bnb_4bit_quant_type, peft.use_bnb_nested_quant": "model.quantization",
        "training.num_train_epochs, training.max_steps": "training.num_epochs, training.max_steps",
        "training.lr_scheduler_type, training.warmup_ratio, training.warmup_steps": "training",
        "training.optimizer, training.max_grad_norm": "training.optimizer, training.max_grad_norm",
        "training.eval_strategy, training.eval_steps, training.logging_steps": "training",
        "training.save_steps": "checkpoints.save_steps",
        "training.enable_wandb, training.enable_mlflow, training.enable_tensorboard": "tracking.report_to",
        "fsdp.enable_fsdp, fsdp.cpu_offload, deepspeed": "launch.strategy, launch.offload",
    },
    listed=(
        listed("code in a dataset's repository is never run", "datasets.trust_remote_code"),
        listed("weights are those of the base", "load_pretrained_weights", is_feature=False),
        listed(
            "rows are not padded here, so this token is not needed",
            "tokenizer_pad_token tokenizer_kwargs.pad_token",
            is_feature=False,
        ),
        listed(
            "the tokenizer of the base is used", "tokenizer_name tokenizer_kwargs.* processor_kwargs.*", differs=True
        ),
        listed(
            "a matter of speed or memory; the result is the same",
            "compile enable_liger_kernel shard_for_eval "
            "empty_device_cache_steps use_deterministic nccl_default_timeout_minutes fsdp.* deepspeed.* "
            "bnb_4bit_quant_storage llm_int8_skip_modules transform_num_workers use_torchdata device_map "
            "model_kwargs.*",
            is_feature=False,
        ),
        listed("layers are all trained", "freeze_layers lora_exclude_modules lora_target_parameters", differs=True),
        listed("biases stay frozen here, as with `none`", "lora_bias", differs=True),
        listed("it follows from the objective", "lora_task_type peft_save_mode", is_feature=False),
        listed(
            "rows are read by the format of the data",
            "collator_name collator_kwargs.* train_target "
            "target_col dataset_kwargs.* label_ignore_index text_only tool_call_parser",
            is_feature=False,
        ),
        listed(
            "how sources are mixed follows from their weights", "mixture_strategy shuffle_buffer_size", is_feature=False
        ),
        listed(
            "what is logged differs; the model does not", "metrics_function telemetry.* profiler.*", is_feature=False
        ),
        listed("checkpoints are for resuming here", "save_epoch adapter_trainable", is_feature=False),
        listed(
            "only for objectives that generate answers or distil",
            "grpo.* gkd.* gold.* reward_functions reward_function_kwargs.* verl_config_overrides.*",
            is_feature=False,
        ),
        listed("only for SGD", "sgd_momentum", differs=True),
        listed("a seed of its own for the data does not exist", "datasets.seed data.train.seed", is_feature=False),
        listed("the test data are not read in training", "data.test.*"),
        *trl_common.LISTED,
        *trainer.LISTED,
        *ENVIRONMENT_LISTED,
    ),
)
