"""Decides whether a model can be computed in packed rows, from its configuration and by a trial on the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from dpo_recipes.engine.attention import STANDS_IN_FOR, UnsupportedAttentionError
from dpo_recipes.engine.backbone import compute_packed, in_evaluation_mode
from dpo_recipes.engine.packing import Packing, measure_groups, own_position_ids, pack
from dpo_recipes.errors import is_lack_of_machine
from dpo_recipes.model.heads import is_encoder

_OTHER_STATE = ("linear_attention", "chunked_attention", "mamba", "recurrent", "conv")
"""Kinds of layers in the `layer_types` of transformers 5.23's configurations whose tokens depend on earlier ones not by
causal attention alone."""
_CHOOSES_KEYS = ("sparse", "compressed", "indexed")
"""Kinds of layers whose queries attend to a learned selection of earlier keys. Within the few tokens of the trial they
attend to all, so the trial cannot detect them."""
_HOW_MANY_KEYS = ("index_topk", "sparse_topk")
"""Prefixes of the settings of such attention, for models in which all layers have it and no kind is named."""
_TRIAL_PREFIXES = (9, 5, 0)
"""Lengths of the prefixes of the trial's groups."""
_TRIAL_TAILS = ((4, 7, 2), (12, 1, 5), (3, 6, 8))
"""Lengths of the tails of each group; groups of more answers repeat them."""
_TOLERANCE = {32: 1e-4, 16: 5e-2}
"""Largest accepted ‖packed - plain‖ / ‖plain‖ by the bits of the precision. Rounding is about ten times smaller, and a
wrong mask or position gives some tenths."""


def unsupported_reason(model: Any) -> str | None:
    """Why a model's configuration rules out packed rows, or None if the trial must decide."""
    if is_encoder(model.config):
        return "it is an encoder, whose tokens attend to later ones, too"
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
    # TRL 1.16's trainers request the balancing loss if this is set.
    if hasattr(config, "output_router_logits") and getattr(config, "router_aux_loss_coef", 0.0) != 0.0:
        return "its balancing loss over the experts (`router_aux_loss_coef`) is a mean over all positions"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder and a decoder"
    return "it is not causal" if getattr(config, "is_causal", True) is False else None


class Trial(NamedTuple):
    """The result of a trial."""

    refusal: str | None
    """Why no batch can be computed in packed rows, or None."""
    left_refusal: str | None
    """Why batches with padding before the tokens cannot be, or None. It is None if `refusal` is set."""


@torch.no_grad()
def run_trial(backbone: Any, plain: Any, device: torch.device, answers_per_group: int) -> Trial:
    """Compare the hidden states of groups of this size in a packed row with those in rows padded on either side."""
    rows = _trial_rows(backbone.config.get_text_config().vocab_size, answers_per_group)
    ids, mask = (tensor.to(device) for tensor in _padded(rows, "right"))
    lengths = measure_groups(ids, mask, answers_per_group)
    assert lengths is not None
    packing = pack(lengths, range(len(_TRIAL_PREFIXES)), device)
    packing.windows_seen = []
    with in_evaluation_mode(backbone):
        # A model that fails in any case fails here, as it would without sharing.
        padded = plain(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
        packed = _compute_packed(plain, ids, packing)
        if isinstance(packed, str):
            return Trial(packed, None)
        packed = packed[mask.bool()]
        windows = _missing_windows(backbone.config.get_text_config(), packing.windows_seen)
        refusal = windows or _difference(padded, packed, _bits(backbone, device))
        if refusal:
            return Trial(refusal, None)
        ids, mask = (tensor.to(device) for tensor in _padded(rows, "left"))
        batch = {"input_ids": ids, "attention_mask": mask, "position_ids": own_position_ids(mask)}
        padded = plain(**batch, use_cache=False).last_hidden_state[mask.bool()]
    return Trial(None, _difference(padded, packed, _bits(backbone, device)))


def _compute_packed(plain: Any, ids: torch.Tensor, packing: Packing) -> torch.Tensor | str:
    """The hidden states of padded rows, [K·B, L, H], computed in a packed row, or why that is impossible."""
    try:
        return packing.scatter(compute_packed(plain, ids, packing).last_hidden_state)
    except UnsupportedAttentionError as error:
        return str(error)
    except Exception as error:  # a model's code may raise anything; padded rows still work
        if is_lack_of_machine(error):
            raise
        words = " ".join(str(error).split()) or "without a message"
        return f"its layers do not take a packed row ({type(error).__name__}: {words[:200]})"


def _difference(padded: torch.Tensor, packed: torch.Tensor, bits: int) -> str | None:
    """A message if the hidden states of the same tokens, [tokens, H], differ by more than rounding."""
    if not padded.isfinite().all():
        return "its hidden states are not finite in padded rows either, so there is nothing to compare"
    apart = (padded.float() - packed.float()).norm() / padded.float().norm()
    if apart <= _TOLERANCE[bits]:
        return None
    return f"its hidden states in a packed row differ by {apart:.1%} from those in padded rows"


def _bits(backbone: Any, device: torch.device) -> int:
    """Bits of the lowest precision in which the backbone computes. Quantized bases round as coarsely as 16 bits."""
    if getattr(backbone.config, "quantization_config", None) is not None:
        return 16
    lowered = [torch.get_autocast_dtype(device.type)] if torch.is_autocast_enabled(device.type) else []
    return 8 * min(dtype.itemsize for dtype in (backbone.dtype, torch.float32, *lowered))


def _missing_windows(config: Any, seen: list[int | None]) -> str | None:
    """A message about a sliding window that does not reach attention. The trial is too short to detect that."""
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(seen)
    if seen == [window if kind == "sliding_attention" else None for kind in kinds]:
        return None
    return f"its layers do not pass the sliding window of {window} tokens to attention"


def _trial_rows(num_ids: int, answers_per_group: int) -> list[torch.Tensor]:
    """The token ids of the trial's rows, the first answers of all groups before the second ones; the same in every
    process."""
    draw = torch.Generator().manual_seed(0)
    by_answer: list[list[torch.Tensor]] = [[] for _ in range(answers_per_group)]
    for prefix, tails in zip(_TRIAL_PREFIXES, _TRIAL_TAILS, strict=True):
        lengths = [prefix, *(tails[answer % len(tails)] for answer in range(answers_per_group))]
        shared, *own = torch.randint(num_ids, (sum(lengths),), generator=draw).split(lengths)
        for rows, tail in zip(by_answer, own, strict=True):
            rows.append(torch.cat([shared, tail]))
    return [row for rows in by_answer for row in rows]


def _padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, [rows, L]."""
    ids = pad_sequence(rows, batch_first=True, padding_side=side)
    return ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
