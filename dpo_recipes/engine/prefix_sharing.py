"""Each distinct token of a batch goes through the model once.

A batch of preferences holds every prompt once for each of its K answers, and pads all rows to the longest. This module
wraps the forward of the model's backbone (the model without its head): the padded batch is packed into one row of
distinct tokens, computed, and its hidden states are laid out as the trainer expects them. The trainer, its losses,
metrics and head stay unchanged. With K = 1 nothing is shared and only padding is saved. docs/adr/0011-prefix-sharing.md
has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.attention import register
from dpo_recipes.engine.backbone import forward_packed, forward_padded
from dpo_recipes.engine.packing import (
    GroupLengths,
    measure_groups,
    num_positions,
    own_position_ids,
    split_by_padded_tokens,
)
from dpo_recipes.engine.prefix_trial import run_trial, unsupported_reason
from dpo_recipes.engine.row_names import LocateRow, name_row
from dpo_recipes.errors import RunError
from dpo_recipes.model.heads import is_encoder

Mode = Literal["auto", "on", "off"]

WORTH_PACKING = 0.97
"""Above this share of distinct positions a batch is computed padded: packing would cost more than it saves."""

_PLAIN_ARGUMENTS = {"input_ids", "attention_mask", "token_type_ids", "use_cache", "return_dict"}
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
    """Tokens of all groups, with the shared prefix of a group's rows counted once."""
    computed: int = 0
    """Computed positions: the distinct tokens of packed batches, all positions or those of the passes of others."""

    @property
    def share_saved(self) -> float:
        """The share of padded positions that were not computed; 0 before the first batch."""
        return 1 - self.computed / self.padded if self.padded else 0.0

    def count(self, lengths: GroupLengths, *, packed: bool, computed: int | None = None) -> None:
        """Add a batch. `computed` are the positions of a batch that was divided into passes without packing."""
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
    answers_per_group: int = 2
    """K: the rows i, i + B, i + 2B, ... of a batch of K·B rows begin with the same prompt."""
    refusal: str | None = None
    """Why the model is computed with padded rows, or None while sharing is possible."""
    left_refusal: str | None = None
    """Why batches with padding before the tokens are computed padded, or None while they can be packed."""
    exception: str | None = None
    """Why the first batch that could not be packed, although the model supports it, could not; None if all could."""
    on_message: Callable[[str], None] = lambda text: None
    """Called once with the message about the first such batch."""
    is_encoder: bool = False
    """Whether tokens attend to later ones, so that only the padded rows of a batch can be divided into passes."""
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
        # These arguments identify a trainer's batch; any other call is, for example, a step of generation. An encoder
        # does not generate, and some do not pass `use_cache` on.
        is_batch = self.is_encoder or kwargs.get("use_cache") is False
        if args or "input_ids" not in kwargs or not is_batch:
            return self.plain(*args, **kwargs)
        lengths = measure_groups(kwargs["input_ids"], kwargs.get("attention_mask"), self.answers_per_group)
        packs = self._packs(kwargs, lengths)
        if lengths is None:
            return self.plain(**kwargs)
        positions = self.trained if torch.is_grad_enabled() else self.measured
        if packs:
            positions.count(lengths, packed=True)
            return forward_packed(self.plain, kwargs["input_ids"], lengths, self.max_tokens_per_pass)
        # Other requested outputs, such as a mean over experts, concern the whole batch.
        has_more = _asked_for(kwargs)
        rows = lengths
        if lengths.starts is not None:
            if self.is_active and self.left_refusal is None and not has_more:
                # Tokens have the same positions whether their batch is packed or not. transformers counts padding too.
                kwargs["position_ids"] = own_position_ids(kwargs["attention_mask"])
            else:
                rows = lengths.with_padding_before()
        passes = split_by_padded_tokens(rows, None if has_more else self.max_tokens_per_pass)
        if len(passes) == 1:
            positions.count(lengths, packed=False)
            return self.plain(**kwargs)
        positions.count(lengths, packed=False, computed=sum(num_positions(rows, groups) for groups in passes))
        return forward_padded(self.plain, kwargs, rows, passes)

    def _packs(self, kwargs: dict[str, Any], lengths: GroupLengths | None) -> bool:
        """Whether a batch is packed. Records the reason if it cannot be.

        With the mode `on`, raises `RunError` T606 for that and for a failed trial."""
        if not self.is_active:
            return False
        if asked := _asked_for(kwargs):
            self._leave_out(f"the trainer asks for {', '.join(asked)}")
        elif lengths is None:
            self._leave_out(self._describe_rows(len(kwargs["input_ids"])))
        else:
            self._verify(kwargs["input_ids"].device)
            if lengths.starts is None or self.left_refusal is None:
                return self.is_active and is_worth_packing(sum(lengths.distinct), lengths.num_padded)
            self._leave_out(f"rows are padded on the left: {self.left_refusal}")
        return False

    def _describe_rows(self, num_rows: int) -> str:
        """Why the lengths of a batch cannot be measured."""
        if num_rows % self.answers_per_group:
            return f"their number of rows ({num_rows}) is not a multiple of the {self.answers_per_group} answers"
        return "the tokens of a row are interrupted by padding"

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
        trial = run_trial(self.backbone, self.plain, device, self.answers_per_group)
        self.refusal, self.left_refusal = trial.refusal, trial.left_refusal
        if self.refusal and self.mode == "on":
            raise refused(self.refusal)


def share_prefixes(
    model: Any, mode: Mode, max_tokens_per_pass: int | None = None, answers_per_group: int = 2
) -> PrefixSharing:
    """Wrap the forward of the model's backbone; `model` may have an adapter already or get one later.

    `answers_per_group` is the number K of answers to each prompt in a batch of K·B rows. Raises `RunError` T606 if the
    mode is `on` and the model's configuration rules it out.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = base.base_model
    refusal = unsupported_reason(base)
    sharing = PrefixSharing(
        backbone, backbone.forward, mode, max_tokens_per_pass, answers_per_group, refusal,
        is_encoder=is_encoder(base.config),
    )  # fmt: skip
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


def check_longest_row(
    datasets: dict[str, Any], max_tokens: int | None, *, shares: bool, noun: str, locate: LocateRow | None = None
) -> None:
    """Raise `RunError` T607 if a row does not fit into one pass. Its prompt counts once if sharing it saves positions;
    otherwise each answer counts with the prompt and the length of the longest one. `noun` is what the objective calls a
    row."""
    if max_tokens is None:
        return
    for split, rows in datasets.items():
        lengths = row_lengths(rows)
        prompt, answers = lengths[:, 0], lengths[:, 1:]
        if not answers.size:  # prompts, whose answers are yet to be written
            continue
        distinct, padded = lengths.sum(axis=1), answers.shape[1] * (prompt + answers.max(axis=1))
        tokens = np.where(shares & (distinct <= WORTH_PACKING * padded), distinct, padded)
        too_long = np.flatnonzero(tokens > max_tokens)
        if len(too_long):
            named = name_row(rows, int(too_long[0]), split, noun=noun, locate=locate)
            counts = ""
            if not shares and answers.shape[1] > 1:
                counts = ", with its prompt counted for each answer, and padding, because prefixes are not shared"
            raise RunError.of(
                "T607",
                f"{named} has {tokens[too_long[0]]} tokens, more than `training.max_tokens_per_pass`",
                why=f"it is {max_tokens}, and each {noun} goes through the model in one piece{counts}",
                fix=f"raise it to {tokens.max()}, which all {noun}s of `{split}` fit, or lower `data.max_length`",
            )
