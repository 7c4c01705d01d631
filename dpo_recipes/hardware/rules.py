"""Evaluates the table of rules about devices, without hardware and without heavy imports.

`dtype: auto` is not a rule of its own. It is the first precision of `AUTO_ORDER` that no rule refuses or warns about,
so it never chooses what validation would refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dpo_recipes.hardware.choice import BITSANDBYTES_OPTIMIZERS, Choice, Question, Rule
from dpo_recipes.hardware.profiles import Device
from dpo_recipes.hardware.rule_table import RULES

__all__ = [
    "AUTO_ORDER",
    "RULES",
    "Choice",
    "Question",
    "Rule",
    "Verdict",
    "ask",
    "best_dtype",
    "needs_bitsandbytes",
    "supports_attention",
    "supports_dtype",
    "supports_memory_limit",
    "supports_optimizer",
    "supports_processes",
    "supports_quantization",
    "supports_strategy",
    "supports_torch",
]

AUTO_ORDER = ("bfloat16", "float16", "float32")
"""Fastest first; bfloat16 before float16, as it needs no gradient scaler and does not overflow."""


@dataclass(frozen=True)
class Verdict:
    """The answer of the table: `yes`, or `no` or `warn` with the rule that decided it."""

    outcome: Literal["yes", "no", "warn"]
    rule: str = ""
    why: str = ""
    source: str = ""
    ways_out: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the choice can run at all; true for warnings too."""
        return self.outcome != "no"

    @property
    def fix(self) -> str:
        """Both ways out in one phrase, as a finding's hint gives them."""
        return ", or ".join(self.ways_out)


def ask(question: Question, device: Device, choice: Choice) -> Verdict:
    """The verdict of the first rule of that question that applies."""
    for rule in RULES[question]:
        if rule.applies(device, choice):
            return Verdict(rule.outcome, rule.name, rule.why, rule.source, rule.ways_out)
    return Verdict("yes")


def supports_dtype(device: Device, dtype: str, *, model_type: str | None = None) -> Verdict:
    """Whether the device trains in `float32`, `float16` or `bfloat16`; `auto` always."""
    return ask("dtype", device, Choice(dtype=dtype, model_type=model_type))


def best_dtype(device: Device, *, model_type: str | None = None) -> str:
    """What `dtype: auto` means on the device; `model_type` is that of the model's config.json, where it is known.

    CUDA from Ampere on: bfloat16. Volta and Turing: float16, whose tensor cores are 4 to 8 times as fast as float32,
    with autocast and gradient scaler (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740); trained weights
    stay in float32. Models that overflow float16, older GPUs, MPS, and CPUs without matrix units: float32.
    """
    fitting = (dtype for dtype in AUTO_ORDER if supports_dtype(device, dtype, model_type=model_type).outcome == "yes")
    return next(fitting, "float32")


def supports_quantization(
    device: Device, bits: int, quant_type: str = "nf4", *, installed: frozenset[str] | None = None
) -> Verdict:
    """Whether a base of 4 or 8 bits trains there; nf4 and fp4 have kernels on the same devices."""
    del quant_type
    return ask("quantization", device, Choice(bits=bits, installed=installed))


def needs_bitsandbytes(optimizer: str) -> bool:
    """Whether transformers takes this optimizer from bitsandbytes."""
    return optimizer in BITSANDBYTES_OPTIMIZERS


def supports_optimizer(device: Device, name: str, *, installed: frozenset[str] | None = None) -> Verdict:
    """Whether the optimizer (by transformers' name) runs there; torch's own and its fused AdamW do everywhere."""
    return ask("optimizer", device, Choice(optimizer=name, installed=installed))


def supports_attention(
    device: Device, implementation: str, dtype: str, *, installed: frozenset[str] | None = None
) -> Verdict:
    """Whether the attention code path runs there in that precision; `auto` is what the device would take."""
    dtype = best_dtype(device) if dtype == "auto" else dtype
    return ask("attention", device, Choice(attention=implementation, dtype=dtype, installed=installed))


def supports_processes(device: Device, processes: int) -> Verdict:
    """Whether this number of processes can train together on devices of this kind."""
    return ask("processes", device, Choice(processes=processes))


def supports_strategy(
    device: Device,
    strategy: str,
    *,
    bits: int | None = None,
    quant_storage: str | None = None,
    dtype: str | None = None,
) -> Verdict:
    """Whether `ddp`, `fsdp`, `fsdp2`, `zero1`, `zero2` or `zero3` works there with a base of this number of bits.

    `dtype` is the precision of the unquantized weights; with it, a `quant_storage` of another one is refused.
    """
    return ask("strategy", device, Choice(strategy=strategy, bits=bits, quant_storage=quant_storage, dtype=dtype))


def supports_memory_limit(device: Device, high: float | None, low: float | None) -> Verdict:
    """Whether MPS starts and stops in time with these PYTORCH_MPS_HIGH_ and _LOW_WATERMARK_RATIO; None is unset."""
    return ask("memory_limit", device, Choice(high_watermark=high, low_watermark=low))


def supports_torch(device: Device) -> Verdict:
    """Whether the build of torch on PyPI runs on the device."""
    return ask("torch", device, Choice())
