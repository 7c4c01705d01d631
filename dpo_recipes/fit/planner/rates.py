"""Rates at which a device multiplies matrices and moves memory, from its data sheet or measured on this machine."""

from __future__ import annotations

import time
from functools import cache

from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.hardware.profiles import Device

# Of a data sheet's peak, what large products and copies of real models reach: 60 to 70 % and 75 to 85 % are usual, see
# for example Megatron-LM's table 1 (https://arxiv.org/abs/2205.05198) and the STREAM figures that GPU vendors publish.
_OF_PEAK_FLOPS = 0.6
_OF_PEAK_BANDWIDTH = 0.8
# Python, autograd and the launch of a kernel, for each operation.
_DISPATCH_S = {"cuda": 8e-6, "mps": 2e-5, "cpu": 6e-6}
_FALLBACK = Device("cpu", "CPU", 0, matmul_tflops={"float32": 0.5}, memory_bandwidth_gb_s=30)


def rates_of(device: Device, dtype: str) -> Rates:
    """Rates of a described device. A precision that it only emulates has the rate of float32."""
    peaks = device.matmul_tflops or _FALLBACK.matmul_tflops
    tflops = peaks.get(dtype) or peaks["float32"]
    bandwidth = device.memory_bandwidth_gb_s or _FALLBACK.memory_bandwidth_gb_s or 0.0
    return Rates(tflops * 1e12 * _OF_PEAK_FLOPS, bandwidth * 1e9 * _OF_PEAK_BANDWIDTH, _DISPATCH_S[device.kind])


@cache
def measure_rates(device: str, dtype: str) -> Rates:
    """Rates of a device of this machine, measured once in a process by a few large products and copies (about 1 s)."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        elif device == "mps":
            torch.mps.synchronize()

    def best_s(work: object, repeats: int = 4) -> float:
        times = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            work()  # pyright: ignore[reportCallIssue]
            wait()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    size = 8192 if device == "cuda" else 1536
    left = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    product_s = best_s(lambda: left @ left)
    source = torch.empty(2**28 if device == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    copy_s = best_s(lambda: target.copy_(source))
    moved = 2 * source.numel() * source.element_size()
    # A single product is faster than the same one in a model. The share of the data sheet's rate is not applied here.
    return Rates(2 * size**3 / product_s * 0.85, moved / copy_s * 0.85, _DISPATCH_S[device])
