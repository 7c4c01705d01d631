"""Whether a model can be computed in packed rows: what its configuration says, and a trial on the model itself."""

from __future__ import annotations

from typing import Any

import torch

from dpo_recipes.engine.attention import STANDS_IN_FOR, UnsupportedAttentionError, compute_packed
from dpo_recipes.engine.packing import measure_pairs, pack

_OTHER_STATE = ("linear_attention", "chunked_attention", "mamba", "recurrent", "conv")
"""Kinds of layers, as `layer_types` of transformers 5.23's configurations names them, whose tokens do not meet their
past by causal attention alone."""
_CHOOSES_KEYS = ("sparse", "compressed", "indexed")
"""Kinds of layers, named there too, whose queries look at some of the keys before them, which they learn to choose.
Within the few tokens of the trial they look at all."""
_HOW_MANY_KEYS = ("index_topk", "sparse_topk")
"""What settings of such attention begin with, also where all layers have it and no kind is named."""
_TRIAL_ROWS = ((9, 4, 7), (5, 12, 1), (0, 3, 6))
"""Lengths of prefix, chosen and rejected tail of the trial's pairs."""
_TOLERANCE = {32: 1e-4, 16: 5e-2}
"""Largest accepted ‖packed - plain‖ / ‖plain‖ by the bits of the precision computed in: rounding stays some ten times
below, and a mask or a position that is wrong makes it some tenths."""


def objection(model: Any) -> str | None:
    """What in a model's configuration speaks against packed rows; none where the trial shall decide."""
    config = model.config.get_text_config()
    attention = config._attn_implementation
    if attention not in STANDS_IN_FOR:
        return f"the model's attention is `{attention}`, and packed rows need {' or '.join(STANDS_IN_FOR)}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention scores are soft-capped"
    others = (*_OTHER_STATE, *_CHOOSES_KEYS)
    kinds = sorted(
        {kind for kind in getattr(config, "layer_types", None) or () if any(other in kind for other in others)}
    )
    if kinds:
        return f"it has layers of the kind {', '.join(kinds)}"
    chosen = [name for name, value in vars(config).items() if name.startswith(_HOW_MANY_KEYS) and value]
    if chosen:
        return f"its attention looks at chosen tokens alone (`{chosen[0]}`)"
    # What TRL 1.16's trainers decide by whether they ask for it.
    if hasattr(config, "output_router_logits") and getattr(config, "router_aux_loss_coef", 0.0) != 0.0:
        return "its balancing loss over the experts (`router_aux_loss_coef`) is a mean over all positions"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder and a decoder"
    return "it is not causal" if getattr(config, "is_causal", True) is False else None


@torch.no_grad()
def difference(backbone: Any, plain: Any, device: torch.device) -> str | None:
    """Why packed rows do not give what padded rows give; none where they do."""
    ids, mask = _trial_batch(backbone.config.get_text_config().vocab_size, device)
    lengths = measure_pairs(ids, mask)
    assert lengths is not None
    packing = pack(lengths, range(len(_TRIAL_ROWS)), device)
    packing.windows_seen = []
    training = [module for module in backbone.modules() if module.training]
    for module in training:
        module.training = False
    try:
        # A model that cannot be computed at all fails here, as it would without sharing.
        padded = plain(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        try:
            packed = packing.scatter(compute_packed(plain, ids, packing).last_hidden_state)
        except torch.OutOfMemoryError:
            raise
        except UnsupportedAttentionError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a model's code raises what it likes; the plain way stays open
            words = " ".join(str(error).split()) or "without a word"
            return f"its layers do not take a packed row ({type(error).__name__}: {words[:200]})"
    finally:
        for module in training:
            module.training = True
    windows = _missing_windows(backbone.config.get_text_config(), packing.windows_seen)
    if windows:
        return windows
    real = mask.bool()
    if not padded[real].isfinite().all():
        return "its hidden states are no finite numbers in padded rows either, so that nothing can be compared"
    apart = (padded[real].float() - packed[real].float()).norm() / padded[real].float().norm()
    if apart <= _TOLERANCE[_bits(backbone, device)]:
        return None
    return f"its hidden states in a packed row differ by {apart:.1%} from those in padded rows"


def _bits(backbone: Any, device: torch.device) -> int:
    """Bits of the lowest precision that the backbone computes in. Quantized bases round as coarsely as 16 do."""
    if getattr(backbone.config, "quantization_config", None) is not None:
        return 16
    lowered = [torch.get_autocast_dtype(device.type)] if torch.is_autocast_enabled(device.type) else []
    return 8 * min(dtype.itemsize for dtype in (backbone.dtype, torch.float32, *lowered))


def _missing_windows(config: Any, seen: list[int | None]) -> str | None:
    """The trial is shorter than most windows, so that a window which does not reach attention is looked for here."""
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(seen)
    if seen == [window if kind == "sliding_attention" else None for kind in kinds]:
        return None
    return f"its layers do not tell attention about the sliding window of {window} tokens"


def _trial_batch(num_ids: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, [2B, L], of pairs that are there to be told apart; the same in every process."""
    draw = torch.Generator().manual_seed(0)
    chosen_rows: list[torch.Tensor] = []
    rejected_rows: list[torch.Tensor] = []
    for lengths in _TRIAL_ROWS:
        shared, chosen, rejected = torch.randint(num_ids, (sum(lengths),), generator=draw).split(lengths)
        chosen_rows.append(torch.cat([shared, chosen]))
        rejected_rows.append(torch.cat([shared, rejected]))
    rows = [*chosen_rows, *rejected_rows]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids.to(device), mask.to(device)
