"""LLaMA-Factory's version 1: `peft_config`, `train_dataset` and `micro_batch_size`, with a YAML file of datasets."""

from __future__ import annotations

from typing import Any

from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.share.foreign import llama_factory, trainer, trl_common
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.listed import listed
from dpo_recipes.share.foreign.llama_factory_data import DATA_URL
from dpo_recipes.share.foreign.machine import known_files
from dpo_recipes.share.foreign.progress import map_limit
from dpo_recipes.share.foreign.read import Document, parse_document, read_document
from dpo_recipes.share.foreign.schedule import map_clipping, map_length
from dpo_recipes.share.foreign.sources import need_source
from dpo_recipes.share.foreign.tool import Tool, count_signs
from dpo_recipes.share.foreign.trl_model import put_targets
from dpo_recipes.share.foreign.values import WrongValue, flag, number, text, whole

_NAMES = {
    "model": "model.path",
    "trust_remote_code": "model.trust_remote_code",
    "cutoff_len": "data.max_length",
    "micro_batch_size": "training.micro_batch_size",
    "learning_rate": "training.learning_rate",
    "enable_activation_checkpointing": "training.gradient_checkpointing",
    "seed": "training.seed",
    "output_dir": "output_dir",
    "logging_steps": "training.logging_steps",
    "save_steps": "checkpoints.save_steps",
}
_SHIPPED = {
    "v1_dpo_demo.yaml": {
        "dpo_zh_demo": {"path": "HuggingFaceH4/orca_dpo_pairs", "split": "train_prefs", "converter": "pair"}
    },
    "v1_sft_demo.yaml": {
        "identity": {"path": f"{DATA_URL}identity.json", "converter": "alpaca"},
        "alpaca_en_demo": {"path": f"{DATA_URL}alpaca_en_demo.json", "converter": "alpaca", "size": 500},
    },
}
"""The files of datasets in LLaMA-Factory's own folder `data`."""
_FORMATS = {
    ("pair", "pair"): "preference",
    ("alpaca", "completion"): "alpaca_sft",
    ("sharegpt", "completion"): "sharegpt_sft",
    ("alpaca", "pair"): "alpaca",
    ("sharegpt", "pair"): "sharegpt",
}
_ATTENTION = {"auto": "auto", "eager": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}
_COMMANDS = {"rm": "reward", "dpo": "dpo", "sft": "sft"}


def signs(config: Config) -> int:
    """How many keys are those of version 1 alone."""
    if not isinstance(config.data.get("model"), str):
        return 0
    return 2 * count_signs(
        config,
        "train_dataset peft_config dist_config kernel_config quant_config sample_backend model_class init_config",
    )


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    method = next((_COMMANDS[word] for word in reversed(draft.config.command) if word in _COMMANDS), "")
    kind = trl_common.find_kind(draft, method)
    number_of = map_environment(draft)
    draft.put("objective.kind", kind)
    if kind in ("dpo", "kto"):
        draft.default("objective.beta", 0.1)
    keys.map_all(_NAMES)
    draft.default("model.path", "Qwen/Qwen3-4B-Instruct-2507")
    _map_model(keys)
    _map_training(keys, number_of)
    _map_text(keys)
    _map_data(keys, draft, "pair" if kind in trl_common.PAIRS else "completion")
    need_source(draft)


def _map_model(keys: Keys) -> None:
    draft = keys.draft
    bf16 = keys.get("bf16", flag)
    if bf16 is None:
        draft.default("model.dtype", "bfloat16", "bf16 is on by default")
    else:
        draft.put("model.dtype", "bfloat16" if bf16 else "float32", keys.key("bf16"))
    attention = keys.get("flash_attn", text)
    if attention is not None:
        draft.put("model.attn_implementation", _ATTENTION.get(attention.lower(), "auto"), keys.key("flash_attn"))
    _map_quantization(keys.sub("quant_config"))
    _map_adapter(keys.sub("peft_config"))


def _map_quantization(quant: Keys) -> None:
    draft = quant.draft
    bits = quant.get("quantization_bit", whole)
    if bits in (4, 8):
        draft.put("model.quantization.bits", bits, quant.key("quantization_bit"))
        if bits == 4:
            for name, to, value in (
                ("quantization_type", "quant_type", "nf4"),
                ("double_quantization", "double_quant", True),
            ):
                if not quant.map(name, f"model.quantization.{to}"):
                    draft.default(f"model.quantization.{to}", value)
        quant.derive(["name"], "model.quantization")


