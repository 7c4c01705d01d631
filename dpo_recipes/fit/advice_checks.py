"""Looks at one fact each, for the rules of `advice_table`. A fact that is not known gives no remark."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_recipes.evaluate.significance import interval_half_width, pairs_for_half_width, smallest_difference
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.learning_rates import FAR, format_rate, usual_rates
from dpo_recipes.fit.remark import Remark

FEW_TRAIN_PAIRS = 300
"""Fewer than ten steps of Zephyr's batch of 32, and less than a third of what Amazon's guide asks for."""
MANY_PASSES = 3.0
CUT_SHARE = 0.05
HALF_WIDTH = 0.05
"""Recipes are often compared by differences of a few points of accuracy; ± 5 points is the least that helps there."""
DISAGREEMENT = 0.2
"""Of the held-out pairs, the share that two runs are taken to rank differently when what they can show is computed."""
BETA_RANGE = (0.001, 10.0)
FEW_STEPS = 20
LONG_WARMUP = 0.5


def check_learning_rate(facts: JobFacts) -> Iterator[Remark]:
    """F790. Plain supervised fine-tuning, `loss_type: sft` alone, takes other rates and is left alone."""
    training = facts.recipe.training
    size = facts.trainable_parameters if facts.is_full else None
    usual = usual_rates(training.optimizer, is_full=facts.is_full, num_parameters=size)
    if usual is None or set(facts.losses) == {"sft"}:
        return
    beyond = usual.factor_beyond(training.learning_rate)
    if abs(beyond) <= FAR * (1 + 1e-9):  # 2.5e-5 / 5e-6 is a little more than 5
        return
    tuning = "full fine-tuning" if facts.is_full else "LoRA"
    side = "above" if beyond > 0 else "below"
    distance = f"this is {beyond:,.0f} times the upper end"
    if beyond < 0:
        distance = f"the lower end is {-beyond:,.0f} times this"
    yield Remark(
        ("training", "learning_rate"),
        f"a learning rate of {format_rate(training.learning_rate)} is far {side} what {tuning} on preferences takes",
        f"usual with {training.optimizer} are {format_rate(usual.low)} to {format_rate(usual.high)}, and {distance}",
        f"start from `learning_rate: {format_rate(usual.start)}`",
    )


def check_pair_count(facts: JobFacts) -> Iterator[Remark]:
    """F791."""
    pairs = facts.num_train_pairs
    if not pairs or pairs >= FEW_TRAIN_PAIRS:
        return
    is_limited = facts.recipe.data.limit is not None and facts.recipe.data.limit <= pairs
    yield Remark(
        ("data", "limit") if is_limited else ("data", "train"),
        f"{_count(pairs, 'training pair')} will teach the model little",
        f"which of two answers is better is at most one bit, so that all of them say {_count(pairs, 'bit')} about what "
        "is wanted",
        "raise or remove `data.limit`" if is_limited else "add pairs to `data.train`, or take the run as a try",
    )


def check_passes(facts: JobFacts) -> Iterator[Remark]:
    """F792."""
    passes = facts.num_passes
    if passes is None or passes <= MANY_PASSES:
        return
    by_steps = facts.recipe.training.max_steps is not None
    number = f"each pair is seen {passes:.3g} times"
    if facts.trainable_parameters and facts.num_train_pairs:
        number += f", with {facts.trainable_parameters // facts.num_train_pairs:,} trained parameters to keep it in"
    three = "" if not by_steps else f": {int(MANY_PASSES) * (facts.num_epoch_steps or 1):,} steps are three passes"
    yield Remark(
        ("training", "max_steps") if by_steps else ("training", "num_epochs"),
        f"in {passes:.3g} passes the training pairs will be learned by heart",
        number,
        f"lower `max_steps`{three}" if by_steps else "write `num_epochs: 1`, at most 3, and watch the held-out loss",
    )


def check_lengths(facts: JobFacts) -> Iterator[Remark]:
    """F793."""
    cut, dropped = facts.truncated_share or 0.0, facts.dropped_overlong_share or 0.0
    if cut + dropped <= CUT_SHARE:
        return
    data = facts.recipe.data
    loss = "the end of an answer, and with it where to stop"
    if data.overlong != "truncate_completion_end":
        loss = "the beginning of the prompt"
    number = [f"{_percent(cut)} of the training pairs lose {loss}"] if cut else []
    number += [f"{_percent(dropped)} are dropped"] if dropped else []
    yield Remark(
        ("data", "max_length"),
        f"{data.max_length} tokens are too few for {_percent(cut + dropped)} of the training pairs",
        ", ".join(number),
        "raise `data.max_length`; `dpo-recipe data RECIPE` shows what another length would do",
    )


def check_batch(facts: JobFacts) -> Iterator[Remark]:
    """F794."""
    if facts.pairs_per_step > 1:
        return
    yield Remark(
        ("training", "gradient_accumulation_steps"),
        "each optimizer step sees a single pair",
        "the gradient of one pair is 8 times as noisy as that of 64 pairs, the batch of DPO's paper",
        "raise `gradient_accumulation_steps`, to 16 or 32: it costs no memory",
    )


def check_held_out(facts: JobFacts) -> Iterator[Remark]:
    """F795, for the held-out and for the test pairs. That nothing is held out is R390's matter."""
    enough = pairs_for_half_width(HALF_WIDTH)
    for part, pairs, noun in (("eval", facts.num_eval_pairs, "held-out"), ("test", facts.num_test_pairs, "test")):
        if not pairs or pairs >= enough:
            continue
        yield Remark(
            ("data", part),
            f"{_count(pairs, f'{noun} pair')} cannot tell two good models apart",
            f"at an accuracy of 50 % the 95 % interval is ± {_points(interval_half_width(pairs))} points, and "
            + _describe_difference(pairs),
            f"give `data.{part}` {enough} pairs or more",
        )


