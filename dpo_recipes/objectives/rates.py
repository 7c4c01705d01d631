"""The learning rates that objectives were seen to work with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RateRange:
    """The usual range of learning rates for one way of tuning, and a rate in it to start from."""

    low: float
    high: float
    start: float

    def scaled(self, low_factor: float, high_factor: float) -> RateRange:
        """The range for an optimizer that needs other rates. The start moves by the factors' geometric mean."""
        start = self.start * (low_factor * high_factor) ** 0.5
        return RateRange(self.low * low_factor, self.high * high_factor, float(f"{start:.0e}"))

    def factor_beyond(self, rate: float) -> float:
        """How many times a rate is above the range, or as a negative number below it; 0 inside."""
        if rate > self.high:
            return rate / self.high
        return -self.low / rate if rate < self.low else 0.0


@dataclass(frozen=True)
class LearningRates:
    """The usual learning rates of an objective with Adam. The comment beside each value names its sources."""

    full: RateRange
    """For full fine-tuning."""
    lora: RateRange


PREFERENCE_RATES = LearningRates(
    # 7e-8 (Olmo 3, 32B), 2e-7 and 5e-7 (Tulu 3, 70B and 8B), 5e-7 (Zephyr), 7e-7 (Qwen2.5, 0.5B to 72B), 1e-6 (DPO's
    # paper, TRL's default), 1e-5 (Llama 3).
    full=RateRange(1e-7, 5e-6, 1e-6),
    # LoRA takes some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/): 5e-6 (Alignment
    # Handbook's QLoRA), 1e-5 (TRL's advice), 1e-4 (TRL's advice of earlier releases).
    lora=RateRange(5e-6, 2e-4, 1e-5),
)
"""The learning rates that preference optimization was seen to work with. Adam divides a gradient by its own size, so
that `beta`, a factor of the loss, changes none of these."""
