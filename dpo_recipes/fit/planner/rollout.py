"""What it costs, to first order, that a policy writes answers in training: memory for its cache, reward models, time.

The cache and the logits of the newest token follow from shapes. Writing a token reads all weights once, or computes two
operations for each of them and each answer, whichever takes longer, and the Python of a step costs a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.finished_run import open_run
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.planner.disk import ITEM_BYTES
from dpo_recipes.fit.planner.workload import LengthTable
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.model.stored import stored_weights
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.policy import PolicyParams
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.run_dir import RunDirectory

STEP_S = 0.02
"""The Python of a token's step: 30 layers of transformers on one core."""


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
    meta_model: MetaModel, weights: Weights, lengths: LengthTable, rates: Rates, device_bytes: int
) -> RolloutCost | None:
    """The cost for prompts and answers of these lengths, [rows, 1 + K], on a device with this memory; None if the
    policy writes none."""
    recipe = meta_model.recipe
    params = recipe.objective
    if not isinstance(params, PolicyParams):
        return None
    at_once, tokens = params.generation_batch_size, params.max_new_tokens
    prompt = int(lengths[:, 0].max())
    item = 4 if meta_model.autocast_dtype is None else 2
    config = meta_model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * item * at_once * (prompt + tokens)
    logits = 3 * 4 * config.vocab_size * at_once  # as they are, in 32 bits, and sorted
    parameters = [_num_parameters(source) for source in params.rewards if isinstance(source, ModelReward)]
    here = [
        _num_parameters(source) * ITEM_BYTES[meta_model.dtype if source.dtype == "auto" else source.dtype]
        for source in params.rewards
        if isinstance(source, ModelReward) and source.device in ("auto", meta_model.device)
    ]
    generation = params.generation
    python_s = 0.0 if generation.uses_vllm else STEP_S  # vLLM replays a recorded graph
    per_token = max(weights.base / rates.bandwidth, 2 * weights.num_base * at_once / rates.flops) + python_s
    count = params.num_generations
    writing = count / at_once * tokens * per_token
    scoring = count * 2 * sum(parameters) * (prompt + tokens) / rates.flops
    reserved = int(generation.gpu_memory_utilization * device_bytes) if generation.is_colocated else 0
    own = 0 if generation.uses_vllm else cache + logits
    return RolloutCost(own, sum(here), writing + scoring, reserved, generation.sleep)


def _num_parameters(source: ModelReward) -> int:
    """The parameters of a reward model; 0 if it is on the hub and not known yet."""
    path = Path(source.model)
    try:
        if RunDirectory(path).resolved_recipe.is_file():
            return open_run(path).result.model.total_parameters or 0
        stored = stored_weights(path) if path.is_dir() else None
    except DpoRecipeError:  # the run reports it when the reward model is loaded
        return 0
    return sum(weight.numel() for weight in (stored or {}).values())


def rollout_seconds(cost: RolloutCost | None, facts: JobFacts, num_evaluated: int) -> float:
    """The time of all rollouts of a run: in training, and on prompts of evaluations."""
    if cost is None or facts.num_steps is None:
        return 0.0
    repeats = objective_of(facts.recipe).steps_on_answers(facts.recipe.objective)
    prompts = math.ceil(facts.num_steps / repeats) * facts.rows_per_step + num_evaluated
    return prompts / facts.num_processes * cost.seconds_per_prompt
