"""Predicts the time of a job: the roofline's time of a micro-batch, times their number."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.planner.rollout import RolloutCost, rollout_seconds
from dpo_recipes.fit.planner.workload import LengthTable
from dpo_recipes.fit.planner.writing import STEP_S
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights
from dpo_recipes.fit.simulation.passes import Batch, simulate
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.objectives import objective_of

_ANSWERS_AT_ONCE = 8
"""As evaluate/samples.py generates them."""


@dataclass(frozen=True)
class Duration:
    """Seconds of each stage after the data, on one device; None if the number of rows is not known."""

    step_s: float
    """One optimizer step."""
    step_flops: float
    stages_s: dict[str, float] | None
    flops: float | None
    """Multiplications and additions of the whole job."""

    @property
    def total_s(self) -> float | None:
        """All stages together."""
        return None if self.stages_s is None else sum(self.stages_s.values())


def estimate_duration(
    meta_model: MetaModel,
    weights: Weights,
    typical: LengthTable,
    facts: JobFacts,
    rates: Rates,
    rollout: RolloutCost | None = None,
) -> Duration:
    """The time of reference pass, training, evaluations and sample answers, from that of a typical micro-batch."""
    recipe = meta_model.recipe
    batch = Batch.of(*typical.T)
    forward = simulate(meta_model, batch, rates, trains=False)
    step_work = work_of(meta_model, batch, rates)
    size = len(typical)
    micro_batches = batch_of(recipe).rows_per_step / size
    objective = objective_of(recipe)
    reference = objective.reference(recipe.objective)
    # The optimizer reads and writes parameters, gradients and its state once.
    update_s = 5 * weights.trainable_bytes / rates.bandwidth
    step_s, step_flops = micro_batches * step_work.seconds + update_s, micro_batches * step_work.flops
    if facts.num_steps is None or facts.num_train_rows is None:
        return Duration(step_s, step_flops, None, None)
    row_s, row_flops = forward.seconds / size, forward.flops / size
    seen = min(facts.num_train_rows, facts.num_steps * facts.rows_per_step)
    held_out, tested = facts.num_eval_rows or 0, facts.num_test_rows or 0
    referenced = seen + held_out + tested if reference == "frozen" else 0
    evaluated = (2 + _evaluations(facts)) * held_out + 2 * tested
    if reference == "live":
        evaluated *= 2  # by the policy and by the reference
    num_samples = recipe.evaluation.num_samples if objective.head == "causal_lm" else 0
    each_eval = min(recipe.evaluation.samples_each_eval, num_samples)
    # Of the base, of the tuned model, and the samples of the drift.
    batches = 3 * -(-num_samples // _ANSWERS_AT_ONCE) + _evaluations(facts) * -(-each_eval // _ANSWERS_AT_ONCE)
    answers = batches * recipe.evaluation.max_new_tokens
    stages = {
        "reference": referenced / facts.num_processes * row_s,
        "training": facts.num_steps * step_s,
        "evaluation": evaluated / facts.num_processes * row_s,
        "samples": answers * (weights.base / rates.bandwidth + STEP_S),
    }
    if rollout is not None:
        # Both passes of an evaluation that need no gradient are short beside writing the answers.
        stages["generation"] = rollout_seconds(rollout, facts, evaluated)
    flops = facts.num_steps * facts.num_processes * step_flops + (referenced + evaluated) * row_flops
    return Duration(step_s, step_flops, stages, flops)


@dataclass(frozen=True)
class Work:
    """What a training micro-batch costs."""

    seconds: float
    flops: float


def work_of(meta_model: MetaModel, batch: Batch, rates: Rates) -> Work:
    """The work of a training micro-batch: forward and backward pass, and the pass of a reference that moves."""
    recipe, step = meta_model.recipe, simulate(meta_model, batch, rates)
    kind = objective_of(recipe).reference(recipe.objective)
    if kind not in ("live", "each_step"):
        return Work(step.seconds, step.flops)
    reference = simulate(meta_model, batch, rates, trains=False)
    passes = 1 if kind == "live" else 2  # of the reference, and of the policy before the step
    return Work(step.seconds + passes * reference.seconds, step.flops + passes * reference.flops)


def _evaluations(facts: JobFacts) -> int:
    """Evaluations during training; there are two more before and after it."""
    every, steps = facts.recipe.training.eval_steps, facts.num_steps or 0
    if every is None:
        return 0
    return int(facts.num_passes or 0) if every == "epoch" else steps // every
