"""How far the tuned model has moved from its base: the KL divergence, estimated on its own samples."""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft import PeftModel

from dpo_recipes.errors import Interrupted, in_one_line
from dpo_recipes.evaluate.passes import free_memory
from dpo_recipes.evaluate.samples import ChatModel, Samples, generate_ids
from dpo_recipes.events import EventLog
from dpo_recipes.model.adapters import starts_away_from_base, without_adapter
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.model.loading import lacks_memory
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_result import Drift


def drift_from_base(
    model: Any, recipe: Recipe, bundle: ModelBundle, samples: Samples, events: EventLog
) -> Drift | None:
    """The divergence of a trained model that one process has whole. Without enough memory for a base that must be
    loaded again there is none, and a note says so. No failure ends the run, because the model is not saved yet."""
    base = base_within(model)
    if samples.rows and not has_base(model, recipe):
        dtype = torch.float32 if recipe.model.adapter is None else getattr(torch, bundle.dtype)
        lack = lacks_memory(bundle.model_info["total_parameters"] * dtype.itemsize, bundle.device)
        if lack is not None:
            events.note(f"the drift from the base is not estimated: {lack}")
            return None
        events.stage("drift", "loading the base again")
        base = base_beside(model, recipe, bundle)
    try:
        return estimate_drift(
            model, bundle, samples.prompts(bundle), samples.max_new_tokens, seed=recipe.training.seed, base=base
        )
    except Interrupted:
        raise
    except Exception as error:  # loading a model may raise anything
        traceback.print_exc()
        events.note(f"the drift from the base is not estimated: {in_one_line(error)[:300]}")
        return None


@torch.no_grad()
def estimate_drift(
    model: Any,
    bundle: ChatModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    seed: int,
    base: AbstractContextManager[Any],
) -> Drift | None:
    """The KL divergence of the model from its base in nats, over answers of at most `max_new_tokens` tokens.

    The estimate is the mean of log π(y) - log π_base(y) over one answer y to each rendered prompt, sampled from the
    model at temperature 1. The random state is restored. `base` gives the base, after the model has computed its part.
    None without prompts.
    """
    if not prompts:
        return None
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        samples = generate_ids(
            model, bundle, prompts, max_new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
    tuned = [_log_probability(model, prompt, answer) for prompt, answer in samples]
    with base as before:
        nats = [own - _log_probability(before, *sample) for own, sample in zip(tuned, samples, strict=True)]
    num_tokens = sum(len(answer) for _, answer in samples)
    error = statistics.stdev(nats) / len(nats) ** 0.5 if len(nats) > 1 else None
    return Drift(
        nats_per_answer=round(statistics.fmean(nats), 4),
        standard_error=None if error is None else round(error, 4),
        nats_per_token=round(sum(nats) / max(1, num_tokens), 5),
        answers=len(nats),
        tokens=num_tokens,
    )


def has_base(model: Any, recipe: Recipe) -> bool:
    """Whether the model is its base when its adapter is switched off or replaced by the copy of its first state that
    TRL keeps as `ref`. Other models are tuned whole, or their adapter's initialization has changed the base."""
    if not isinstance(model, PeftModel):
        return False
    return "ref" in model.peft_config or not starts_away_from_base(recipe.model.adapter)


@contextmanager
def base_within(model: Any) -> Iterator[Any]:
    """The base of a model that has one (`has_base`): the model itself, with its adapter switched off or replaced."""
    with without_adapter(model):
        yield model


@contextmanager
def base_beside(model: Any, recipe: Recipe, bundle: ModelBundle) -> Iterator[Any]:
    """The base of another model, loaded again. It takes the place of the gradients, which the model no longer needs."""
    model.zero_grad(set_to_none=True)
    free_memory()
    base = reload_base(recipe, bundle, bundle.device).eval()
    try:
        yield base
    finally:
        del base
        free_memory()


def _log_probability(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The sum over the tokens of an answer. Rows are computed one by one, so that none is padded."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    # With `use_cache=False`, the engine would take a single row for a batch of a trainer.
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(answer, device=model.device)[:, None]
    return logits.float().log_softmax(-1).gather(1, chosen).sum().item()
