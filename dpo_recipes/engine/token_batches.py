"""Micro-batches by tokens: divides the rows of each optimizer step into as few passes as a token budget allows.

A row is a prompt with its K answers. The trainer gets all rows of a step as one batch. Its data loader returns the
passes that one process computes. Rows are assigned longest first, so that each process has the same number of passes of
about equal size. A step has the same rows as with micro-batches of a fixed number of rows, and its loss is the mean
over them. The losses differ only if an epoch ends with a short micro-batch, whose rows the trainer weights more.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from accelerate.utils import DistributedType
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from dpo_recipes.data.lengths import row_lengths, trained_lengths
from dpo_recipes.engine.parallel import ParallelBatches
from dpo_recipes.engine.prefix_sharing import is_worth_packing
from dpo_recipes.engine.rounds import ROUND, RoundCollator, RowsOfRank

PASSES = "passes"
"""The key of a step's micro-batches in its batch."""
MOST_PADDED = 3
"""The maximum of a pass's padded positions, as a multiple of its budget.

The head gets hidden states in padded rows; a row of thousands of tokens must not pad a hundred short ones to its
length.
"""
Lengths = Sequence[tuple[int, ...]]
"""The number of tokens in the prompt and in each of the K answers of every row."""


class _Filling:
    """A pass to which rows are added, and its cost."""

    def __init__(self, max_tokens: int, *, shares: bool) -> None:
        self.places: list[int] = []
        self._max_tokens = max_tokens
        self._shares = shares
        self._distinct = self._width = 0

    def add(self, place: int, row: tuple[int, ...]) -> bool:
        """Add a row if it fits into the budget; the first one always does. Returns whether it was added."""
        prompt, *answers = row
        distinct = self._distinct + sum(row)
        width = max(self._width, prompt + max(answers))
        padded = len(answers) * (len(self.places) + 1) * width
        computed = distinct if self._shares and is_worth_packing(distinct, padded) else padded
        if self.places and (computed > self._max_tokens or padded > MOST_PADDED * self._max_tokens):
            return False
        self.places.append(place)
        self._distinct, self._width = distinct, width
        return True


def fill(lengths: Lengths, max_tokens: int, *, shares: bool) -> list[list[int]]:
    """The rows, by index, that go through the model in each pass.

    Rows are assigned longest first, with at most `max_tokens` in each pass; a longer row has its own pass. `shares`
    says whether a row's prompt is computed once, without padding.
    """
    passes: list[_Filling] = []
    for place in _longest_first(lengths):
        if not passes or not passes[-1].add(place, lengths[place]):
            passes.append(_Filling(max_tokens, shares=shares))
            passes[-1].add(place, lengths[place])
    return [pass_.places for pass_ in passes]


def fullest(lengths: Lengths, max_tokens: int, max_rows: int, *, shares: bool) -> list[int]:
    """The rows, by index, of the largest pass that can occur in a step of `max_rows`."""
    pass_ = _Filling(max_tokens, shares=shares)
    for place in _longest_first(lengths):
        if pass_.add(place, lengths[place]) and len(pass_.places) == max_rows:
            break
    return pass_.places


def _longest_first(lengths: Lengths) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: -sum(lengths[place]))


def as_lengths(array: Any) -> Lengths:
    """The lengths of `data.lengths`, [rows, 1 + K] or [rows, K], as Python numbers."""
    return [tuple(row) for row in array.tolist()]


