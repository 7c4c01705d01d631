"""Measures the speed of a run in distinct tokens: shared prefixes count once and padding does not count."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.prefix_sharing import Positions
from dpo_recipes.hardware.machine import peak_memory_bytes
from dpo_recipes.hardware.profiles import profile


class SpeedMeter:
    """Rates of training since its start, or since the previous row, summed over processes."""

    def __init__(self, positions: Positions, distributed: DistributedContext = SINGLE_PROCESS) -> None:
        self.positions = positions
        self.distributed = distributed
        self._since = (time.monotonic(), 0)

    def start(self) -> None:
        """Start counting."""
        self._since = (time.monotonic(), sum_positions(self.positions, self.distributed).distinct)

    def since_last(self) -> dict[str, float]:
        """Rates since the last call, for a row of metrics.jsonl; empty if nothing was counted.

        `positions_saved` is the share of padded positions that were not computed since the start of training;
        `peak_memory_bytes` is that of the process that needs most.
        """
        total, now = sum_positions(self.positions, self.distributed), time.monotonic()
        (peak,) = self.distributed.highest([peak_memory_bytes()])
        started, distinct = self._since
        if total.distinct == distinct or now <= started:
            return {}
        rate = (total.distinct - distinct) / (now - started)
        self._since = (now, total.distinct)
        return {
            "distinct_tokens_per_second": round(rate, 1),
            "positions_saved": round(total.share_saved, 4),
            "peak_memory_bytes": int(peak),
        }


def sum_positions(positions: Positions, distributed: DistributedContext) -> Positions:
    """The counts of all processes together."""
    return Positions(*(int(number) for number in distributed.total(list(asdict(positions).values()))))


def summarize(
    positions: Positions, runtime_s: float, flops_per_token: float, peak_flops: float | None
) -> dict[str, Any]:
    """The rates for result.json; None for unknown ones.

    `matmul_share` is the model's useful arithmetic divided by what the device could compute in that time at its rate
    for matrix products. Recomputation under checkpointing is not counted as useful.
    """
    if not positions.distinct:
        return {"distinct_tokens_per_second": None, "positions_saved": None, "matmul_share": None}
    rate = positions.distinct / runtime_s
    share = None if peak_flops is None else round(rate * flops_per_token / peak_flops, 4)
    return {
        "distinct_tokens_per_second": round(rate, 1),
        "positions_saved": round(positions.share_saved, 4),
        "matmul_share": share,
    }


_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_NUM_CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
"""In transformers 5.23's configurations, experts of a layer and those that each token goes through."""


def flops_per_token(model: Any, num_parameters: int, trainable: int) -> float:
    """Floating point operations of one distinct token's forward and backward pass through the backbone.

    These are two for each weight in the forward pass, two for the gradient of its input, and two for its own gradient
    if it is trained; for experts, only those that a token uses. The head, which only answers use, and attention scores
    are not counted, so that shares are rather too low.
    """
    embeddings = [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None]
    # Count parameters and not `weight`, which an adapter of added tokens computes; tied ones count once.
    largest = [max(module.parameters(), key=_size) for module in embeddings]
    ends = {id(weight): _size(weight) for weight in largest}
    trained_ends = {id(p): _size(p) for module in embeddings for p in module.parameters() if p.requires_grad}
    idle = 1 - _share_of_experts(model.config.get_text_config())
    experts = [(name, p) for name, p in model.named_parameters() if ".experts." in name] if idle else []
    body = num_parameters - sum(ends.values()) - idle * sum(_size(p) for name, p in experts if "lora_" not in name)
    trained = trainable - sum(trained_ends.values()) - idle * sum(_size(p) for _, p in experts if p.requires_grad)
    return 4.0 * body + 2.0 * min(max(trained, 0.0), body)


def _size(weight: Any) -> int:
    """The number of elements of a weight, also of a 4-bit one, which stores two in a byte, or one sharded by
    DeepSpeed."""
    stored = getattr(weight, "quant_state", None)
    return stored.shape.numel() if stored is not None else getattr(weight, "ds_numel", weight.numel())


def _share_of_experts(config: Any) -> float:
    total, chosen = (
        next((number for name in names if isinstance(number := getattr(config, name, None), int) and number), None)
        for names in (_NUM_EXPERTS, _NUM_CHOSEN)
    )
    return chosen / total if total and chosen else 1.0


def peak_flops(profile_name: str | None, dtype: str) -> float | None:
    """The data sheet's rate of the recipe's hardware profile in this precision, or None without a profile."""
    if profile_name is None:
        return None
    rate = profile(profile_name).matmul_tflops.get(dtype)
    return None if rate is None else rate * 1e12
