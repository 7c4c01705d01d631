"""(a) Prefix sharing against padded rows: hidden states and gradients, beside what 16 bits cost padded rows anyway.

Errors are relative norms against the same weights computed in 32 bits in padded rows. Sharing is right where its error
is not larger than that of padded rows by more than chance: `ratio` is the one over the other.
"""

from __future__ import annotations

import random
from typing import Any

import pairs as pair_source
from context import Context

_SIZES = dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, vocab_size=32000)
MODELS: dict[str, dict[str, Any]] = {
    "llama": dict(model_type="llama", num_attention_heads=16, num_key_value_heads=4, **_SIZES),
    "qwen2": dict(model_type="qwen2", **_SIZES | dict(num_attention_heads=14, num_key_value_heads=2, hidden_size=896)),
    "mistral, a window of 128": dict(
        model_type="mistral", num_attention_heads=16, num_key_value_heads=4, sliding_window=128, **_SIZES
    ),
    "gemma3, heads of 256": dict(
        model_type="gemma3_text", num_attention_heads=4, num_key_value_heads=1, head_dim=256, sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 2, **_SIZES,
    ),
    "gpt2": dict(model_type="gpt2", vocab_size=32000, n_embd=1024, n_layer=4, n_head=16, n_positions=1024),
}  # fmt: skip
WAYS = {
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
    "float32 weights under autocast in bfloat16": ("float32", "bfloat16"),
    "float32": ("float32", None),
}
"""By name the precision of the weights, and that of autocast."""
_LOSS_SCALE = 256.0
_MOST = {"float32": 1e-4}
"""In 32 bits there is no error of padded rows to compare with: the largest that rounding explains."""


def run(context: Context, name: str) -> None:
    """Compare for one model in all precisions, and in the first with activation checkpointing too."""
    import torch

    batch = _batch(context, torch.device(context.device.kind))
    for way in WAYS:
        context.record("sharing", f"{name}, {way}", _compare(context, name, way, batch))
    first = next(iter(WAYS))
    checkpointed = _compare(context, name, first, batch, checkpointing=True)
    context.record("sharing", f"{name}, {first}, checkpointed", checkpointed)


def _compare(context: Context, name: str, way: str, batch: Any, *, checkpointing: bool = False) -> dict[str, Any]:
    import torch

    from dpo_recipes.engine.versions import enable_checkpointing

    precision, autocast = WAYS[way]
    model = _model(context, name, precision)
    exact = _passes(_model(context, name, precision).float(), batch, None, shares=False)
    if checkpointing:
        enable_checkpointing(model, {"use_reentrant": False})
    model.train()
    padded = _passes(model, batch, autocast, shares=False)
    with _counted_kernels() as counted:
        shared = _passes(model, batch, autocast, shares=True)
    errors = {
        what: {"padded": _error(padded[what], exact[what]), "shared": _error(shared[what], exact[what])}
        for what in ("hidden", "gradients")
    }
    most = _MOST.get(way)
    for error in errors.values():
        error["ratio"] = error["shared"] / max(error["padded"], 1e-12)
        error["is_right"] = error["shared"] <= (most or 1.5 * error["padded"] + 1e-6)
    torch.cuda.empty_cache() if context.device.kind == "cuda" else None
    losses = {"loss_exact": exact["loss"], "loss_padded": padded["loss"], "loss_shared": shared["loss"]}
    return {**errors, **losses, "kernel_calls": counted["calls"], "sharing": shared["described"]}


def _model(context: Context, name: str, precision: str) -> Any:
    """The model with the same weights each time, rounded to a precision."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**_shrunk(MODELS[name]) if context.is_tiny else MODELS[name])
    torch.manual_seed(0)
    with torch.device(context.device.kind):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.to(getattr(torch, precision))


def _shrunk(settings: dict[str, Any]) -> dict[str, Any]:
    width = 4 * settings.get("num_attention_heads", 16)
    small = dict(hidden_size=width, intermediate_size=64, num_hidden_layers=2, vocab_size=256, head_dim=8, n_embd=64,
                 n_layer=2, layer_types=["sliding_attention", "full_attention"], sliding_window=16)  # fmt: skip
    return {key: small.get(key, value) for key, value in settings.items()}


def _batch(context: Context, device: Any) -> dict[str, Any]:
    """Eight pairs as TRL collates them: chosen rows, then rejected ones, padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    count, longest, vocab = (3, 24, 256) if context.is_tiny else (8, 384, 32000)
    rows, _ = pair_source.read_pairs(count, vocab, longest=longest)
    random.Random(0).shuffle(rows)
    texts = [row["prompt_ids"] + row["answer_ids"][number] for number in (0, 1) for row in rows]
    starts = torch.tensor([len(row["prompt_ids"]) for row in rows] * 2)
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    mask = pad_sequence([torch.ones(len(text), dtype=torch.long) for text in texts], batch_first=True)
    scored = (torch.arange(ids.shape[1] - 1) >= starts[:, None] - 1) & mask[:, 1:].bool()
    return {"ids": ids.to(device), "mask": mask.to(device), "scored": scored.to(device)}


def _passes(model: Any, batch: dict[str, Any], autocast: str | None, *, shares: bool) -> dict[str, Any]:
    """Hidden states of real positions, DPO's loss without a reference, and its gradients; sharing with its trial."""
    import torch
    from torch.nn.functional import logsigmoid

    from dpo_recipes.engine.prefix_sharing import share_prefixes

    ids, mask, scored = batch["ids"], batch["mask"], batch["scored"]
    sharing = share_prefixes(model, "on") if shares else None
    model.zero_grad(set_to_none=True)
    dtype = getattr(torch, autocast or "bfloat16")
    try:
        with torch.autocast(ids.device.type, dtype=dtype, enabled=autocast is not None):
            hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[:, :-1][scored])
        log_probs = logits.float().log_softmax(-1).gather(1, ids[:, 1:][scored][:, None])[:, 0]
        row = scored.nonzero()[:, 0]
        sums = torch.zeros(len(ids), device=ids.device).index_add(0, row, log_probs)
        chosen, rejected = sums.chunk(2)
        loss = -logsigmoid(0.1 * (chosen - rejected)).mean()
        (loss * _LOSS_SCALE).backward()
    finally:
        if sharing:
            sharing.remove()
    gradients = [p.grad.float().flatten() / _LOSS_SCALE for p in model.parameters() if p.grad is not None]
    return {
        "hidden": hidden.detach()[mask.bool()].float(),
        "gradients": torch.cat(gradients),
        "loss": loss.item(),
        "described": sharing.describe() if sharing else None,
    }


def _error(found: Any, exact: Any) -> float:
    return ((found - exact).norm() / exact.norm()).item()


class _counted_kernels:
    """Counts calls of the variable-length kernel, so that a comparison without it is seen to be one."""

    def __enter__(self) -> dict[str, int]:
        from dpo_recipes.engine import varlen

        self.module, self.own, counts = varlen, varlen.call_kernel, {"calls": 0}

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts["calls"] += 1
            return self.own(*args, **kwargs)

        varlen.call_kernel = counted
        return counts

    def __exit__(self, *_: object) -> None:
        self.module.call_kernel = self.own
