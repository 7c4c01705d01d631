"""Each distinct token of a preference batch goes through the model once.

A preference batch holds every prompt twice, before the chosen and before the rejected answer, and pads all rows to the
longest. This module wraps the forward of the model's backbone (the model without its head): the padded batch is packed
into one row of distinct tokens, computed, and its hidden states are laid out as the trainer expects them. The trainer,
its losses, metrics and head stay unchanged. docs/adr/0011-prefix-sharing.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import pad

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.attention import compute_packed, register
from dpo_recipes.engine.packing import (
    PairLengths,
    group_by_padded_tokens,
    group_by_tokens,
    measure_pairs,
    num_positions,
    pack,
    widest,
)
from dpo_recipes.engine.pair_names import Locate, name_pair
from dpo_recipes.engine.prefix_trial import difference, unsupported_reason
from dpo_recipes.errors import RunError

Mode = Literal["auto", "on", "off"]

WORTH_PACKING = 0.97
"""Above this share of distinct positions a batch is computed padded: packing would cost more than it saves."""

_PLAIN_ARGUMENTS = {"input_ids", "attention_mask", "use_cache", "return_dict"}
"""A batch with any other argument that is set is computed padded."""


def is_worth_packing(distinct: int, padded: int) -> bool:
    """Whether a batch with this number of distinct tokens is computed in packed rows rather than padded ones."""
    return 0 < distinct <= WORTH_PACKING * padded


@dataclass
class Positions:
    """The number of positions that went through the backbone, and the number without sharing."""

    batches: int = 0
    packed_batches: int = 0
    padded: int = 0
    """Positions of the padded batches, which a trainer without sharing computes."""
    distinct: int = 0
    """Tokens of all pairs, with the shared prefix of a pair's rows counted once."""
    computed: int = 0
    """Computed positions: the distinct tokens of packed batches, all positions or those of the groups of others."""

    @property
    def share_saved(self) -> float:
        """The share of padded positions that were not computed; 0 before the first batch."""
        return 1 - self.computed / self.padded if self.padded else 0.0

    def count(self, lengths: PairLengths, *, packed: bool, computed: int | None = None) -> None:
        """Add a batch. `computed` are the positions of a batch that was divided into groups without packing."""
        distinct = sum(lengths.distinct)
        self.batches += 1
        self.packed_batches += packed
        self.padded += lengths.num_padded
        self.distinct += distinct
        self.computed += distinct if packed else lengths.num_padded if computed is None else computed