def _map_adapter(peft: Keys) -> None:
    draft = peft.draft
    way = peft.get("name", text)
    if way is None:
        peft.derive(list(peft.data), "model.adapter", note="without a name there is no adapter")
        return
    if way != "lora":
        peft.list("name", f"`{way}` does not exist here; every weight is trained", differs=True)
        return
    draft.put("model.adapter.kind", "lora", peft.key("name"))
    if peft.map("adapter_name_or_path", "model.adapter.path"):
        peft.derive(list(peft.data), "model.adapter.path", note="the adapter's own are used")
        return
    for name, to, value in (("r", "r", 8), ("lora_alpha", "alpha", 16), ("lora_dropout", "dropout", 0.05)):
        if not peft.map(name, f"model.adapter.{to}"):
            draft.default(f"model.adapter.{to}", value)
    if not put_targets(peft, "target_modules", ("all", "all-linear")):
        draft.default("model.adapter.target_modules", "all-linear")
    for name in ("use_rslora", "use_dora", "modules_to_save"):
        peft.map(name, f"model.adapter.{name}")


def _map_training(keys: Keys, number_of: int) -> None:
    draft = keys.draft
    for to, value in {
        "training.micro_batch_size": 1,
        "training.learning_rate": 1e-4,
        "training.gradient_checkpointing": True,
        "training.seed": 42,
        "training.logging_steps": 1,
    }.items():
        draft.default(to, value)
    total, micro = keys.get("global_batch_size", whole), draft.value("training.micro_batch_size")
    if total and micro:
        steps = max(1, total // (micro * number_of))
        draft.put(
            "training.gradient_accumulation_steps",
            steps,
            keys.key("global_batch_size"),
            note=f"global_batch_size: {total}",
        )
    else:
        draft.default("training.gradient_accumulation_steps", 1)
    map_length(keys, "num_train_epochs", 3.0)
    map_clipping(keys)
    map_limit(keys)
    _map_schedule(keys, draft)


def _map_schedule(keys: Keys, draft: Draft) -> None:
    """Without a configuration the rate is constant, and the optimizer is PyTorch's AdamW with its own decay."""
    scheduler, optimizer = keys.sub("lr_scheduler_config"), keys.sub("optim_config")
    name = scheduler.get("name", text)
    if name is None:
        draft.default("training.lr_scheduler", "constant")
        draft.default("training.warmup_ratio", 0.0)
    else:
        kind = name if name in ("cosine", "linear", "constant", "constant_with_warmup") else "cosine"
        draft.put("training.lr_scheduler", kind, scheduler.key("name"), differs=kind != name)
        ratio, steps = scheduler.get("warmup_ratio", number), scheduler.get("warmup_steps", number)
        if steps:
            draft.put("training.warmup_steps", round(steps), scheduler.key("warmup_steps"))
        elif ratio is not None:
            draft.put("training.warmup_ratio", ratio, scheduler.key("warmup_ratio"))
        else:
            draft.default("training.warmup_ratio", 0.0)
    name = optimizer.get("name", text)
    if name is not None:
        plain = name.lower()
        draft.put("training.optimizer", "adamw_torch", optimizer.key("name"), differs="adamw" not in plain)
    draft.default("training.optimizer", "adamw_torch", "PyTorch's AdamW")
    if not optimizer.map("weight_decay", "training.weight_decay"):
        draft.default("training.weight_decay", 0.01, "PyTorch's AdamW")
    dist = keys.sub("dist_config")
    way = dist.get("name", text)
    if way is not None and way.startswith("fsdp"):
        draft.put("launch.strategy", "fsdp", dist.key("name"))
    elif way == "deepspeed":
        dist.list("name", "the stage of ZeRO is not known; the device decides", differs=False)


def _map_text(keys: Keys) -> None:
    draft = keys.draft
    draft.default("data.max_length", 2048)
    draft.default("data.overlong", "truncate_completion_end")
    given = keys.get("template", text)
    if given is None:
        draft.default("chat_template", "chatml", "qwen3_nothink")
    elif given in llama_factory.TEMPLATES:
        draft.put("chat_template", llama_factory.TEMPLATES[given], keys.key("template"))
    else:
        note = f"the template `{given}` is not shipped here; the tokenizer's own, which is usually the same"
        draft.put("chat_template", "tokenizer", keys.key("template"), note=note, differs=given != "auto")


def _map_data(keys: Keys, draft: Draft, rows: str) -> None:
    for name, section in (("train_dataset", "data.train"), ("eval_dataset", "data.eval.sources")):
        given = keys.get(name, text)
        if given is None:
            continue
        key = keys.key(name)
        described = _datasets_of(given, draft) if given.endswith((".yaml", ".yml")) else {"": {"path": given}}
        for index, (entry, found) in enumerate(described.items()):
            at = f"{section}[{index}]"
            info = found if isinstance(found, dict) else {"path": found}
            note = f"{name}: {given}" if entry else ""
            draft.put(f"{at}.path", str(info.get("path", given)), key, note=note if index == 0 else "")
            _put_details(at, info, draft, rows)


def _put_details(at: str, info: dict[str, Any], draft: Draft, rows: str) -> None:
    is_local = info.get("source") == "local" or str(info.get("path", "")).endswith((".json", ".jsonl", ".parquet"))
    if isinstance(info.get("split"), str) and not is_local:
        draft.put(f"{at}.split", info["split"])
    converter = info.get("converter")
    format_ = _FORMATS.get((converter, rows)) if isinstance(converter, str) else None
    if format_ is not None:
        draft.put(f"{at}.format", format_)
    elif rows == "pair" and converter is not None:
        draft.remarks.append(f"the converter `{converter}` does not exist here; the columns decide")
    try:
        if info.get("size"):
            draft.put(f"{at}.limit", whole(info["size"]))
    except WrongValue:
        draft.remarks.append("a `size` of the datasets is not a number")
    if info.get("weight") not in (None, 1, 1.0):
        draft.remarks.append("the weights of the datasets repeat rows, which does not exist here")
    if info.get("streaming") is True:
        draft.put(f"{at}.streaming", True)


def _datasets_of(name: str, draft: Draft) -> dict[str, Any]:
    """The datasets that a YAML file describes; that file as the path if it is not here."""
    path = known_files(draft, name)
    if path is not None and path.is_file():
        try:
            document: Document = read_document(path)
            data, _ = parse_document(document)
        except DpoRecipeError as error:
            draft.findings += error.findings
            return {}
        if isinstance(data, dict) and data:
            return data
    shipped = _SHIPPED.get(name.rpartition("/")[2])
    if shipped is not None:
        return shipped
    draft.remarks.append(f"{name}, which describes the datasets, is not here: correct `data.train[0].path`")
    stem = name.rpartition("/")[2].rpartition(".")[0]
    return {"": {"path": f"data/{stem}.jsonl"}}


TOOL = Tool(
    name="llama-factory-v1",
    title="LLaMA-Factory v1",
    version="(0.9.5)",
    programs=("llamafactory-cli sft", "llamafactory-cli dpo", "llamafactory-cli rm", "lmf sft", "lmf dpo", "lmf rm"),
    signs=signs,
    convert=convert,
    mapped=_NAMES,
    derived={
        "train_dataset, eval_dataset": "data.train, data.eval",
        "global_batch_size": "training.gradient_accumulation_steps",
        "template": "chat_template",
        "bf16": "model.dtype",
        "flash_attn": "model.attn_implementation",
        "peft_config": "model.adapter",
        "quant_config": "model.quantization",
        "num_train_epochs, max_steps, max_grad_norm": "training",
        "optim_config, lr_scheduler_config": "training.optimizer, training.weight_decay, training.lr_scheduler",
        "dist_config": "launch.strategy",
        "save_total_limit": "checkpoints.save_total_limit",
    },
    listed=(
        listed("the class follows from the objective", "model_class", is_feature=False),
        listed(
            "kernels are a matter of speed; the result is the same", "kernel_config kernel_config.*", is_feature=False
        ),
        listed(
            "how weights are initialized and sharded follows from `launch`",
            "init_config init_config.* dist_config.*",
            is_feature=False,
        ),
        listed("only for answers on the command line", "sample_backend max_new_tokens", is_feature=False),
        listed(
            "rows are batched by `training.micro_batch_size` or `max_tokens_per_pass`",
            "batching_strategy batching_workers",
            is_feature=False,
        ),
        listed("checkpoints are written by minutes or steps", "save_epochs save_ckpt_as_hf", is_feature=False),
        listed(
            "this setting of the optimizer or schedule does not exist here",
            "optim_config.* lr_scheduler_config.*",
            differs=True,
        ),
        listed("only for exporting", "peft_config.export_* peft_config.infer_dtype", is_feature=False),
        listed("this setting of the adapter does not exist here", "peft_config.*", differs=True),
        listed("this kind of quantization does not exist here", "quant_config.*", differs=True),
        *trainer.LISTED,
        *ENVIRONMENT_LISTED,
    ),
)
