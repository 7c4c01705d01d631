"""FSDP2's sharding of the policy, done before training would do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch


def shard_policy(trainer: Any) -> Any:
    """The trainer's policy cut up among the processes, in place, as accelerate 1.15 does it when training begins, which
    then finds it done. The reference pass goes through it: no process needs room for the whole model or for a second.

    Trainable weights must have their precision by now, and the reference's be hashed.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule

    model, accelerator = trainer.model, trainer.accelerator
    if isinstance(model, FSDPModule):
        return model
    plugin = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        # accelerate would also round log-probabilities and the sums of gradients to 16 bits.
        exact = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None)
        plugin.mixed_precision_policy = exact
    sharded = fsdp2_prepare_model(accelerator, model)
    _gather_head(sharded)
    # In its first forward pass FSDP sees which weights are trained and in what precision. The reference pass would show
    # it an adapter that is switched off, and its 32-bit gradients would then not fit (torch 2.13).
    with torch.no_grad():
        sharded(input_ids=torch.zeros(1, 1, dtype=torch.long, device=accelerator.device))
    return sharded


def _gather_head(model: Any) -> None:
    """Have the LM head's weight gathered in time for TRL's head, which takes it without calling the module.

    TRL 1.16 would take the pieces together itself (`full_tensor`), and of the gradient each process would then keep its
    own part instead of the mean over all. It shows where an adapter comes with a head that is trained whole.
    """
    from torch.distributed.fsdp import FSDPModule

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    if isinstance(head, FSDPModule):
        base.base_model.register_forward_pre_hook(lambda *call: head.unshard())


def reshard(model: Any) -> None:
    """Bring all weights of a sharded model back into pieces, which are what an optimizer must be given.

    accelerate leaves the last norm and the LM head gathered after a forward pass.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
