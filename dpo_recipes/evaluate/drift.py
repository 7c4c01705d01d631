"""How far the tuned model has moved from its base: the KL divergence, estimated on its own samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.utils import use_adapter

from dpo_recipes.evaluate.samples import ChatModel, generate_ids
from dpo_recipes.run_result import Drift


@torch.no_grad()
def estimate_drift(
    model: Any, bundle: ChatModel, prompts: Sequence[str], max_new_tokens: int, *, seed: int, changes_base: bool
) -> Drift | None:
    """The KL divergence of the model from its base in nats, over answers of at most `max_new_tokens` tokens.

    The estimate is the mean of log π(y) - log π_base(y) over one answer y to each rendered prompt, sampled from the
    model at temperature 1. The random state is restored. None without prompts and for a model that no longer has its
    base: one that was tuned whole, or whose adapter has changed the weights of the base (`changes_base`).
    """
    if not prompts or not isinstance(model, PeftModel) or changes_base:
        return None
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        samples = generate_ids(
            model, bundle, prompts, max_new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
    nats: list[float] = []
    num_tokens = 0
    for prompt, answer in samples:
        tuned = _log_probability(model, prompt, answer)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            base = _log_probability(model, prompt, answer)
        nats.append(tuned - base)
        num_tokens += len(answer)
    error = statistics.stdev(nats) / len(nats) ** 0.5 if len(nats) > 1 else None
    mean = statistics.fmean(nats)
    return Drift(
        nats_per_answer=round(mean, 4),
        standard_error=None if error is None else round(error, 4),
        nats_per_token=round(sum(nats) / max(1, num_tokens), 5),
        answers=len(nats),
        tokens=num_tokens,
    )


def _log_probability(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The sum over the tokens of an answer. Rows are computed one by one, so that none is padded."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    # With `use_cache=False`, the engine would take a single row for a batch of a trainer.
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(answer, device=model.device)[:, None]
    return logits.float().log_softmax(-1).gather(1, chosen).sum().item()
