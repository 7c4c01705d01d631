"""The checks of the rules in `rules`. Each reads one fact about a job and yields no remark if it is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpo_recipes.fit.advice.learning_rates import FAR, format_rate, usual_rates
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Advice, Objective, RowCounts, RowShape
from dpo_recipes.recipe.early_stopping_checks import AT as EARLY_STOPPING_AT
from dpo_recipes.recipe.early_stopping_checks import too_late
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.significance import interval_half_width, rows_for_half_width, smallest_difference

FEW_TRAIN_ROWS = 300
"""Fewer than ten steps with Zephyr's batch of 32, and less than a third of what Amazon's guide recommends."""
MANY_PASSES = 3.0
CUT_SHARE = 0.05
HALF_WIDTH = 0.05
"""Recipes are often compared by differences of a few points of accuracy, which a wider interval cannot show."""
DISAGREEMENT = 0.2
"""The assumed share of held-out rows on which two runs differ, for the smallest difference they can show."""
FEW_STEPS = 20
LONG_WARMUP = 0.5


_INFORMATION: dict[RowShape, str] = {
    "pair": "which of two answers is better is at most one bit of information: {bits} in total",
    "labelled": "whether an answer is good is at most one bit of information: {bits} in total",
    "completion": "LIMA, one of the smallest sets that gave a good assistant, has 1,000 (https://arxiv.org/abs/2305.11206)",
    "prompt": "the model learns from its answers to these prompts alone",
}
"""How much a row can teach, by its shape."""


@dataclass(frozen=True)
class Remark:
    """A doubtful value: its place in the recipe, a description, its arithmetic, and a way out."""

    at: DataPath
    what: str
    number: str
    fix: str


def check_learning_rate(facts: JobFacts) -> Iterator[Remark]:
    """F790, if the usual rates of the objective and the optimizer are known."""
    training = facts.recipe.training
    size = facts.trainable_parameters if facts.is_full else None
    rates = objective_of(facts.recipe).learning_rates(facts.recipe.objective)
    usual = rates and usual_rates(rates, training.optimizer, is_full=facts.is_full, num_parameters=size)
    if usual is None:
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
        f"a learning rate of {format_rate(training.learning_rate)} is far {side} the usual range for {tuning} on "
        f"{_learned_from(facts)}",
        f"usual with {training.optimizer} are {format_rate(usual.low)} to {format_rate(usual.high)}, and {distance}",
        f"start from `learning_rate: {format_rate(usual.start)}`",
    )


def check_row_count(facts: JobFacts) -> Iterator[Remark]:
    """F791."""
    rows, objective = facts.num_train_rows, objective_of(facts.recipe)
    if not rows or rows >= FEW_TRAIN_ROWS:
        return
    noun = objective.row_noun
    is_limited = facts.recipe.data.limit is not None and facts.recipe.data.limit <= rows
    yield Remark(
        ("data", "limit") if is_limited else ("data", "train"),
        f"{_count(rows, f'training {noun}')} will teach the model little",
        _INFORMATION[objective.rows].format(bits=_count(rows, "bit")),
        "raise or remove `data.limit`" if is_limited else f"add {noun}s to `data.train`, or treat the run as a trial",
    )


def check_num_passes(facts: JobFacts) -> Iterator[Remark]:
    """F792."""
    passes = facts.num_passes
    if passes is None or passes <= MANY_PASSES:
        return
    by_steps = facts.recipe.training.max_steps is not None
    noun = objective_of(facts.recipe).row_noun
    number = f"each {noun} is seen {passes:.3g} times"
    if facts.trainable_parameters and facts.num_train_rows:
        per_row = facts.trainable_parameters // facts.num_train_rows
        number += f", and there are {per_row:,} trained parameters per {noun}"
    three = "" if not by_steps else f": {int(MANY_PASSES) * (facts.num_epoch_steps or 1):,} steps are three passes"
    yield Remark(
        ("training", "max_steps") if by_steps else ("training", "num_epochs"),
        f"in {passes:.3g} passes the model will memorize the training {noun}s",
        number,
        f"lower `max_steps`{three}" if by_steps else "write `num_epochs: 1`, at most 3, and watch the held-out loss",
    )


def check_lengths(facts: JobFacts) -> Iterator[Remark]:
    """F793."""
    cut, dropped = facts.truncated_share or 0.0, facts.dropped_overlong_share or 0.0
    if cut + dropped <= CUT_SHARE:
        return
    data, noun = facts.recipe.data, objective_of(facts.recipe).row_noun
    loss = "the end of an answer, and with it the token that ends it"
    if data.overlong != "truncate_completion_end":
        loss = "the beginning of the prompt"
    number = [f"{_percent(cut)} of the training {noun}s lose {loss}"] if cut else []
    number += [f"{_percent(dropped)} are dropped"] if dropped else []
    yield Remark(
        ("data", "max_length"),
        f"{data.max_length} tokens are too few for {_percent(cut + dropped)} of the training {noun}s",
        ", ".join(number),
        "raise `data.max_length`; `dpo-recipe data RECIPE` shows the effect of other lengths",
    )


def check_batch(facts: JobFacts) -> Iterator[Remark]:
    """F794."""
    if facts.rows_per_step > 1:
        return
    objective = objective_of(facts.recipe)
    noun = objective.row_noun
    paper = ", the batch in the DPO paper" if objective.rows == "pair" else ""
    yield Remark(
        ("training", "gradient_accumulation_steps"),
        f"each optimizer step uses a single {noun}",
        f"the gradient of one {noun} is 8 times as noisy as that of 64 {noun}s{paper}",
        "raise `gradient_accumulation_steps` to 16 or 32, which needs no more memory",
    )


def check_held_out_count(facts: JobFacts) -> Iterator[Remark]:
    """F795, for the held-out and for the test rows. R390 warns if nothing is held out."""
    enough = rows_for_half_width(HALF_WIDTH)
    objective = objective_of(facts.recipe)
    if objective.rows == "prompt":  # rewards are no shares: how far they scatter is not known before
        return
    share = "an accuracy" if objective.rows == "pair" else "a share"
    for part, rows, kind in (("eval", facts.num_eval_rows, "held-out"), ("test", facts.num_test_rows, "test")):
        if not rows or rows >= enough:
            continue
        yield Remark(
            ("data", part),
            f"{_count(rows, f'{kind} {objective.row_noun}')} cannot distinguish two good models",
            f"at {share} of 50 % the 95 % interval is ± {_points(interval_half_width(rows))} points, and "
            + _describe_difference(rows, objective),
            f"hold out {enough} {objective.row_noun}s or more in `data.{part}`",
        )


def check_parameters(code: str, facts: JobFacts) -> Iterator[Remark]:
    """The advice of the objective with this code on its own parameters."""
    for advice in advice_of_objective(facts):
        if advice.code == code:
            yield Remark(advice.at, advice.what, advice.why, advice.fix)


def advice_of_objective(facts: JobFacts) -> Iterator[Advice]:
    """All advice of the objective, whatever its code."""
    counts = RowCounts(facts.num_train_rows, facts.num_desirable, facts.num_undesirable)
    return objective_of(facts.recipe).advise(facts.recipe, counts)


def check_warmup(facts: JobFacts) -> Iterator[Remark]:
    """F797."""
    warmup, steps = facts.num_warmup_steps, facts.num_steps
    if not warmup or not steps or warmup <= LONG_WARMUP * steps:
        return
    number = f"the learning rate rises over {warmup:,} steps, and there are {steps:,}"
    if steps == 1:
        number = f"the only step has 1 / {warmup + 1} of the learning rate"
    field, less = ("warmup_ratio", 0.1) if facts.recipe.training.warmup_steps is None else ("warmup_steps", steps // 10)
    yield Remark(
        ("training", field),
        "the warm-up takes most of the run" if warmup < steps else "the warm-up takes the whole run",
        number,
        f"write `{field}: {less}`" if steps > 1 else f"train for more steps, or write `{field}: 0`",
    )


def check_best_candidates(facts: JobFacts) -> Iterator[Remark]:
    """F799. transformers also evaluates at the end of the epoch in which training stops."""
    training, steps = facts.recipe.training, facts.num_steps
    if not facts.recipe.checkpoints.keep_best or training.eval_steps is None or steps is None:
        return
    first = facts.num_epoch_steps if training.eval_steps == "epoch" else training.eval_steps
    if first is None or first < steps:
        return
    yield Remark(
        ("checkpoints", "keep_best"),
        "only one model is evaluated, so `keep_best` saves the last one",
        f"the first evaluation is after step {first:,}, and the run has {steps:,}",
        f"write `eval_steps: {max(1, steps // 4)}`" if steps > 1 else "train for more steps, or remove `keep_best`",
    )


def check_patience(facts: JobFacts) -> Iterator[Remark]:
    """F781. Where the number of evaluations does not depend on the rows, validation warns (R397)."""
    found = too_late(facts.recipe, facts.num_evaluations)
    if found is not None and facts.num_eval_rows and facts.recipe.training.num_evaluations() is None:
        yield Remark(EARLY_STOPPING_AT, found.what, found.why, found.fix)


def check_steps(facts: JobFacts) -> Iterator[Remark]:
    """F798."""
    training, steps = facts.recipe.training, facts.num_steps
    if steps is None or steps >= FEW_STEPS:
        return
    rate, noun = training.learning_rate, objective_of(facts.recipe).row_noun
    by_steps = training.max_steps is not None
    yield Remark(
        ("training", "max_steps") if by_steps else ("training", "gradient_accumulation_steps"),
        f"{_count(steps, 'optimizer step')} will hardly change the model",
        f"at {format_rate(rate)} a weight moves by about {format_rate(steps * rate)} at most",
        "raise or remove `max_steps`" if by_steps else f"train on more {noun}s, or on fewer in each step",
    )


def _learned_from(facts: JobFacts) -> str:
    return "completions" if objective_of(facts.recipe).rows == "completion" else "preferences"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _describe_difference(rows: int, objective: Objective) -> str:
    """The smallest differences between two runs that can be detected: on rows of their own, and on the same rows if
    that number of rows suffices."""
    noun, do = objective.row_noun, "rank" if objective.rows == "pair" else "answer"
    unpaired, paired = smallest_difference(rows), smallest_difference(rows, disagreement=DISAGREEMENT)
    own = f"{_points(unpaired)} points when each is measured on {noun}s of its own"
    if paired >= DISAGREEMENT:
        return f"two runs are distinguished four times in five only if they differ by {own}"
    return (
        f"two runs that {do} one {noun} in five differently are distinguished four times in five only if they differ "
        f"by {_points(paired)} points, or {own}"
    )
