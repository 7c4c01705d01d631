"""Axolotl's base model: its precision, quantization, attention and adapter."""

from __future__ import annotations

from dpo_recipes.recipe.foreign_names import AXOLOTL
from dpo_recipes.share.foreign.draft import Keys
from dpo_recipes.share.foreign.trl_model import default_targets, map_attention, put_targets
from dpo_recipes.share.foreign.values import flag, text

_INITS = {"gaussian": "gaussian", "pissa": "pissa", "olora": "olora", "orthogonal": "orthogonal", "loftq": "loftq"}
_ADAPTER = ("lora_model_dir", "lora_target_linear", "lora_target_modules", "peft_init_lora_weights")


def map_model(keys: Keys) -> None:
    """The section `model`."""
    draft = keys.draft
    if not draft.has("model.path"):
        keys.map("base_model_config", "model.path")
    else:
        keys.derive(["base_model_config"], "model.path", note="the configuration is that of `base_model`")
    _map_dtype(keys)
    _map_quantization(keys)
    _map_attention(keys)
    adapter = keys.get("adapter", text)
    names_ = [*_ADAPTER, *(name for name, to in AXOLOTL.items() if to.startswith("model.adapter"))]
    if adapter is None:
        keys.derive(names_, "model.adapter", note="without `adapter` every weight is trained")
        return
    if adapter not in ("lora", "qlora"):
        what = f"there is no adapter `{adapter}` here; LoRA instead"
        draft.put("model.adapter.kind", "lora", keys.key("adapter"), note=what, differs=True)
    else:
        draft.put("model.adapter.kind", "lora", keys.key("adapter"))
    if keys.map("lora_model_dir", "model.adapter.path"):
        keys.derive(
            [n for n in names_ if n != "lora_model_dir"], "model.adapter.path", note="the adapter's own are used"
        )
        return
    _map_lora(keys)


def _map_lora(keys: Keys) -> None:
    draft = keys.draft
    keys.map_all({name: to for name, to in AXOLOTL.items() if to.startswith("model.adapter")})
    draft.default("model.adapter.r", 8, "Axolotl needs `lora_r`")
    draft.default("model.adapter.alpha", 16, "Axolotl needs `lora_alpha`")
    draft.default("model.adapter.dropout", 0.0)
    to = "model.adapter.target_modules"
    if keys.get("lora_target_linear", flag, False):
        draft.put(to, "all-linear", keys.key("lora_target_linear"), note="lora_target_linear: true")
        keys.derive(["lora_target_modules"], to, note="all linear layers include them")
    else:
        if not put_targets(keys, "lora_target_modules"):
            default_targets(draft)
        keys.derive(["lora_target_linear"], to)
    init = keys.get("peft_init_lora_weights", text)
    loftq = keys.sub("peft").sub("loftq_config")
    if loftq.data:
        draft.put("model.adapter.init", "loftq", *keys.under("peft"))
    elif init is not None and init.split("_")[0] in _INITS:
        draft.put("model.adapter.init", _INITS[init.split("_")[0]], keys.key("peft_init_lora_weights"))
    elif init in ("true", "True"):
        keys.derive(["peft_init_lora_weights"], "model.adapter.init")


def _map_dtype(keys: Keys) -> None:
    """`bf16: auto` is what `auto` means here: bfloat16, or float16 on devices without it."""
    draft, to = keys.draft, "model.dtype"
    bf16, fp16 = keys.data.get("bf16", "auto"), keys.get("fp16", flag, False)
    if bf16 in ("full", "auto"):
        is_full = bf16 == "full"
        value = "bfloat16" if is_full else "float16" if fp16 else "auto"
        note = "weights stay in 32 bits where they are trained" if is_full else ""
        given = [keys.key(name) for name in ("bf16", "fp16") if keys.has(name)]
        if given:
            draft.put(to, value, *given, note=note)
        else:
            draft.default(to, value, "bf16 where the device has it")
        keys.derive(["bfloat16", "float16", "float32"], to, note="`bf16` decides, which is `auto` by default")
        return
    flags = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
    on = next((name for name in flags if keys.get(name, flag, False)), None)
    given = [keys.key(name) for name in (*flags, "float32") if keys.has(name)]
    draft.put(to, flags[on] if on else "float32", *given)


def _map_quantization(keys: Keys) -> None:
    draft = keys.draft
    switches = ("load_in_4bit", "load_in_8bit", "gptq")
    is_4bit = keys.get("load_in_4bit", flag, False) or keys.get("adapter", text) == "qlora"
    bits = 4 if is_4bit else 8 if keys.get("load_in_8bit", flag, False) else None
    settings = keys.sub("bnb_config_kwargs")
    if bits is None or (not keys.has("adapter") and not keys.get("load_in_4bit", flag, False)):
        keys.derive(switches, "model.quantization", note="no quantization")
        keys.derive(["bnb_config_kwargs"], "model.quantization", note="no quantization")
        return
    name = "load_in_4bit" if bits == 4 and keys.has("load_in_4bit") else "load_in_8bit" if bits == 8 else "adapter"
    draft.put("model.quantization.bits", bits, keys.key(name))
    keys.derive(switches, "model.quantization.bits")
    if bits == 8:
        return
    for inner, to, value in (
        ("bnb_4bit_quant_type", "quant_type", "nf4"),
        ("bnb_4bit_use_double_quant", "double_quant", True),
    ):
        if not settings.map(inner, f"model.quantization.{to}"):
            draft.default(f"model.quantization.{to}", value)


def _map_attention(keys: Keys) -> None:
    map_attention(keys, "attn_implementation")
    old = {
        "flash_attention": "flash_attention_2",
        "sdp_attention": "sdpa",
        "eager_attention": "eager",
        "xformers_attention": "auto",
        "flex_attention": "auto",
        "sage_attention": "auto",
    }
    for name, implementation in old.items():
        if keys.get(name, flag, False) and not keys.draft.has("model.attn_implementation"):
            keys.draft.put("model.attn_implementation", implementation, keys.key(name))
        else:
            keys.derive([name], "model.attn_implementation")
