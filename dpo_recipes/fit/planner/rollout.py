"""What it costs, to first order, that a policy writes answers in training: its cache, reward models, and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.planner.reward_models import RewardModelPlan
from dpo_recipes.fit.planner.workload import LengthTable
from dpo_recipes.fit.planner.writing import STEP_S, cache_bytes, logits_bytes, token_s
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.policy import PolicyParams


@dataclass(frozen=True)
class RolloutCost:
    """What the rollouts of a recipe cost."""

    cache_bytes: int
    """Keys and values of the answers that are written at once, and the logits of their newest tokens; 0 with vLLM."""
    reward_bytes: int
    """The weights of reward models on the device of the run, as far as they are known."""
    seconds_per_prompt: float
    """For all answers to a prompt, and their rewards."""
    vllm_bytes: int = 0
    """What vLLM reserves on the device of the run, for its weights and its cache."""
    vllm_sleeps: bool = False
    """Whether it frees that during the steps of the optimizer."""


def rollout_cost(
    meta_model: MetaModel,
    weights: Weights,
    lengths: LengthTable,
    rates: Rates,
    device_bytes: int,
    reward_models: Sequence[RewardModelPlan] = (),
) -> RolloutCost | None:
    """The cost for prompts and answers of these lengths, [rows, 1 + K], on a device with this memory; None if the
    policy writes none."""
    recipe, config = meta_model.recipe, meta_model.config
    params = recipe.objective
    if not isinstance(params, PolicyParams):
        return None
    at_once, tokens = params.generation_batch_size, params.max_new_tokens
    prompt = int(lengths[:, 0].max())
    item = 4 if meta_model.autocast_dtype is None else 2
    cache = cache_bytes(config, at_once, prompt + tokens, item) + logits_bytes(config, at_once)
    here = [model.num_bytes for model in reward_models if model.meta_model.device == meta_model.device]
    generation = params.generation
    python_s = 0.0 if generation.uses_vllm else STEP_S  # vLLM replays a recorded graph
    count = params.num_generations
    writing = count / at_once * tokens * token_s(weights, at_once, rates, python_s)
    scoring = sum(model.seconds(count, prompt + tokens, rates) for model in reward_models)
    reserved = int(generation.gpu_memory_utilization * device_bytes) if generation.is_colocated else 0
    own = 0 if generation.uses_vllm else cache
    return RolloutCost(own, sum(here), writing + scoring, reserved, generation.sleep)


def rollout_seconds(cost: RolloutCost | None, facts: JobFacts, num_evaluated: int) -> float:
    """The time of all rollouts of a run: in training, and on prompts of evaluations."""
    if cost is None or facts.num_steps is None:
        return 0.0
    repeats = objective_of(facts.recipe).steps_on_answers(facts.recipe.objective)
    prompts = math.ceil(facts.num_steps / repeats) * facts.rows_per_step + num_evaluated
    return prompts / facts.num_processes * cost.seconds_per_prompt
