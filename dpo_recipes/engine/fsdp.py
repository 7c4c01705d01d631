"""Shards the policy with FSDP2 before training would do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch


def shard_policy(trainer: Any) -> Any:
    """Shard the trainer's policy in place, as accelerate 1.15 does at the start of training, which then skips it.

    The reference pass goes through the shards, so no process needs memory for the whole model or a second one.
    Trainable weights must already have their precision, and the reference must already be hashed.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule

    model, accelerator = trainer.model, trainer.accelerator
    if isinstance(model, FSDPModule):
        return model
    plugin = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        # accelerate's defaults would round log-probabilities and sums of gradients to 16 bits.
        exact = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None)
        plugin.mixed_precision_policy = exact
    sharded = fsdp2_prepare_model(accelerator, model)
    _gather_head(sharded)
    # In its first forward pass FSDP records which weights are trained and in what precision. In the reference pass the
    # adapter is switched off, and its 32-bit gradients would then not fit (torch 2.13).
    with torch.no_grad():
        sharded(input_ids=torch.zeros(1, 1, dtype=torch.long, device=accelerator.device))
    return sharded


def _gather_head(model: Any) -> None:
    """Gather the LM head's weight in time for TRL's head, which reads it without calling the module.

    TRL 1.16 would gather the shards itself (`full_tensor`), and each process would then keep only its own part of the
    gradient instead of the mean over all. This matters if the head is trained whole beside an adapter.
    """
    from torch.distributed.fsdp import FSDPModule

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    if isinstance(head, FSDPModule):
        base.base_model.register_forward_pre_hook(lambda *call: head.unshard())


def reshard(model: Any) -> None:
    """Shard all weights of a model again, because an optimizer must be given the shards.

    accelerate leaves the last norm and the LM head gathered after a forward pass.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
