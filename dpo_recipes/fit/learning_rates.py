"""Learning rates that preference optimization was seen to work with, by what is tuned and with which optimizer.

Where they come from, for Adam and every weight trained: 7e-8 (Olmo 3, 32B), 2e-7 and 5e-7 (Tulu 3, 70B and 8B), 5e-7
(Zephyr), 7e-7 (Qwen2.5, 0.5B to 72B), 1e-6 (DPO's paper, TRL's default), 1e-5 (Llama 3). For LoRA, which takes some ten
times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/): 5e-6 (Alignment Handbook's QLoRA), 1e-5
(TRL's advice), 1e-4 (TRL's advice of earlier releases). Adam divides a gradient by its own size, so that `beta`, a
factor of the loss, changes none of these.
"""

from __future__ import annotations

from dataclasses import dataclass

FAR = 5.0
"""A rate is far off when it lies more than this factor beyond the usual range: Llama 3's 1e-5 is still none."""
SMALL_MODEL_PARAMETERS = 500_000_000
SMALL_MODEL_FACTOR = 4.0
"""Rates that work rise with 1/√parameters (tinker-cookbook, hyperparam_utils.py): from 7B to 500M by √14 = 3.7."""


@dataclass(frozen=True)
class RateRange:
    """The usual range of one way of tuning, and a rate in it to start from."""

    low: float
    high: float
    start: float

    def scaled(self, low_factor: float, high_factor: float) -> RateRange:
        """The same for an optimizer that takes other rates; the start moves by the factors' geometric mean."""
        start = self.start * (low_factor * high_factor) ** 0.5
        return RateRange(self.low * low_factor, self.high * high_factor, float(f"{start:.0e}"))

    def factor_beyond(self, rate: float) -> float:
        """How many times a rate is above the range, or as a negative number below it; 0 inside."""
        if rate > self.high:
            return rate / self.high
        return -self.low / rate if rate < self.low else 0.0


FULL = RateRange(1e-7, 5e-6, 1e-6)
LORA = RateRange(5e-6, 2e-4, 1e-5)

OPTIMIZER_FACTORS: dict[str, tuple[float, float] | None] = {
    "lion": (1 / 10, 1 / 3),  # 3 to 10 times lower: Chen et al. 2023, section 5
    "schedule_free": (1.0, 10.0),  # 1 to 10 times higher: the README of facebookresearch/schedule_free
    "adagrad": None,
    "sgd": None,
}
"""By what an optimizer's name contains: factors on the range's ends for Adam; None where nothing is known of the rate,
because its steps depend on the gradient's size. The others of the schema (AdamW in all forms, Adafactor as transformers
sets it up, AdEMAMix, RMSprop) step by about the rate, as Adam does."""


def usual_rates(optimizer: str, *, is_full: bool, num_parameters: int | None = None) -> RateRange | None:
    """The usual range of learning rates; None for an optimizer of which nothing is known.

    With full fine-tuning, `num_parameters` is the model's size; a model of unknown size may be a small one.
    """
    usual = FULL if is_full else LORA
    if is_full and (num_parameters is None or num_parameters < SMALL_MODEL_PARAMETERS):
        usual = RateRange(usual.low, usual.high * SMALL_MODEL_FACTOR, usual.start)
    for part, factors in OPTIMIZER_FACTORS.items():
        if part in optimizer:
            return usual.scaled(*factors) if factors else None
    return usual


def format_rate(rate: float) -> str:
    """A learning rate as recipes write it: 5e-6."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
