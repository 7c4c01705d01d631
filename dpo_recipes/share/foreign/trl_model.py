"""TRL's ModelConfig, which the alignment handbook has too: the base, its precision, and LoRA."""

from __future__ import annotations

from dpo_recipes.recipe.foreign_names import TRL_MODEL
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.listed import Listed, listed
from dpo_recipes.share.foreign.machine import map_bitsandbytes, map_precision
from dpo_recipes.share.foreign.values import flag, names, text

_PEFT_TARGETS = {
    "gpt2": ["c_attn"],
    "gpt-2": ["c_attn"],
    "bloom": ["query_key_value"],
    "pythia": ["query_key_value"],
    "neox": ["query_key_value"],
    "falcon-": ["query_key_value"],
    "chatglm": ["query_key_value"],
    "mpt-": ["Wqkv"],
    "phi-3": ["qkv_proj"],
    "phi-4": ["qkv_proj"],
    "phi-1": ["q_proj", "v_proj", "fc1", "fc2"],
    "phi-2": ["q_proj", "v_proj", "fc1", "fc2"],
    "bert": ["query", "value"],
}
"""PEFT's default modules of families whose projections are not called `q_proj` and `v_proj`."""
_ADAPTER = [
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "lora_task_type",
    "use_rslora",
    "use_dora",
]
_ATTENTION = {"flash_attn": "flash_attention_2", "flash_attention_3": "flash_attention_2", "fa2": "flash_attention_2"}


def map_trl_model(keys: Keys, *, adapter_r: int = 16, alpha: int = 32, dropout: float = 0.05) -> None:
    """The section `model` from TRL's arguments."""
    keys.map_all({name: to for name, to in TRL_MODEL.items() if not to.startswith("model.adapter")})
    map_attention(keys, "attn_implementation")
    if keys.get("use_flash_attention_2", flag, False):
        keys.draft.put("model.attn_implementation", "flash_attention_2", keys.key("use_flash_attention_2"))
    map_precision(keys, ("torch_dtype", "dtype"), "bfloat16", "bf16 is on by default")
    map_bitsandbytes(keys, double=False)
    if not keys.get("use_peft", flag, False):
        keys.derive(_ADAPTER, "model.adapter", note="without `use_peft` there is no adapter")
        return
    map_lora(keys, r=adapter_r, alpha=alpha, dropout=dropout)
    keys.derive(["use_peft"], "model.adapter")
    keys.map_all({name: to for name, to in TRL_MODEL.items() if to.startswith("model.adapter")})


def map_lora(keys: Keys, *, r: int, alpha: int, dropout: float) -> None:
    """`model.adapter` from the arguments `lora_*`."""
    draft = keys.draft
    draft.put("model.adapter.kind", "lora")
    for name, default in (("r", r), ("alpha", alpha), ("dropout", dropout)):
        if not keys.map(f"lora_{name}", f"model.adapter.{name}"):
            draft.default(f"model.adapter.{name}", default)
    if not put_targets(keys, "lora_target_modules"):
        default_targets(draft)
    keys.map("lora_modules_to_save", "model.adapter.modules_to_save")
    keys.list("lora_task_type", "it follows from the objective", differs=False)


def put_targets(keys: Keys, name: str, every: tuple[str, ...] = ("all-linear",)) -> bool:
    """`model.adapter.target_modules` from a list, or from a word that means all linear layers."""
    given = keys.get(name, names)
    if not given:
        return False
    draft, to = keys.draft, "model.adapter.target_modules"
    raw = keys.data[name]
    if any(each in every for each in given):
        draft.put(
            to, "all-linear", keys.key(name), note="" if len(given) == 1 else "all linear layers include the others"
        )
    elif isinstance(raw, str) and any(char in raw for char in "*\\(|["):
        draft.put(to, raw, keys.key(name))
    else:
        draft.put(to, given, keys.key(name))
    return True


def default_targets(draft: Draft) -> None:
    """The modules that PEFT chooses for a family of models."""
    path = str(draft.value("model.path", "")).lower()
    found = next((targets for part, targets in _PEFT_TARGETS.items() if part in path), ["q_proj", "v_proj"])
    draft.default("model.adapter.target_modules", found, "what PEFT chooses for this family")


def map_attention(keys: Keys, name: str) -> None:
    """`model.attn_implementation`; the implementations give the same values."""
    given = keys.get(name, text)
    if given is None:
        return
    plain = _ATTENTION.get(given, given)
    if plain in ("auto", "eager", "sdpa", "flash_attention_2"):
        keys.draft.put("model.attn_implementation", plain, keys.key(name))
    else:
        keys.list(name, f"there is no `{given}` here; the fastest one of the device is used", differs=False)


LISTED: tuple[Listed, ...] = (
    listed(
        "a matter of memory; the values are the same",
        "bnb_4bit_quant_storage llm_int8_skip_modules use_flash_attention_2 model_code_revision",
        is_feature=False,
    ),
    listed("LoRA on parameters that are not modules does not exist here", "lora_target_parameters", differs=True),
    listed("biases stay frozen here, as with `none`", "lora_bias", differs=True),
)
