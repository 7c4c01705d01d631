"""Pairs of rows that begin alike, laid out in one row in which each distinct token stands once.

Shapes: B pairs, 2B rows of L positions (row i chosen, row i + B rejected, padded on the right), T distinct tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch


class PackedPair(NamedTuple):
    """Where one pair stands in the packed row: its chosen row from `start`, then the rejected row's tail."""

    start: int
    prefix: int
    """Positions that both rows share; the hidden state of the last of them predicts the first token of both tails."""
    chosen: int
    """Length of the whole chosen row, the prefix included."""
    tail: int
    """Length of the rejected row without the prefix."""

    @property
    def stop(self) -> int:
        """Where the next pair starts."""
        return self.start + self.chosen + self.tail


class AttentionSpan(NamedTuple):
    """Queries of consecutive positions, and the keys that they attend to causally, aligned at their ends."""

    queries: int
    """Number of query positions; spans follow one another without gaps."""
    keys: tuple[tuple[int, int], ...]
    """Pieces (start, stop) of the packed row that hold the keys, in the order of their position ids."""

    @property
    def num_keys(self) -> int:
        """Length of all pieces together."""
        return sum(stop - start for start, stop in self.keys)


@dataclass
class Packing:
    """A packed row, and the way back from its hidden states to those of the padded rows."""

    pairs: tuple[PackedPair, ...]
    source: torch.Tensor
    """[T]: which of the 2B·L padded positions each token is taken from."""
    position_ids: torch.Tensor
    """[1, T]: each token's position in its own row."""
    target: torch.Tensor
    """[2B, L]: where in the packed row each padded position finds its hidden state; padding points at position 0."""
    windows_seen: list[int | None] | None = None
    """Where this is a list, each layer that attends adds the window that it asks for."""
    memo: dict[object, Any] = field(default_factory=dict[object, Any], repr=False)
    """What attention derives from the layout once and uses in every layer."""

    @property
    def num_tokens(self) -> int:
        """T, the distinct tokens."""
        return self.source.numel()

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """[2B, L] → [1, T]: each distinct token once."""
        return ids.reshape(-1).index_select(0, self.source)[None]

    def scatter(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, T, H] → [2B, L, H]; what stands at padding means nothing, as in the padded batch."""
        return hidden[0].index_select(0, self.target.reshape(-1)).reshape(*self.target.shape, hidden.shape[-1])

    def spans(self) -> Iterator[AttentionSpan]:
        """The spans of attention in packed order: of each pair the chosen row, then the rejected tail."""
        for pair in self.pairs:
            row_end = pair.start + pair.chosen
            if pair.chosen:
                yield AttentionSpan(pair.chosen, ((pair.start, row_end),))
            if pair.tail:
                pieces = ((pair.start, pair.start + pair.prefix), (row_end, pair.stop))
                yield AttentionSpan(pair.tail, tuple(piece for piece in pieces if piece[1] > piece[0]))


def all_spans(packing: Packing) -> tuple[AttentionSpan, ...]:
    """A packing's spans; made once and kept with it."""
    if "spans" not in packing.memo:
        packing.memo["spans"] = tuple(packing.spans())
    return packing.memo["spans"]


@dataclass(frozen=True)
class PairLengths:
    """Row and prefix lengths of a padded batch, as plain numbers on the host."""

    prefix: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    width: int
    """L."""

    @property
    def distinct(self) -> tuple[int, ...]:
        """Distinct tokens of each pair."""
        return tuple(c + r - p for p, c, r in zip(self.prefix, self.chosen, self.rejected, strict=True))

    @property
    def num_padded(self) -> int:
        """2B·L, the positions that the padded batch computes."""
        return 2 * len(self.prefix) * self.width


def measure_pairs(ids: torch.Tensor, mask: torch.Tensor | None) -> PairLengths | None:
    """Lengths of the rows and of what rows i and i + B have in common, by comparing token ids.

    `ids` and `mask` are [2B, L]. None where the rows do not come in two halves or are not padded on the right. Rows
    that are no pair at all are measured rightly too: they have a prefix of length 0. Copies one small tensor to the
    host, the only synchronisation of a pass.
    """
    rows, width = ids.shape
    if rows % 2 or not width:
        return None
    if mask is None:
        mask = torch.ones_like(ids)
    valid = mask.bool()
    lengths = valid.sum(1)
    is_right_padded = (valid == (torch.arange(width, device=ids.device) < lengths[:, None])).all()
    chosen, rejected = ids.chunk(2)
    same = (chosen == rejected) & valid.chunk(2)[0] & valid.chunk(2)[1]
    prefix = same.int().cumprod(1, dtype=torch.int32).sum(1)  # MPS multiplies no 64-bit integers
    *numbers, right = torch.cat([prefix, lengths, is_right_padded.long()[None]]).tolist()
    if not right:
        return None
    half = rows // 2
    return PairLengths(tuple(numbers[:half]), tuple(numbers[half : 2 * half]), tuple(numbers[2 * half :]), width)


def pack(lengths: PairLengths, which: range, device: torch.device) -> Packing:
    """The packed row of some consecutive pairs; `source` and `target` index the whole batch's and these pairs' rows."""
    half = len(lengths.prefix)
    pairs: list[PackedPair] = []
    source: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    target = torch.zeros(2, len(which), lengths.width, dtype=torch.long)
    start = 0
    for number, index in enumerate(which):
        prefix, chosen, rejected = lengths.prefix[index], lengths.chosen[index], lengths.rejected[index]
        row, tail = torch.arange(chosen), torch.arange(prefix, rejected)
        source += [index * lengths.width + row, (index + half) * lengths.width + tail]
        positions += [row, tail]
        target[0, number, :chosen] = start + row
        target[1, number, :prefix] = start + row[:prefix]
        target[1, number, prefix:rejected] = start + chosen - prefix + tail
        pairs.append(PackedPair(start, prefix, chosen, rejected - prefix))
        start = pairs[-1].stop
    return Packing(
        tuple(pairs),
        torch.cat(source).to(device, non_blocking=True),
        torch.cat(positions)[None].to(device, non_blocking=True),
        target.flatten(0, 1).to(device, non_blocking=True),
    )


def divide_padded(lengths: PairLengths, max_tokens: int | None) -> list[range]:
    """Consecutive pairs in groups whose rows, padded to the group's longest, have at most `max_tokens` positions; a
    longer pair stands alone."""
    return _group(len(lengths.prefix), max_tokens, partial(num_positions, lengths))


def num_positions(lengths: PairLengths, group: range) -> int:
    """Positions of some pairs' rows, padded to the longest of them."""
    return 2 * len(group) * widest(lengths, group)


def widest(lengths: PairLengths, group: range) -> int:
    """The longest row of some pairs, 1 at least."""
    return max(1, *(max(lengths.chosen[index], lengths.rejected[index]) for index in group))


def divide(distinct: tuple[int, ...], max_tokens: int | None) -> list[range]:
    """Consecutive pairs in groups of at most `max_tokens` distinct tokens; a longer pair stands alone."""
    return _group(len(distinct), max_tokens, lambda group: sum(distinct[group.start : group.stop]))


def _group(num_pairs: int, max_tokens: int | None, tokens_of: Callable[[range], int]) -> list[range]:
    groups: list[range] = []
    first = 0
    for index in range(1, num_pairs):
        if max_tokens is not None and tokens_of(range(first, index + 1)) > max_tokens:
            groups.append(range(first, index))
            first = index
    return [*groups, range(first, num_pairs)]
