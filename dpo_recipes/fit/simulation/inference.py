"""What a model without weights takes to score given answers and to write new ones, as `evaluate` does both: in padded
rows, without gradients, and with transformers' own head."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dpo_recipes.fit.simulation.meta_model import MetaModel, materialize, quiet
from dpo_recipes.fit.simulation.passes import attention_mask, extrapolated
from dpo_recipes.fit.simulation.trace import Rates, Trace, Tracer


def simulate_reading(meta_model: MetaModel, num_rows: int, width: int, num_scored: int, rates: Rates) -> Trace:
    """A pass over padded rows, [num_rows, width], of which the head meets the last `num_scored` positions; as
    evaluate/logps.py computes log-probabilities, and with one position as the pass over the prompts before the first
    token of an answer."""

    def trace(num_layers: int | None) -> Trace:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with quiet():
            model = meta_model.build(num_layers)
            resident = materialize(model, mode)
            model.eval()
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            with mode, torch.no_grad():
                ids = torch.zeros((num_rows, width), dtype=torch.long)
                tracer = Tracer([*resident, ids], rates)
                with tracer:
                    _score(base, ids, attention_mask(meta_model, num_rows, width), num_scored)
        return tracer.result()

    return extrapolated(meta_model, trace)


def _score(base: Any, ids: torch.Tensor, mask: torch.Tensor, num_scored: int) -> None:
    hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = base.get_output_embeddings()(hidden[:, -num_scored:])
    del hidden
    row = logits[0].float()  # one row after the other
    (row - row.amax(-1, keepdim=True)).exp().sum(-1)  # what `logsumexp` keeps inside