def shard_passes(lengths: Lengths, max_tokens: int, num_processes: int, *, shares: bool) -> list[list[int]]:
    """The passes of `fill` for several processes: the smallest multiple of their number, largest pass first.

    The passes have about equal size. If there are more passes than rows, the last ones are empty.
    """
    passes = fill(lengths, max_tokens, shares=shares)
    if num_processes == 1:
        return passes
    count = -(-len(passes) // num_processes) * num_processes
    low, high = 1, max_tokens
    while low < high:  # finds the smallest budget that needs at most `count` passes
        middle = (low + high) // 2
        low, high = (low, middle) if len(fill(lengths, middle, shares=shares)) <= count else (middle + 1, high)
    passes = fill(lengths, high, shares=shares)

    def num_tokens(pass_: list[int]) -> int:
        return sum(sum(lengths[place]) for place in pass_)

    while len(passes) < count and any(len(pass_) > 1 for pass_ in passes):
        largest = max((pass_ for pass_ in passes if len(pass_) > 1), key=num_tokens)
        passes.remove(largest)
        passes += [largest[::2], largest[1::2]]
    empty: list[list[int]] = [[] for _ in range(count - len(passes))]
    return sorted(passes, key=num_tokens, reverse=True) + empty


@dataclass(frozen=True)
class Pass:
    """One pass of each process; it replaces a `Round` of equal micro-batches."""

    number: int
    """The index of the pass among those of its process in the step."""
    sizes: tuple[int, ...]
    """The number of pairs of each process; 0 for a process without pairs, which computes a pair that does not count."""
    pairs_in_step: int
    num_tokens: tuple[int, ...]
    """For each of the K answers, the number of its trained tokens in the rows of all processes."""
    num_batches = 1
    """The weight of the pass in metrics before `TokenBatches` has weighted the step's passes."""

    @property
    def is_even(self) -> bool:
        """Whether all processes have the same number of pairs."""
        return len(set(self.sizes)) == 1

    def weight_in(self, metric: str) -> int:
        """The number of items that a metric of TRL 1.16's DPOTrainer averages in this pass: answer tokens or pairs."""
        of_tokens = {"entropy": sum(self.num_tokens), "mean_token_accuracy": self.num_tokens[0]}
        of_tokens |= {"logits/chosen": self.num_tokens[0], "logits/rejected": self.num_tokens[-1]}
        return of_tokens.get(metric, sum(self.sizes))

    def row_weight(self, rank: int) -> float:
        """1, because each pair has the same weight in a mean over all rows."""
        return 1.0

    def weight_of(self, rank: int) -> float:
        """The factor of one process's loss, a mean over its pairs.

        Gradients are averaged over processes and added over passes.
        """
        return self.sizes[rank] * len(self.sizes) / self.pairs_in_step


class StepIndices(list[int]):
    """The indices of the pairs that one process computes in an optimizer step, in the order of passes."""

    passes: list[Pass]
    """The pass of each pair."""


class StepSampler(BatchRebalanceSampler):
    """Yields the share of one process in each optimizer step of an epoch.

    Only the type of the base class is used: transformers 5.23 treats such a sampler as one that knows its rank.
    """

    drop_last = False

    def __init__(
        self, lengths: Lengths, pairs_per_step: int, max_tokens: int, num_processes: int, rank: int, *, shares: bool,
        trained: Sequence[tuple[int, ...]] | None = None,
    ) -> None:  # fmt: skip
        self.lengths = lengths
        self.trained = trained or [row[1:] for row in lengths]
        """The number of tokens of each answer in the loss; by default all tokens."""
        self.pairs_per_step = pairs_per_step
        self.max_tokens = max_tokens
        self.num_processes = num_processes
        self.rank = rank
        self.shares = shares
        self.sampler: Any = RandomSampler(range(len(self.lengths)))
        """The order of pairs; accelerate replaces it by one that depends on the seed and the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order of pairs."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.pairs_per_step)

    def __iter__(self) -> Generator[StepIndices]:
        for pairs in BatchSampler(self.sampler, self.pairs_per_step, drop_last=False):
            yield self._share(pairs)

    def _share(self, pairs: list[int]) -> StepIndices:
        lengths = [self.lengths[pair] for pair in pairs]
        passes = shard_passes(lengths, self.max_tokens, self.num_processes, shares=self.shares)
        indices = StepIndices()
        indices.passes = []
        for number in range(len(passes) // self.num_processes):
            of_all = passes[number * self.num_processes : (number + 1) * self.num_processes]
            trained = [self.trained[pairs[place]] for pass_ in of_all for place in pass_]
            num_tokens = tuple(map(sum, zip(*trained, strict=True)))
            own = [pairs[place] for place in of_all[self.rank]] or pairs[:1]
            indices += own
            indices.passes += [Pass(number, tuple(map(len, of_all)), len(pairs), num_tokens)] * len(own)
        return indices


class RowsOfStep(RowsOfRank):
    """A dataset whose rows contain the pass that requested them."""

    def __getitems__(self, indices: StepIndices) -> list[dict[str, Any]]:
        """The rows of a step."""
        return [{**self.pairs[index], ROUND: pass_} for index, pass_ in zip(indices, indices.passes, strict=True)]


@dataclass(frozen=True)
class StepCollator:
    """A collator that returns one micro-batch for each pass of a step."""

    collate: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The micro-batches of some rows."""
        collate = RoundCollator(self.collate)
        return {PASSES: [collate(list(of_pass)) for _, of_pass in groupby(rows, key=itemgetter(ROUND))]}


class TokenBatches(ParallelBatches):
    """A mixin before a TRL trainer: with `max_tokens`, batches are optimizer steps.

    Each step is computed in passes of at most `max_tokens` tokens.
    """

    max_tokens: int | None = None
    """The token budget of a pass; None leaves the trainer's micro-batches unchanged."""
    prefix_sharing: Any

    @property
    def shares(self) -> bool:
        """Whether passes are computed with each distinct token once."""
        return self.prefix_sharing.is_active

    def _get_dataloader(
        self: Any, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None,
        is_training: bool = False, *rest: Any, **more: Any,
    ) -> Any:  # fmt: skip
        if self.max_tokens is None or not is_training:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, *rest, **more)  # type: ignore[misc]
        sampler = StepSampler(
            as_lengths(row_lengths(dataset)),
            batch_size * self.distributed.num_processes,
            self.max_tokens,
            self.distributed.num_processes,
            self.distributed.rank,
            shares=self.shares,
            trained=as_lengths(trained_lengths(dataset)),
        )
        rows = RowsOfStep(self._remove_unused_columns(dataset, description=description))
        collator = StepCollator(self.data_collator)
        loader = self._load(rows, collator, description, batch_size, lambda _: sampler, is_training, *rest, **more)
        if self.distributed.num_processes > 1:
            loader.batch_sampler.even_batches = False
        return loader

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a step, with the gradients of all its passes."""
        passes = inputs.get(PASSES)
        if passes is None:
            return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]
        mark = self.metric_counts.mark()
        rounds = [batch[ROUND] for batch in passes]
        # The same rule as transformers' for its own micro-batches.
        exchanges_each = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        exchanges_each |= self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        loss: Any = 0.0
        for number, batch in enumerate(passes, 1):
            is_last = number == len(passes)
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            exchanges = is_last or exchanges_each
            with nullcontext() if exchanges else self.accelerator.no_sync(model=model):
                loss += super().training_step(model, batch, *rest, **more)  # type: ignore[misc]
            if not is_last:
                self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        num_batches = math.ceil(rounds[0].pairs_in_step / self.args.per_device_eval_batch_size)
        self.metric_counts.weigh_since(mark, rounds, num_batches)
        return loss

    def floating_point_ops(self: Any, inputs: dict[str, Any]) -> int:
        """The number of floating-point operations of all passes."""
        count = super().floating_point_ops  # type: ignore[misc]
        return sum(map(count, inputs[PASSES])) if PASSES in inputs else count(inputs)
