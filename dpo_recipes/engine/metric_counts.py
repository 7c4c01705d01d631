"""What a trainer counted for its metrics since the last logged row.

TRL's trainers keep lists of values that they average over micro-batches; the engine's own trainer keeps sums and
numbers of rows. The engine snapshots, restores and weighs both through one interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from dpo_recipes.engine.micro_batch import MicroBatch

Snapshot = dict[str, list[float]]
"""Numbers by name, as JSON can store them."""


class MetricCounts(Protocol):
    """The counts of one trainer in one process."""

    def snapshot(self) -> Snapshot:
        """A copy of the counts of training."""
        ...

    def restore(self, counts: Snapshot) -> None:
        """Replace the counts of training."""
        ...

    def clear_evaluation(self) -> None:
        """Discard the counts of an evaluation that was interrupted."""
        ...

    def repeat_last(self, mode: str, times: int) -> None:
        """Count the last micro-batch as `times` micro-batches, because as many processes have computed it."""
        ...

    def mark(self) -> dict[str, int]:
        """The place where a step begins, for `weigh_since`."""
        ...

    def weigh_since(self, mark: dict[str, int], micro_batches: Sequence[MicroBatch], num_batches: int) -> None:
        """Weigh the micro-batches of a step so that the step counts as `num_batches` micro-batches of equal size."""
        ...


class TrlMetricCounts:
    """The counts of a trainer of TRL 1.16.

    `_metrics` and `_total_train_tokens` are private upstream; tests/integration/test_upstream.py fails when they move.
    """

    _TOKENS = "num_tokens"
    """A running sum, which TRL records as a single value."""
    _TOTAL = "total_train_tokens"
    """The name of that sum in a snapshot."""

    def __init__(self, trainer: Any, token_weighted: Mapping[str, tuple[int, ...]]) -> None:
        self._trainer = trainer
        self._token_weighted = token_weighted
        """For each metric that is a mean over tokens, the answers whose trained tokens it averages over. All others are
        means over rows."""

    def snapshot(self) -> Snapshot:
        """The values of each metric, one for each micro-batch, and the number of tokens since the start."""
        counts = {name: list(values) for name, values in self._trainer._metrics["train"].items()}
        return {**counts, self._TOTAL: [self._trainer._total_train_tokens]}

    def restore(self, counts: Snapshot) -> None:
        """Replace the values in place, because other objects hold references to them."""
        metrics = self._trainer._metrics["train"]
        metrics.clear()
        metrics.update({name: list(values) for name, values in counts.items() if name != self._TOTAL})
        self._trainer._total_train_tokens = counts[self._TOTAL][0]

    def clear_evaluation(self) -> None:
        """Discard the values of an evaluation."""
        self._trainer._metrics["eval"].clear()

    def repeat_last(self, mode: str, times: int) -> None:
        """Repeat the last value of each metric, because TRL averages over calls."""
        for name, values in self._trainer._metrics[mode].items():
            if name != self._TOKENS:
                values.extend([values[-1]] * (times - 1))

    def mark(self) -> dict[str, int]:
        """The number of values of each metric."""
        return {name: len(values) for name, values in self._trainer._metrics["train"].items()}

    def weigh_since(self, mark: dict[str, int], micro_batches: Sequence[MicroBatch], num_batches: int) -> None:
        """Replace the values of each metric in a step's micro-batches by their mean over the step.

        The mean is repeated once for each micro-batch that the step would otherwise have, because TRL averages over
        micro-batches, also those of steps that are not full.
        """
        for name, values in self._trainer._metrics["train"].items():
            if name != self._TOKENS:
                start = mark.get(name, 0)
                answers = self._token_weighted.get(name)
                weights = [micro_batch.num_items(answers) for micro_batch in micro_batches]
                total = sum(value * weight for value, weight in zip(values[start:], weights, strict=True))
                values[start:] = [total / sum(weights)] * num_batches


def dtype_of_sums(device: torch.device) -> torch.dtype:
    """The type of sums over many rows: doubles, so that long sums and their differences stay exact. MPS has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class RowMetricCounts:
    """Sums over rows or tokens, added up over all processes, so that no division into micro-batches changes a mean."""

    TOKENS = "num_tokens"

    def __init__(self, names: Iterable[str], accelerator: Any) -> None:
        self._names = tuple(names)
        self._accelerator = accelerator
        self._dtype = dtype_of_sums(accelerator.device)
        self._counts = {mode: self._zeros() for mode in ("train", "eval")}
        self.num_tokens = 0
        """The tokens of all sequences of training since the start, over all processes."""

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(len(self._names), 2, dtype=self._dtype, device=self._accelerator.device)

    def add(self, mode: str, values: dict[str, tuple[torch.Tensor, torch.Tensor | int]], num_tokens: int) -> None:
        """Add a micro-batch of this process: for each metric a sum and a number of items, both 0 for a process whose
        micro-batch does not count. All processes must call this the same number of times."""
        added = self._zeros()
        for place, name in enumerate(self._names):
            if name in values:
                total, count = values[name]
                added[place, 0] = total
                added[place, 1] = count
        tokens = torch.tensor(num_tokens, device=added.device, dtype=torch.float32)
        if self._accelerator.num_processes > 1:
            added = self._accelerator.reduce(added, reduction="sum")
            tokens = self._accelerator.reduce(tokens, reduction="sum")
        self._counts[mode] += added
        if mode == "train":
            self.num_tokens += int(tokens)

    def take_means(self, mode: str) -> dict[str, float]:
        """The mean of each metric that has values, and 0 as the new counts."""
        counts = self._counts[mode].tolist()
        self._counts[mode] = self._zeros()
        means = {name: total / count for name, (total, count) in zip(self._names, counts, strict=True) if count}
        return {**means, self.TOKENS: self.num_tokens} if mode == "train" and means else means

    def snapshot(self) -> Snapshot:
        """The sum and the number of items of each metric, and the number of tokens since the start."""
        sums = dict(zip(self._names, self._counts["train"].tolist(), strict=True))
        return {**sums, self.TOKENS: [self.num_tokens]}

    def restore(self, counts: Snapshot) -> None:
        """Replace the sums. They are those of all processes, so any number of processes can restore them."""
        numbers = [counts.get(name, [0.0, 0.0]) for name in self._names]
        self._counts["train"] = torch.tensor(numbers, dtype=self._dtype, device=self._accelerator.device)
        self.num_tokens = int(counts[self.TOKENS][0])

    def clear_evaluation(self) -> None:
        """Discard the sums of an evaluation."""
        self._counts["eval"] = self._zeros()

    def repeat_last(self, mode: str, times: int) -> None:
        """Do nothing: each row counts once."""

    def mark(self) -> dict[str, int]:
        """Nothing, because nothing is weighed."""
        return {}

    def weigh_since(self, mark: dict[str, int], micro_batches: Sequence[MicroBatch], num_batches: int) -> None:
        """Do nothing: each row counts once."""
