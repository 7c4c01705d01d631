"""Traces forward and backward passes on tensors without data: the memory, arithmetic and memory traffic they need.

torch's fake tensors run the real code of transformers, peft and TRL and allocate nothing, so the estimate knows an
architecture, a checkpointed layer or an adapter because the code that will run knows them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Trace:
    """The cost of passes. Every value is linear in the number of layers, on which `extrapolate` relies."""

    turn_activations: float = 0.0
    """Bytes of activations at the peak before the first gradient of a layer is computed."""
    turn_gradients: float = 0.0
    late_activations: float = 0.0
    """The same at the peak of the backward pass after that."""
    late_gradients: float = 0.0
    kept: float = 0.0
    """Bytes of activations that the forward pass of the backbone keeps for the backward pass."""
    flops: float = 0.0
    """Multiplications and additions of all matrix products, recomputed ones included."""
    matmul_s: float = 0.0
    """Seconds of operations that are bound by arithmetic at the rates given."""
    moving_s: float = 0.0
    """Seconds of operations that are bound by memory bandwidth."""

    @property
    def peak(self) -> tuple[float, float]:
        """Activations and gradients at the higher of both peaks."""
        turn, late = (self.turn_activations, self.turn_gradients), (self.late_activations, self.late_gradients)
        return max(turn, late, key=sum)

    @property
    def seconds(self) -> float:
        """The roofline's time: each operation waits for arithmetic or for memory, whichever is slower."""
        return self.matmul_s + self.moving_s

    def extrapolate(self, larger: Trace, periods: float) -> Trace:
        """The trace of a model with `periods` more periods of layers than `larger` has, where that has one more than
        this."""
        values = {}
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(larger, field.name)
            values[field.name] = max(0.0, theirs + periods * (theirs - ours))
        return Trace(**values)


@dataclass(frozen=True)
class Rates:
    """Rates of a device in practice: operations a second in matrix products, bytes a second to and from memory."""

    flops: float
    bandwidth: float
    dispatch_s: float = 0.0
    """The least that any operation takes."""


class Tracer(TorchDispatchMode):
    """Follows every operation in its context. Tensors in `resident` are not counted: weights, and gradients of earlier
    micro-batches.

    `torch.utils._python_dispatch` and `flop_registry` are what torch's own MemTracker and FlopCounterMode are built of.
    """

    def __init__(self, resident: Iterable[torch.Tensor], rates: Rates) -> None:
        super().__init__()
        self._rates = rates
        self._held: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()
        """The kind as which each live storage is counted, in a list of one."""
        for tensor in resident:
            self._held[tensor.untyped_storage()] = ["resident"]
        self._live = {"activations": 0, "gradients": 0}
        self._peaks = {"turn": (0, 0), "late": (0, 0)}
        self._phase = "turn"
        self._kept = 0
        self._flops = self._matmul_s = self._moving_s = 0.0

    def watch_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Count what backward leaves in `.grad` as gradients and not as activations."""

        def accumulated(parameter: torch.Tensor) -> None:
            self._phase = "late"
            if parameter.grad is not None:
                self._move(parameter.grad.untyped_storage())

        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(accumulated)

    def mark_kept(self) -> None:
        """Record the end of the backbone's forward pass."""
        self._kept = self._live["activations"]

    def result(self) -> Trace:
        """The costs traced so far."""
        return Trace(
            *self._peaks["turn"], *self._peaks["late"], self._kept, self._flops, self._matmul_s, self._moving_s
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_iter(out) if isinstance(leaf, torch.Tensor)]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        self._time(func, args, kwargs or {}, out, made)
        return out

    def _hold(self, storage: Any) -> None:
        if storage in self._held:
            return
        num_bytes = storage.nbytes()
        self._live["activations"] += num_bytes
        if sum(self._live.values()) > sum(self._peaks[self._phase]):
            self._peaks[self._phase] = (self._live["activations"], self._live["gradients"])
        held = self._held[storage] = ["activations"]
        weakref.finalize(storage, self._release, held, num_bytes)

    def _move(self, storage: Any) -> None:
        held = self._held[storage]
        if held[0] == "activations":
            held[0] = "gradients"
            self._live["activations"] -= storage.nbytes()
            self._live["gradients"] += storage.nbytes()

    def _release(self, held: list[str], num_bytes: int) -> None:
        self._live[held[0]] -= num_bytes

    def _time(self, func: Any, args: Any, kwargs: Any, out: Any, made: list[torch.Tensor]) -> None:
        if func.is_view:
            return
        count = flop_registry.get(func._overloadpacket)
        flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        read = (leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor))
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*made, *read))
        matmul_s, moving_s = flops / self._rates.flops, moved / self._rates.bandwidth
        self._flops += flops
        if matmul_s >= max(moving_s, self._rates.dispatch_s):
            self._matmul_s += matmul_s
        else:
            self._moving_s += max(moving_s, self._rates.dispatch_s)
