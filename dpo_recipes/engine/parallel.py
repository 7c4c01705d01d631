"""Makes several processes of a TRL trainer take the steps of a single one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.metric_counts import MetricCounts
from dpo_recipes.engine.rounds import (
    ROUND,
    BatchesOfRank,
    RoundCollator,
    Rounds,
    RowsOfRank,
    gather_uneven,
)

if TYPE_CHECKING:
    from transformers import Trainer
else:  # a mixin: the trainer is the class after it
    Trainer = object


class ParallelBatches(Trainer):
    """A mixin before a TRL trainer: batches come in rounds (engine/rounds.py), and each loss has the weight of its
    round. With one process nothing is changed.

    `_get_dataloader` and `_get_collator_with_removed_columns` are private in transformers 5.23, as are the attributes
    of accelerate 1.15's BatchSamplerShard that are set; transformers sets the same for its BatchRebalanceSampler.
    """

    distributed: DistributedContext = SINGLE_PROCESS
    round: Any = None
    """The `Round` or `token_batches.Pass` of the batch that was computed last, or None with one process."""
    accelerator: Any
    args: Any
    data_collator: Any
    gather_function: Any
    metric_counts: MetricCounts

    def gather_by_rows(self) -> None:
        """Gather results by the number of rows that each process really has."""
        if self.distributed.num_processes > 1:
            # accelerate's own `gather_for_metrics` is not used: once a data loader has given its last batch, which the
            # trainer prefetches, it cuts rows that it takes for duplicates. Here there are none.
            gather = self.accelerator.gather
            self.accelerator.gather = lambda tensor: self._gather(tensor, gather, of_means=True)
            self.accelerator.gather_for_metrics = lambda tensor, *_, **__: self._gather(tensor, gather)
            self.gather_function = self.accelerator.gather_for_metrics

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a batch, weighted if the last step of an epoch is not full."""
        self.round = inputs.pop(ROUND, None)
        loss = super().compute_loss(model, inputs, *rest, **more)  # type: ignore[misc]
        if self.round is None:
            return loss
        self.metric_counts.repeat_last("train" if self.model.training else "eval", self.round.num_batches)
        return loss * self._loss_weight() if self.model.training else loss

    def _loss_weight(self) -> float:
        """The factor of this process's loss, a mean over the rows of its micro-batch."""
        return self.round.weight_of(self.distributed.rank)

    def _get_dataloader(self: Any, dataset: Any, description: str, batch_size: int, *rest: Any, **more: Any) -> Any:
        if self.distributed.num_processes == 1:
            return super()._get_dataloader(dataset, description, batch_size, *rest, **more)  # type: ignore[misc]
        rounds = Rounds(len(dataset), batch_size, self.args.gradient_accumulation_steps, self.distributed.num_processes)
        rows = RowsOfRank(self._remove_unused_columns(dataset, description=description))
        loader = self._load(rows, RoundCollator(self.data_collator), description, batch_size, *rest, **more)
        shard = loader.batch_sampler
        shard.batch_sampler = BatchesOfRank(shard.batch_sampler, rounds, self.distributed.rank)
        # It passes batches on unchanged: those below already belong to this process.
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def _load(self: Any, rows: Any, collator: Any, *rest: Any, **more: Any) -> Any:
        """The trainer's own data loader, whose rows carry their round, which the collator removes."""
        own, self.data_collator = self.data_collator, collator
        try:
            return super()._get_dataloader(rows, *rest, **more)  # type: ignore[misc]
        finally:
            self.data_collator = own

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return data_collator  # the columns are removed from the dataset below

    def _gather(self, tensor: Any, gather: Any, *, of_means: bool = False) -> Any:
        """The values of all processes. `of_means` says that the caller takes their mean. A single process would take
        the mean of each micro-batch, so rows of a short one weigh more."""
        if self.round is None or self.round.is_even:
            return gather(tensor)
        rank = self.distributed.rank
        if of_means and tensor.ndim:
            tensor = tensor * self.round.row_weight(rank)
        return gather_uneven(tensor, self.round.sizes, rank)
