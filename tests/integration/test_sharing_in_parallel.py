"""Prefix sharing below what spreads a model over processes: DDP, FSDP2, autocast. One process is enough to see that
the wrapped forward is still reached, and that gradients come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing import make_model, make_pairs
from torch import distributed

from dpo_recipes.engine.prefix_sharing import PrefixSharing, share_prefixes
from dpo_recipes.engine.versions import enable_checkpointing


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def _ddp(model: Any) -> Any:
    return torch.nn.parallel.DistributedDataParallel(model)


def _fsdp2(model: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in model.base_model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    pairs = make_pairs(4)
    rows = [torch.tensor(p["prompt_ids"] + p["answer_ids"][number]) for number in (0, 1) for p in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)


def _gradients(wrap: Callable[[Any], Any], *, shared: bool, checkpointing: bool) -> tuple[list[torch.Tensor], Any]:
    model = make_model().train()
    sharing: PrefixSharing | None = share_prefixes(model, "on") if shared else None
    if checkpointing:
        enable_checkpointing(model, {"use_reentrant": False})
    ids, mask = _batch()
    logits = wrap(model)(input_ids=ids, attention_mask=mask, use_cache=False).logits
    (logits * mask[..., None]).pow(2).mean().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in gradients], sharing  # type: ignore


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("wrap", [_ddp, _fsdp2])
@pytest.mark.usefixtures("process_group")
def test_wrapped_models_share_and_give_the_same_gradients(wrap: Callable[[Any], Any], checkpointing: bool) -> None:
    plain, _ = _gradients(lambda model: model, shared=False, checkpointing=False)
    ours, sharing = _gradients(wrap, shared=True, checkpointing=checkpointing)
    assert sharing.trained.packed_batches == 1
    assert len(plain) == len(ours) > 0
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_under_autocast_the_trial_allows_for_16_bits() -> None:
    model = make_model()
    sharing = share_prefixes(model, "on")
    ids, mask = _batch()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert sharing.is_verified
    plain = make_model().base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    real = mask.bool()
    assert (hidden[real] - plain[real]).norm() < 0.05 * plain[real].norm()