@dataclass
class PrefixSharing:
    """Prefix sharing on one model: whether it is used, and what it saved."""

    backbone: Any
    plain: Any
    """The backbone's own forward."""
    mode: Mode
    max_tokens_per_pass: int | None = None
    refusal: str | None = None
    """Why the model is computed with padded rows, or None while sharing is possible."""
    exception: str | None = None
    """Why the first batch that could not be packed, although the model supports it, could not; None if all could."""
    on_message: Callable[[str], None] = lambda text: None
    """Called once with the message about the first such batch."""
    is_verified: bool = False
    """Whether a trial batch gave the same hidden states both ways, on this device and in this precision."""
    trained: Positions = field(default_factory=Positions)
    """Positions of training batches."""
    measured: Positions = field(default_factory=Positions)
    """Positions of all other batches: the reference pass and evaluations."""

    @property
    def is_active(self) -> bool:
        """Whether batches are packed when that saves positions."""
        return self.mode != "off" and self.refusal is None

    def describe(self) -> str:
        """A description of what is used."""
        if self.mode == "off":
            return "off"
        if self.refusal:
            return f"off: {self.refusal}"
        budget = f", at most {self.max_tokens_per_pass} tokens a pass" if self.max_tokens_per_pass else ""
        exception = f"; {self._describe_exception()}" if self.exception else ""
        return f"on{budget}{exception}"

    def _describe_exception(self) -> str:
        return f"batches were computed the plain way where {self.exception}"

    def remove(self) -> None:
        """Restore the backbone's own forward."""
        self.backbone.__dict__.pop("forward", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward that the model calls in place of the backbone's."""
        if (
            len(args) == 1 and "input_ids" not in kwargs
        ):  # a classification head, as of a reward model, passes the ids by position
            args, kwargs = (), {"input_ids": args[0], **kwargs}
        # These arguments identify a trainer's batch; any other call is, for example, a step of generation.
        if args or "input_ids" not in kwargs or kwargs.get("use_cache") is not False:
            return self.plain(*args, **kwargs)
        lengths = measure_pairs(kwargs["input_ids"], kwargs.get("attention_mask"))
        packs = self._packs(kwargs, lengths)
        if lengths is None:
            return self.plain(**kwargs)
        positions = self.trained if torch.is_grad_enabled() else self.measured
        if packs:
            positions.count(lengths, packed=True)
            return forward_packed(self.plain, kwargs["input_ids"], lengths, self.max_tokens_per_pass)
        # Other requested outputs, such as a mean over experts, concern the whole batch.
        groups = group_by_padded_tokens(lengths, None if _asked_for(kwargs) else self.max_tokens_per_pass)
        if len(groups) == 1:
            positions.count(lengths, packed=False)
            return self.plain(**kwargs)
        positions.count(lengths, packed=False, computed=sum(num_positions(lengths, group) for group in groups))
        return forward_padded(self.plain, kwargs, lengths, groups)

    def _packs(self, kwargs: dict[str, Any], lengths: PairLengths | None) -> bool:
        """Whether a batch is packed. Records the reason if it cannot be.

        With the mode `on`, raises `RunError` T606 for that and for a failed trial."""
        if not self.is_active:
            return False
        if asked := _asked_for(kwargs):
            self._leave_out(f"the trainer asks for {', '.join(asked)}")
        elif lengths is None:
            rows = len(kwargs["input_ids"])
            self._leave_out(f"their rows are no pairs ({rows} of them)" if rows % 2 else "rows are padded on the left")
        else:
            self._verify(kwargs["input_ids"].device)
            return self.refusal is None and is_worth_packing(sum(lengths.distinct), lengths.num_padded)
        return False

    def _leave_out(self, why: str) -> None:
        if self.exception is None:
            self.exception = why
            if self.mode == "on":
                raise refused(why, whose="a batch")
            self.on_message(f"prefixes are not shared in every batch: {self._describe_exception()}")

    def verify(self) -> None:
        """Run the trial now, on the model's present device, instead of before the first batch. Raises `RunError`
        T606."""
        if self.is_active:
            self._verify(next(self.backbone.parameters()).device)

    def _verify(self, device: torch.device) -> None:
        """Compute a trial batch both ways, once. Raises `RunError` T606 if they differ and the mode is `on`."""
        if self.is_verified:
            return
        self.is_verified = True
        self.refusal = difference(self.backbone, self.plain, device)
        if self.refusal and self.mode == "on":
            raise refused(self.refusal)


def share_prefixes(model: Any, mode: Mode, max_tokens_per_pass: int | None = None) -> PrefixSharing:
    """Wrap the forward of the model's backbone; `model` may have an adapter already or get one later.

    Raises `RunError` T606 if the mode is `on` and the model's configuration rules it out.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = base.base_model
    sharing = PrefixSharing(backbone, backbone.forward, mode, max_tokens_per_pass, refusal=unsupported_reason(base))
    if mode == "on" and sharing.refusal:
        raise refused(sharing.refusal)
    if sharing.is_active:
        register()
    backbone.forward = sharing.forward  # the wrapper also counts batches that are not shared
    return sharing


def _asked_for(kwargs: dict[str, Any]) -> list[str]:
    """The outputs that a batch requests beside its hidden states."""
    others = (name for name in kwargs if name not in _PLAIN_ARGUMENTS)
    return [f"`{name}`" for name in others if kwargs[name] is not None and kwargs[name] is not False]


def refused(why: str, whose: str = "this model") -> RunError:
    """The error for `training.prefix_sharing: on` with a model or a batch that does not support it."""
    return RunError.of(
        "T606",
        f"`training.prefix_sharing` is on, but {whose} cannot be computed that way",
        why=why,
        fix="write `prefix_sharing: auto`, which then computes padded rows and says so",
    )


def check_longest_pair(
    datasets: dict[str, Any], max_tokens: int | None, *, shares: bool, locate: Locate | None = None
) -> None:
    """Raise `RunError` T607 if a pair does not fit into one pass. Its prompt counts once if sharing it saves positions;
    otherwise both rows count with the length of the longer one."""
    if max_tokens is None:
        return
    for split, pairs in datasets.items():
        lengths = row_lengths(pairs)
        prompt, answers = lengths[:, 0], lengths[:, 1:]
        distinct, padded = lengths.sum(axis=1), answers.shape[1] * (prompt + answers.max(axis=1))
        tokens = np.where(shares & (distinct <= WORTH_PACKING * padded), distinct, padded)
        too_long = np.flatnonzero(tokens > max_tokens)
        if len(too_long):
            counts = "" if shares else ", prompt and padding counted twice because prefixes are not shared"
            raise RunError.of(
                "T607",
                f"{name_pair(pairs, int(too_long[0]), split, locate)} has {tokens[too_long[0]]} tokens, more than "
                "`training.max_tokens_per_pass`",
                why=f"it is {max_tokens}, and a pair goes through the model in one piece{counts}",
                fix=f"raise it to {tokens.max()}, which all pairs of `{split}` fit, or lower `data.max_length`",
            )


def forward_packed(plain: Any, ids: torch.Tensor, lengths: PairLengths, max_tokens: int | None) -> Any:
    """The backbone's output for a padded batch, computed in packed rows of at most `max_tokens` distinct tokens."""
    groups = group_by_tokens(lengths.distinct, max_tokens)
    outputs: Any = None
    hidden: list[torch.Tensor] = []
    for group in groups:
        packing = pack(lengths, group, ids.device)
        outputs = compute_packed(plain, ids, packing)
        hidden.append(packing.scatter(outputs.last_hidden_state))
    outputs.last_hidden_state = hidden[0] if len(hidden) == 1 else _join(hidden)
    return outputs


def forward_padded(plain: Any, kwargs: dict[str, Any], lengths: PairLengths, groups: list[range]) -> Any:
    """The backbone's output for a padded batch, computed in groups of pairs, each padded to its own longest row."""
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    outputs: Any = None
    hidden: list[torch.Tensor] = []
    for group in groups:
        width = widest(lengths, group)
        rows = [*group, *(len(lengths.prefix) + index for index in group)]
        of_group = {"input_ids": ids[rows, :width], "attention_mask": None if mask is None else mask[rows, :width]}
        outputs = plain(**{**kwargs, **of_group})
        hidden.append(pad(outputs.last_hidden_state, (0, 0, 0, lengths.width - width)))
    outputs.last_hidden_state = _join(hidden)
    return outputs


def _join(hidden: list[torch.Tensor]) -> torch.Tensor:
    """[2b, L, H] of each group → [2B, L, H], chosen rows before rejected ones."""
    halves = [part.chunk(2) for part in hidden]
    return torch.cat([chosen for chosen, _ in halves] + [rejected for _, rejected in halves])
