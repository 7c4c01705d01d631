"""A worker that uses FSDP2 on a CPU: `python -m fsdp_worker RUN_DIR`.

torch's `fully_shard` works on a CPU with gloo, but accelerate 1.15 replaces it by DDP there (accelerate/state.py,
`AcceleratorState`), so our rules refuse it. This module disables both; everything else is the same as on GPUs.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from dpo_recipes import worker
from dpo_recipes.hardware import rule_table

_OWN = AcceleratorState.__init__


def allow_fsdp_on_cpu(rules: dict[Any, Any]) -> None:
    """Remove the rule that forbids it from `hardware.rule_table.RULES`."""
    kept = tuple(rule for rule in rules["strategy"] if rule.name != "no-fsdp-on-cpu")
    assert len(kept) == len(rules["strategy"]) - 1
    rules["strategy"] = kept


def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _OWN(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        # The same as accelerate does with GPUs.
        self.distributed_type = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type


if __name__ == "__main__":
    allow_fsdp_on_cpu(rule_table.RULES)  # pyright: ignore[reportArgumentType]
    AcceleratorState.__init__ = _with_fsdp
    worker.live()
