"""The shards of weights, gradients and optimizer state that each process holds."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.recipe.schema.launch import Strategy
from dpo_recipes.recipe.strategies import SHARDS_GRADIENTS, SHARDS_OPTIMIZER, SHARDS_WEIGHTS


@dataclass(frozen=True)
class Sharding:
    """`num_processes` processes, one on each device."""

    num_processes: int = 1
    strategy: Strategy = "ddp"

    def share(self, num_bytes: float) -> float:
        """A process's share of what the strategy shards with the optimizer."""
        return num_bytes / self.num_processes if self.strategy in SHARDS_OPTIMIZER else num_bytes

    def optimizer(self, num_bytes: int) -> int:
        """Bytes of the optimizer's state on one process."""
        return int(self.share(num_bytes))

    def gradients(self, num_bytes: int) -> int:
        """Bytes of gradients on one process; with DDP twice, as its buckets hold them too."""
        if self.num_processes == 1:
            return num_bytes
        if self.strategy == "ddp":
            return 2 * num_bytes
        return num_bytes // self.num_processes if self.strategy in SHARDS_GRADIENTS else num_bytes

    def weights(self, num_bytes: int) -> int:
        """Bytes of the base's weights on one process; the layer in use is gathered beside them and counted there."""
        return num_bytes // self.num_processes if self.strategy in SHARDS_WEIGHTS else num_bytes
