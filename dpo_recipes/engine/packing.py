"""Packs pairs of rows with a shared prefix into one row that contains each distinct token once.

Shapes: B pairs, 2B rows of L positions (row i chosen, row i + B rejected, padded on the right), T distinct tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch


class PackedPair(NamedTuple):
    """The place of a pair in the packed row: the chosen row from `start`, then the tail of the rejected row."""

    start: int
    prefix: int
    """The number of shared positions; the hidden state of the last one predicts the first token of both tails."""
    chosen: int
    """The length of the whole chosen row, including the prefix."""
    tail: int
    """The length of the rejected row without the prefix."""

    @property
    def stop(self) -> int:
        """The position where the next pair starts."""
        return self.start + self.chosen + self.tail


class AttentionSpan(NamedTuple):
    """Queries of consecutive positions and the keys that they attend to causally, aligned at their ends."""

    queries: int
    """The number of query positions; spans follow one another without gaps."""
    keys: tuple[tuple[int, int], ...]
    """Ranges (start, stop) of the packed row that hold the keys, in the order of their position ids."""

    @property
    def num_keys(self) -> int:
        """The total length of the ranges."""
        return sum(stop - start for start, stop in self.keys)


@dataclass
class Packing:
    """A packed row, and the mapping of its hidden states to the padded rows."""

    pairs: tuple[PackedPair, ...]
    source: torch.Tensor
    """[T]: for each token, its position among the 2B·L padded positions."""
    position_ids: torch.Tensor
    """[1, T]: each token's position in its own row."""
    target: torch.Tensor
    """[2B, L]: for each padded position, the position of its hidden state in the packed row; 0 for padding."""
    windows_seen: list[int | None] | None = None
    """If this is a list, each attention layer adds the window that it requests."""
    memo: dict[object, Any] = field(default_factory=dict[object, Any], repr=False)
    """Values that attention derives from the layout once and uses in every layer."""

    @property
    def num_tokens(self) -> int:
        """T, the number of distinct tokens."""
        return self.source.numel()

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """[2B, L] → [1, T]: each distinct token once."""
        return ids.reshape(-1).index_select(0, self.source)[None]

    def scatter(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, T, H] → [2B, L, H]; the values at padding have no meaning, as in the padded batch."""
        return hidden[0].index_select(0, self.target.reshape(-1)).reshape(*self.target.shape, hidden.shape[-1])

    def spans(self) -> Iterator[AttentionSpan]:
        """The spans of attention in packed order: for each pair the chosen row, then the rejected tail."""
        for pair in self.pairs:
            row_end = pair.start + pair.chosen
            if pair.chosen:
                yield AttentionSpan(pair.chosen, ((pair.start, row_end),))
            if pair.tail:
                pieces = ((pair.start, pair.start + pair.prefix), (row_end, pair.stop))
                yield AttentionSpan(pair.tail, tuple(piece for piece in pieces if piece[1] > piece[0]))


def all_spans(packing: Packing) -> tuple[AttentionSpan, ...]:
    """The spans of a packing, computed once and stored in it."""
    if "spans" not in packing.memo:
        packing.memo["spans"] = tuple(packing.spans())
    return packing.memo["spans"]


@dataclass(frozen=True)
class PairLengths:
    """Row and prefix lengths of a padded batch, as Python numbers."""

    prefix: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    width: int
    """L."""

    @property
    def distinct(self) -> tuple[int, ...]:
        """The number of distinct tokens of each pair."""
        return tuple(c + r - p for p, c, r in zip(self.prefix, self.chosen, self.rejected, strict=True))

    @property
    def num_padded(self) -> int:
        """2B·L, the number of positions that the padded batch computes."""
        return 2 * len(self.prefix) * self.width


def measure_pairs(ids: torch.Tensor, mask: torch.Tensor | None) -> PairLengths | None:
    """The lengths of the rows, and of the prefixes that rows i and i + B share, by comparing token ids.

    `ids` and `mask` are [2B, L]. None if the number of rows is odd or they are not padded on the right. Rows that are
    not a pair are handled correctly: they have a prefix of length 0. Copies one small tensor to the host, the only
    synchronization of a pass.
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
    prefix = same.int().cumprod(1, dtype=torch.int32).sum(1)  # MPS does not multiply 64-bit integers
    *numbers, right = torch.cat([prefix, lengths, is_right_padded.long()[None]]).tolist()
    if not right:
        return None
    half = rows // 2
    return PairLengths(tuple(numbers[:half]), tuple(numbers[half : 2 * half]), tuple(numbers[2 * half :]), width)


def pack(lengths: PairLengths, which: range, device: torch.device) -> Packing:
    """The packed row of some consecutive pairs; `source` indexes the rows of the whole batch, `target` has the rows of
    these pairs."""
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


def group_by_padded_tokens(lengths: PairLengths, max_tokens: int | None) -> list[range]:
    """Groups of consecutive pairs with at most `max_tokens` padded positions.

    Rows are padded to the longest of their group. A pair that is larger than that forms its own group.
    """
    return _group(len(lengths.prefix), max_tokens, partial(num_positions, lengths))


def num_positions(lengths: PairLengths, group: range) -> int:
    """The number of positions of some pairs' rows, padded to the longest row."""
    return 2 * len(group) * widest(lengths, group)


def widest(lengths: PairLengths, group: range) -> int:
    """The length of the longest row of some pairs, at least 1."""
    return max(1, *(max(lengths.chosen[index], lengths.rejected[index]) for index in group))


def group_by_tokens(distinct: tuple[int, ...], max_tokens: int | None) -> list[range]:
    """Groups of consecutive pairs with at most `max_tokens` distinct tokens; a longer pair forms its own group."""
    return _group(len(distinct), max_tokens, lambda group: sum(distinct[group.start : group.stop]))


def _group(num_pairs: int, max_tokens: int | None, tokens_of: Callable[[range], int]) -> list[range]:
    groups: list[range] = []
    first = 0
    for index in range(1, num_pairs):
        if max_tokens is not None and tokens_of(range(first, index + 1)) > max_tokens:
            groups.append(range(first, index))
            first = index
    return [*groups, range(first, num_pairs)]
