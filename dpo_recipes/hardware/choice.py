"""The choices that are checked against a device, and the form of the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dpo_recipes.hardware.profiles import Device

Question = Literal["dtype", "quantization", "optimizer", "attention", "processes", "strategy", "memory_limit", "torch"]

FLOAT16_OVERFLOWS = frozenset(
    {"gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gpt_oss", "qwen3_5", "qwen3_5_text"}
)
"""`model_type`s whose activations leave float16's range, 65504: the list that Unsloth trains in float32 instead."""

BITSANDBYTES_OPTIMIZERS = frozenset(
    {
        *("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"),
        *("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
        *("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"),
        *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    }
)
"""Names that transformers hands to bitsandbytes (trainer_optimizer.py, `_BITSANDBYTES_OPTIMIZERS`)."""

FLASH_CAPABILITY = {"flash_attention_2": (8, 0), "flash_attention_3": (8, 0), "flash_attention_4": (9, 0)}
"""The compute capability from which transformers or the kernels themselves take each FlashAttention."""


@dataclass(frozen=True)
class Choice:
    """The choices to check against a device; a rule reads the fields of its section and ignores the others."""

    dtype: str | None = None
    model_type: str | None = None
    bits: int | None = None
    optimizer: str | None = None
    attention: str | None = None
    processes: int = 1
    strategy: str | None = None
    quant_storage: str | None = None
    high_watermark: float | None = None
    low_watermark: float | None = None
    installed: frozenset[str] | None = None
    """Importable packages that matter to rules, or None if unknown."""

    @property
    def uses_bitsandbytes(self) -> bool:
        """Whether the chosen quantization or optimizer needs bitsandbytes."""
        return self.bits is not None or self.optimizer in BITSANDBYTES_OPTIMIZERS

    def lacks(self, *packages: str) -> bool:
        """Whether it is known that none of the packages is installed."""
        return self.installed is not None and self.installed.isdisjoint(packages)

    @property
    def uses_flash(self) -> bool:
        """Whether the chosen attention needs a FlashAttention package."""
        return self.attention in FLASH_CAPABILITY

    @property
    def stores_4_bit_as_float(self) -> bool:
        """Whether a 4-bit base's bytes are stored as the floating-point type of the other weights."""
        return self.quant_storage in ("float32", "float16", "bfloat16") and self.dtype in (None, self.quant_storage)

    @property
    def watermarks_cross(self) -> bool:
        """Whether torch's low watermark on MPS, by default 1.4, is above a high one that is set."""
        low = 1.4 if self.low_watermark is None else self.low_watermark
        return self.high_watermark is not None and 0 < self.high_watermark < low

    @property
    def shards_weights(self) -> bool:
        """Whether the strategy shards the model's weights."""
        return self.strategy in ("fsdp", "fsdp2", "zero3")


@dataclass(frozen=True)
class Rule:
    """One choice that a device does not support (`no`), or supports with a disadvantage (`warn`)."""

    name: str
    applies: Callable[[Device, Choice], bool]
    why: str
    source: str
    ways_out: tuple[str, str]
    outcome: Literal["no", "warn"] = "no"
