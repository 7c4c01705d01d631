"""What each of several processes holds of the weights, gradients and optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"]

_SHARDS_OPTIMIZER = ("fsdp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
_SHARDS_GRADIENTS = ("fsdp", "deepspeed-zero2", "deepspeed-zero3")
_SHARDS_WEIGHTS = ("fsdp", "deepspeed-zero3")


@dataclass(frozen=True)
class Sharding:
    """`num_processes` processes, one a device.

    ZeRO stages 1, 2 and 3 cut the optimizer's state, also the gradients, and also the weights (Rajbhandari et al. 2020,
    https://arxiv.org/abs/1910.02054, table 1); FSDP is stage 3.
    """

    num_processes: int = 1
    strategy: Strategy = "ddp"

    def share(self, num_bytes: float) -> float:
        """A process's part of what the strategy shards with the optimizer."""
        return num_bytes / self.num_processes if self.strategy in _SHARDS_OPTIMIZER else num_bytes

    def optimizer(self, num_bytes: int) -> int:
        """Bytes of the optimizer's state on one process."""
        return int(self.share(num_bytes))

    def gradients(self, num_bytes: int) -> int:
        """Bytes of gradients on one process; with DDP twice, as its buckets hold them too."""
        if self.num_processes == 1:
            return num_bytes
        if self.strategy == "ddp":
            return 2 * num_bytes
        return num_bytes // self.num_processes if self.strategy in _SHARDS_GRADIENTS else num_bytes

    def weights(self, num_bytes: int) -> int:
        """Bytes of the base's weights on one process; the layer in use is gathered beside them and counted there."""
        return num_bytes // self.num_processes if self.strategy in _SHARDS_WEIGHTS else num_bytes
