"""What a TRL trainer needs so that several processes take the steps of one."""

from __future__ import annotations

from typing import Any

from dpo_recipes.engine.processes import ALONE, Processes
from dpo_recipes.engine.rounds import (
    ROUND,
    BatchesOfRank,
    RoundCollator,
    Rounds,
    RowsOfRank,
    gather_uneven,
)


class ParallelBatches:
    """Before a TRL trainer in the bases of a class: batches come in rounds (engine/rounds.py), and each loss counts as
    its round says. With one process nothing is changed.

    `_get_dataloader` and `_get_collator_with_removed_columns` are private in transformers 5.23, as are the attributes
    of accelerate 1.15's BatchSamplerShard that are set; transformers sets the same for its BatchRebalanceSampler.
    """

    processes: Processes = ALONE
    round: Any = None
    """Of the batch that was computed last, a `Round` or a `token_batches.Pass`; none where nothing is dealt."""
    accelerator: Any
    args: Any
    data_collator: Any
    gather_function: Any
    _metrics: dict[str, dict[str, list[float]]]

    def deal_batches(self) -> None:
        """Have results gathered by what each process really holds."""
        if self.processes.count > 1:
            # Not with accelerate's own `gather_for_metrics`: where a data loader has given its last batch, which the
            # trainer fetches ahead, that cuts what it takes for rows to fill up with. Here there are none.
            gather = self.accelerator.gather
            self.accelerator.gather = lambda tensor: self._gather(tensor, gather, of_means=True)
            self.accelerator.gather_for_metrics = lambda tensor, *_, **__: self._gather(tensor, gather)
            self.gather_function = self.accelerator.gather_for_metrics

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a batch, weighted where an epoch's last step is not full."""
        self.round = inputs.pop(ROUND, None)
        loss = super().compute_loss(model, inputs, *rest, **more)  # type: ignore[misc]
        if self.round is None:
            return loss
        self._count_each_batch("train" if self.model.training else "eval", self.round.num_batches)
        return loss * self.round.weight_of(self.processes.place.rank) if self.model.training else loss

    def _count_each_batch(self, mode: str, num_batches: int) -> None:
        """TRL averages its metrics over calls: those of a round stand for as many micro-batches as it has."""
        for name, values in self._metrics[mode].items():
            if name != "num_tokens":  # a sum, which stands there once
                values.extend([values[-1]] * (num_batches - 1))

    def _get_dataloader(self: Any, dataset: Any, description: str, batch_size: int, *rest: Any, **more: Any) -> Any:
        if self.processes.count == 1:
            return super()._get_dataloader(dataset, description, batch_size, *rest, **more)  # type: ignore[misc]
        rounds = Rounds(len(dataset), batch_size, self.args.gradient_accumulation_steps, self.processes.count)
        rows = RowsOfRank(self._remove_unused_columns(dataset, description=description))
        loader = self._load(rows, RoundCollator(self.data_collator), description, batch_size, *rest, **more)
        shard = loader.batch_sampler
        shard.batch_sampler = BatchesOfRank(shard.batch_sampler, rounds, self.processes.place.rank)
        # It hands on what it gets: the batches below are this process's already.
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def _load(self: Any, rows: Any, collator: Any, *rest: Any, **more: Any) -> Any:
        """The trainer's own data loader of rows that carry a mark, which the collator takes out."""
        own, self.data_collator = self.data_collator, collator
        try:
            return super()._get_dataloader(rows, *rest, **more)  # type: ignore[misc]
        finally:
            self.data_collator = own

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return data_collator  # the columns are removed from the dataset below

    def _gather(self, tensor: Any, gather: Any, *, of_means: bool = False) -> Any:
        """What all processes hold. `of_means` says that a mean is taken of it, which one process would take of each of
        its micro-batches: rows of a short one weigh more."""
        if self.round is None or self.round.is_even:
            return gather(tensor)
        rank = self.processes.place.rank
        if of_means and tensor.ndim:
            tensor = tensor * self.round.row_weight(rank)
        return gather_uneven(tensor, self.round.sizes, rank)
