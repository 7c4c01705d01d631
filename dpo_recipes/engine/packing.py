"""Packs groups of rows with a shared prefix into one row that contains each distinct token once.

Shapes: B groups of K answers to one prompt each, K·B rows of L positions (rows i, i + B, i + 2B, ... are group i), T
distinct tokens. The real tokens of a row are one run of positions; padding may be before or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch


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


class PackedGroup(NamedTuple):
    """The place of a group in the packed row: the prefix from `start`, then the tails of its rows one after another."""

    start: int
    prefix: int
    """The number of shared positions; the hidden state of the last one predicts the first token of every tail."""
    tails: tuple[int, ...]
    """The lengths of the K rows without the prefix."""

    @property
    def stop(self) -> int:
        """The position where the next group starts."""
        return self.start + self.prefix + sum(self.tails)

    def spans(self) -> Iterator[AttentionSpan]:
        """The spans of attention in packed order: the whole first row, then each further tail after the prefix."""
        prefix = (self.start, self.start + self.prefix)
        end = prefix[1] + self.tails[0]
        if end > self.start:
            yield AttentionSpan(end - self.start, ((self.start, end),))
        for tail in self.tails[1:]:
            own = (end, end + tail)
            end += tail
            if tail:
                yield AttentionSpan(tail, (prefix, own) if self.prefix else (own,))


@dataclass
class Packing:
    """A packed row, and the mapping of its hidden states to the padded rows."""

    groups: tuple[PackedGroup, ...]
    source: torch.Tensor
    """[T]: for each token, its position among the K·B·L padded positions."""
    position_ids: torch.Tensor
    """[1, T]: each token's position in its own row."""
    target: torch.Tensor
    """[K·B, L]: for each padded position, the position of its hidden state in the packed row; 0 for padding."""
    windows_seen: list[int | None] | None = None
    """If this is a list, each attention layer adds the window that it requests."""
    memo: dict[object, Any] = field(default_factory=dict[object, Any], repr=False)
    """Values that attention derives from the layout once and uses in every layer."""

    @property
    def num_tokens(self) -> int:
        """T, the number of distinct tokens."""
        return self.source.numel()

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """[K·B, L] → [1, T]: each distinct token once."""
        return ids.reshape(-1).index_select(0, self.source)[None]

    def scatter(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, T, H] → [K·B, L, H]; the values at padding have no meaning, as in the padded batch."""
        return hidden[0].index_select(0, self.target.reshape(-1)).reshape(*self.target.shape, hidden.shape[-1])


def all_spans(packing: Packing) -> tuple[AttentionSpan, ...]:
    """The spans of a packing in packed order, computed once and stored in it."""
    if "spans" not in packing.memo:
        packing.memo["spans"] = tuple(span for group in packing.groups for span in group.spans())
    return packing.memo["spans"]


@dataclass(frozen=True)
class GroupLengths:
    """Row and prefix lengths of a padded batch, as Python numbers."""

    prefix: tuple[int, ...]
    """[B]: the number of tokens with which all rows of a group begin."""
    lengths: tuple[tuple[int, ...], ...]
    """[K][B]: the length of each row, including the prefix."""
    width: int
    """L."""
    starts: tuple[tuple[int, ...], ...] | None = None
    """[K][B]: the position of each row's first token. None if no row has padding before it."""

    @property
    def answers_per_group(self) -> int:
        """K."""
        return len(self.lengths)

    @property
    def distinct(self) -> tuple[int, ...]:
        """[B]: the number of distinct tokens of each group."""
        repeated = self.answers_per_group - 1
        return tuple(sum(rows) - repeated * prefix for prefix, *rows in zip(self.prefix, *self.lengths, strict=True))

    @property
    def num_padded(self) -> int:
        """K·B·L, the number of positions that the padded batch computes."""
        return self.answers_per_group * len(self.prefix) * self.width

    def start(self, answer: int, group: int) -> int:
        """The position of a row's first token."""
        return 0 if self.starts is None else self.starts[answer][group]

    def with_padding_before(self) -> GroupLengths:
        """The same rows with the padding before their first token counted as part of them, and nothing shared."""
        stops = tuple(
            tuple(self.start(answer, group) + length for group, length in enumerate(rows))
            for answer, rows in enumerate(self.lengths)
        )
        return GroupLengths((0,) * len(self.prefix), stops, self.width)

    def columns(self, groups: range) -> range:
        """The positions that hold the real tokens of some groups; at least one."""
        places = [(answer, group) for answer in range(self.answers_per_group) for group in groups]
        starts = [self.start(*place) for place in places if self.lengths[place[0]][place[1]]]
        stops = [self.start(answer, group) + self.lengths[answer][group] for answer, group in places]
        first = min(starts, default=0)
        return range(first, max(first + 1, *stops))


