"""The usual learning rates of a job, by its objective, the tuned parameters and the optimizer."""

from __future__ import annotations

from dpo_recipes.objectives.rates import LearningRates, RateRange

FAR = 5.0
"""A rate is far off when it lies more than this factor beyond the usual range: Llama 3's 1e-5 is still none."""
SMALL_MODEL_PARAMETERS = 500_000_000
SMALL_MODEL_FACTOR = 4.0
"""Rates that work rise with 1/√parameters (tinker-cookbook, hyperparam_utils.py): from 7B to 500M by √14 = 3.7."""

OPTIMIZER_FACTORS: dict[str, tuple[float, float] | None] = {
    "lion": (1 / 10, 1 / 3),  # 3 to 10 times lower: Chen et al. 2023, section 5
    "schedule_free": (1.0, 10.0),  # 1 to 10 times higher: the README of facebookresearch/schedule_free
    "adagrad": None,
    "sgd": None,
}
"""Factors on the ends of the range for Adam, by a part of the optimizer's name. None if no usual rate is known, because
its steps depend on the gradient's size. The others of the schema (AdamW in all forms, Adafactor as transformers
sets it up, AdEMAMix, RMSprop) step by about the rate, as Adam does."""


def usual_rates(
    rates: LearningRates, optimizer: str, *, is_full: bool, num_parameters: int | None = None
) -> RateRange | None:
    """The usual range of learning rates; None for an optimizer without a usual rate.

    With full fine-tuning, `num_parameters` is the model's size; a model of unknown size may be a small one.
    """
    usual = rates.full if is_full else rates.lora
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