def check_beta(facts: JobFacts) -> Iterator[Remark]:
    """F796, for the loss as DPO's paper has it: in the others `beta` has other units (in `ipo` it is tau)."""
    beta = facts.recipe.objective.beta
    low, high = BETA_RANGE
    if "sigmoid" not in facts.losses or low <= beta <= high:
        return
    effect = "the model may drift far from the reference" if beta < low else "the model hardly leaves the reference"
    yield Remark(
        ("objective", "beta"),
        f"with a beta of {beta:g} {effect}",
        "the loss is content, at a margin of 2, when the answers' log-probabilities have moved apart by 2 / beta = "
        + (f"{2 / beta:,.0f} nats" if beta < low else f"{2 / beta:.2g} nats"),
        "start from `beta: 0.1`",
    )


def check_warmup(facts: JobFacts) -> Iterator[Remark]:
    """F797."""
    warmup, steps = facts.num_warmup_steps, facts.num_steps
    if not warmup or not steps or warmup <= LONG_WARMUP * steps:
        return
    number = f"the rate still rises in {warmup:,} of {steps:,} steps"
    yield Remark(
        ("training", "warmup_ratio"),
        "the warm-up takes most of the run" if warmup < steps else "the warm-up takes the whole run",
        number if steps > 1 else "the only step has half of the rate",
        "write `warmup_ratio: 0.1`" if steps > 1 else "train for more steps, or write `warmup_ratio: 0.0`",
    )


def check_keep_best(facts: JobFacts) -> Iterator[Remark]:
    """F799. transformers also evaluates at the end of an epoch that training stops in."""
    training, steps = facts.recipe.training, facts.num_steps
    if not facts.recipe.checkpoints.keep_best or training.eval_steps is None or steps is None:
        return
    first = facts.num_epoch_steps if training.eval_steps == "epoch" else training.eval_steps
    if first is None or first < steps:
        return
    yield Remark(
        ("checkpoints", "keep_best"),
        "the best model is chosen among one: the last will be saved",
        f"the first evaluation is after step {first:,}, and the run has {steps:,}",
        f"write `eval_steps: {max(1, steps // 4)}`" if steps > 1 else "train for more steps, or remove `keep_best`",
    )


def check_steps(facts: JobFacts) -> Iterator[Remark]:
    """F798."""
    training, steps = facts.recipe.training, facts.num_steps
    if steps is None or steps >= FEW_STEPS:
        return
    rate = training.learning_rate
    by_steps = training.max_steps is not None
    yield Remark(
        ("training", "max_steps") if by_steps else ("training", "gradient_accumulation_steps"),
        f"{_count(steps, 'optimizer step')} will hardly change the model",
        f"at {format_rate(rate)} a weight moves by about {format_rate(steps * rate)} at most",
        "raise or remove `max_steps`" if by_steps else "train on more pairs, or on fewer in each step",
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _describe_difference(pairs: int) -> str:
    """How far two runs must be apart to be told apart: paired where so many pairs can do that, and unpaired."""
    unpaired, paired = smallest_difference(pairs), smallest_difference(pairs, disagreement=DISAGREEMENT)
    own = f"{_points(unpaired)} points when each is measured on pairs of its own"
    if paired >= DISAGREEMENT:
        return f"two runs are told apart four times in five only from {own}"
    return (
        "two runs that rank one pair in five differently are told apart four times in five only from "
        f"{_points(paired)} points, or {own}"
    )