def measure_groups(ids: torch.Tensor, mask: torch.Tensor | None, answers_per_group: int) -> GroupLengths | None:
    """The lengths of the rows, and of the prefixes that the rows of each group share, by comparing token ids.

    `ids` and `mask` are [K·B, L]. None if the rows do not make whole groups, or if the real tokens of a row are not one
    run. Rows that are not answers to one prompt are handled correctly: their group has a prefix of length 0. Copies one
    small tensor to the host, the only synchronization of a pass.
    """
    rows, width = ids.shape
    if not rows or rows % answers_per_group or not width or (mask is not None and mask.shape != ids.shape):
        return None
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    columns = torch.arange(width, device=ids.device)
    lengths, starts = valid.sum(1), valid.int().argmax(1)
    own_position = columns - starts[:, None]
    is_one_run = (valid == ((own_position >= 0) & (own_position < lengths[:, None]))).all()
    from_first_token = ids.gather(1, (columns + starts[:, None]).clamp(max=width - 1))
    answers = from_first_token.reshape(answers_per_group, -1, width)
    shortest = lengths.reshape(answers_per_group, -1).amin(0)
    same = (answers == answers[:1]).all(0) & (columns < shortest[:, None])
    prefix = same.int().cumprod(1, dtype=torch.int32).sum(1)  # MPS does not multiply 64-bit integers
    *numbers, one_run = torch.cat([prefix, lengths, starts, is_one_run.long()[None]]).tolist()
    if not one_run:
        return None
    num_groups = rows // answers_per_group
    prefixes, *by_answer = (tuple(numbers[at : at + num_groups]) for at in range(0, len(numbers), num_groups))
    of_lengths, of_starts = by_answer[:answers_per_group], by_answer[answers_per_group:]
    return GroupLengths(prefixes, tuple(of_lengths), width, tuple(of_starts) if any(map(any, of_starts)) else None)


def own_position_ids(mask: torch.Tensor) -> torch.Tensor:
    """[rows, L]: for each real token its position in its own row, as in a packed row; the value at padding is the
    nearest one."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def pack(lengths: GroupLengths, which: range, device: torch.device) -> Packing:
    """The packed row of some consecutive groups; `source` indexes the rows of the whole batch, `target` has the rows of
    these groups."""
    num_answers, num_groups = lengths.answers_per_group, len(lengths.prefix)
    groups: list[PackedGroup] = []
    source: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    target = torch.zeros(num_answers, len(which), lengths.width, dtype=torch.long)
    start = 0
    for number, index in enumerate(which):
        prefix = lengths.prefix[index]
        tail_start = start + prefix
        for answer in range(num_answers):
            length, first = lengths.lengths[answer][index], lengths.start(answer, index)
            new = torch.arange(prefix if answer else 0, length)  # the first row brings the prefix
            source.append((answer * num_groups + index) * lengths.width + first + new)
            positions.append(new)
            own = target[answer, number, first : first + length]
            own[:prefix] = torch.arange(start, start + prefix)
            own[prefix:] = torch.arange(tail_start, tail_start + length - prefix)
            tail_start += length - prefix
        groups.append(PackedGroup(start, prefix, tuple(rows[index] - prefix for rows in lengths.lengths)))
        start = groups[-1].stop
    return Packing(
        tuple(groups),
        torch.cat(source).to(device, non_blocking=True),
        torch.cat(positions)[None].to(device, non_blocking=True),
        target.flatten(0, 1).to(device, non_blocking=True),
    )


def split_by_padded_tokens(lengths: GroupLengths, max_tokens: int | None) -> list[range]:
    """Passes of consecutive groups with at most `max_tokens` padded positions.

    Rows are padded to the longest of their pass. A group that is larger than that forms its own pass.
    """
    return _split(len(lengths.prefix), max_tokens, partial(num_positions, lengths))


def num_positions(lengths: GroupLengths, groups: range) -> int:
    """The number of positions of some groups' rows without the positions that are padding in all of them."""
    return lengths.answers_per_group * len(groups) * len(lengths.columns(groups))


def split_by_tokens(distinct: tuple[int, ...], max_tokens: int | None) -> list[range]:
    """Passes of consecutive groups with at most `max_tokens` distinct tokens; a longer group forms its own pass."""
    return _split(len(distinct), max_tokens, lambda groups: sum(distinct[groups.start : groups.stop]))


def _split(num_groups: int, max_tokens: int | None, tokens_of: Callable[[range], int]) -> list[range]:
    passes: list[range] = []
    first = 0
    for index in range(1, num_groups):
        if max_tokens is not None and tokens_of(range(first, index + 1)) > max_tokens:
            passes.append(range(first, index))
            first = index
    return [*passes, range(first, num_groups)]
