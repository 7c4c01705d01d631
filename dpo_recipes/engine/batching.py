"""Makes a trainer of transformers or TRL compute the engine's micro-batches, with any number of processes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from dpo_recipes.data.lengths import row_lengths, trained_lengths
from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.metric_counts import MetricCounts
from dpo_recipes.engine.micro_batch import (
    MICRO_BATCH,
    MICRO_BATCHES,
    BatchesOfRank,
    FixedSizeBatches,
    MicroBatch,
    MicroBatchCollator,
    RowsOfRank,
    gather_uneven,
)
from dpo_recipes.engine.token_budget import StepSampler, as_lengths

if TYPE_CHECKING:
    from transformers import Trainer
else:  # a mixin: the trainer is the class after it
    Trainer = object


class MicroBatching(Trainer):
    """A mixin before a trainer: batches carry their micro-batch, and each loss has the weight that it gives.

    With `max_tokens`, a batch of training is a whole optimizer step, which is computed in micro-batches of at most so
    many tokens. Without it, nothing is changed for one process.

    `_get_dataloader` and `_get_collator_with_removed_columns` are private in transformers 5.23, as are the attributes
    of accelerate 1.15's BatchSamplerShard that are set; transformers sets the same for its BatchRebalanceSampler.
    """

    distributed: DistributedContext = SINGLE_PROCESS
    max_tokens: int | None = None
    """The token budget of a micro-batch; None if micro-batches have a fixed number of rows."""
    micro_batch: MicroBatch | None = None
    """The micro-batch that was computed last. None with one process and a fixed number of rows."""
    prefix_sharing: Any
    metric_counts: MetricCounts
    accelerator: Any
    args: Any
    data_collator: Any
    gather_function: Any

    @property
    def shares(self) -> bool:
        """Whether micro-batches are computed with each distinct token once."""
        return self.prefix_sharing.is_active

    @property
    def has_rows(self) -> bool:
        """Whether this process has rows in the micro-batch that was computed last. If not, it has computed a row that
        does not count."""
        return self.micro_batch is None or self.micro_batch.has_rows(self.distributed.rank)

    def gather_by_rows(self) -> None:
        """Gather results by the number of rows that each process really has."""
        if self.distributed.num_processes > 1:
            # accelerate's own `gather_for_metrics` is not used: once a data loader has given its last batch, which the
            # trainer prefetches, it cuts rows that it takes for duplicates. Here there are none.
            gather = self.accelerator.gather
            self.accelerator.gather = lambda tensor: self._gather(tensor, gather, of_means=True)
            self.accelerator.gather_for_metrics = lambda tensor, *_, **__: self._gather(tensor, gather)
            self.gather_function = self.accelerator.gather_for_metrics

    def _gather(self, tensor: Any, gather: Any, *, of_means: bool = False) -> Any:
        """The values of all processes. `of_means` says that the caller takes their mean, in which rows are weighted."""
        if self.micro_batch is None or self.micro_batch.is_even:
            return gather(tensor)
        rank = self.distributed.rank
        if of_means and tensor.ndim:
            tensor = tensor * self.micro_batch.row_weights[rank]
        return gather_uneven(tensor, self.micro_batch.sizes, rank)

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a batch, with its weight in the optimizer step."""
        self.micro_batch = inputs.pop(MICRO_BATCH, None)
        loss = super().compute_loss(model, inputs, *rest, **more)  # type: ignore[misc]
        if self.micro_batch is None:
            return loss
        self.metric_counts.repeat_last("train" if self.model.training else "eval", self.micro_batch.num_batches)
        return loss * self.loss_weight(self.micro_batch) if self.model.training else loss

    def loss_weight(self, micro_batch: MicroBatch) -> float:
        """The factor of this process's loss, a mean over its rows of the micro-batch."""
        return micro_batch.loss_weights[self.distributed.rank]

    def _get_dataloader(
        self: Any, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None,
        is_training: bool = False, *rest: Any, **more: Any,
    ) -> Any:  # fmt: skip
        options = (description, batch_size, sampler_fn, is_training, *rest)
        if self.max_tokens is not None and is_training:
            return self._load_by_tokens(dataset, *options, **more)
        if self.distributed.num_processes > 1:
            return self._load_fixed_size(dataset, *options, **more)
        return super()._get_dataloader(dataset, *options, **more)  # type: ignore[misc]

    def _load_fixed_size(self: Any, dataset: Any, description: str, batch_size: int, *rest: Any, **more: Any) -> Any:
        processes, rank = self.distributed.num_processes, self.distributed.rank
        collator = MicroBatchCollator(self.data_collator)
        loader = self._load(dataset, collator, description, batch_size, *rest, **more)
        shard = loader.batch_sampler
        # An order of rows may repeat some of them, and leave others out.
        num_rows = len(shard.batch_sampler.sampler)
        epoch = FixedSizeBatches(num_rows, batch_size, self.args.gradient_accumulation_steps, processes)
        shard.batch_sampler = BatchesOfRank(shard.batch_sampler, epoch, rank)
        # It passes batches on unchanged: those below already belong to this process.
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def _load_by_tokens(
        self: Any, dataset: Any, description: str, batch_size: int, _: Any, *rest: Any, **more: Any
    ) -> Any:
        processes, rank = self.distributed.num_processes, self.distributed.rank
        sampler = StepSampler(
            as_lengths(row_lengths(dataset)),
            batch_size * processes,
            self.max_tokens,
            processes,
            rank,
            shares=self.shares,
            trained=as_lengths(trained_lengths(dataset)),
        )
        collator = MicroBatchCollator(self.data_collator, of_step=True)
        loader = self._load(dataset, collator, description, batch_size, lambda _: sampler, *rest, **more)
        if processes > 1:
            loader.batch_sampler.even_batches = False
        return loader

    def _load(self: Any, dataset: Any, collator: Any, description: str, *rest: Any, **more: Any) -> Any:
        """The trainer's own data loader, whose rows carry their micro-batch, which the collator removes."""
        rows = RowsOfRank(self._remove_unused_columns(dataset, description=description))
        own, self.data_collator = self.data_collator, collator
        try:
            return super()._get_dataloader(rows, description, *rest, **more)  # type: ignore[misc]
        finally:
            self.data_collator = own

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return data_collator  # the columns are removed from the dataset below

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a batch or of a whole step, with its gradients."""
        batches = inputs.get(MICRO_BATCHES)
        if batches is None:
            return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]
        mark = self.metric_counts.mark()
        micro_batches = [batch[MICRO_BATCH] for batch in batches]
        # The same rule as transformers' for its own micro-batches.
        exchanges_each = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        exchanges_each |= self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        loss: Any = 0.0
        for number, batch in enumerate(batches, 1):
            is_last = number == len(batches)
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            exchanges = is_last or exchanges_each
            with nullcontext() if exchanges else self.accelerator.no_sync(model=model):
                loss += super().training_step(model, batch, *rest, **more)  # type: ignore[misc]
            if not is_last:
                self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        rows_in_step = sum(sum(micro_batch.sizes) for micro_batch in micro_batches)
        num_batches = math.ceil(rows_in_step / self.args.per_device_eval_batch_size)
        self.metric_counts.weigh_since(mark, micro_batches, num_batches)
        return loss

    def floating_point_ops(self: Any, inputs: dict[str, Any]) -> int:
        """The number of floating-point operations of a batch or of a whole step."""
        count = super().floating_point_ops  # type: ignore[misc]
        return sum(map(count, inputs.get(MICRO_BATCHES, [inputs])))
