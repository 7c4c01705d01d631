"""What the GPU check asks of a device, and what a CPU answers where the check only tries itself out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.hardware.machine import cpu_name

GIB = 2**30


@dataclass(frozen=True)
class Cuda:
    """The first NVIDIA GPU."""

    kind: str = "cuda"
    dtype: str = "bfloat16"
    matmul_size: int = 8192

    def name(self) -> str:
        """The card's name."""
        import torch

        return torch.cuda.get_device_name()

    def total_bytes(self) -> int:
        """Memory of the card."""
        import torch

        return torch.cuda.get_device_properties(0).total_memory

    def sync(self) -> None:
        """Wait until all that was launched is computed."""
        import torch

        torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Begin to measure the peak anew, without what is free but kept."""
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int]:
        """The highest since `reset_peak`: what the allocator held, and what of it was in use."""
        import torch

        return {
            "reserved_bytes": torch.cuda.max_memory_reserved(),
            "allocated_bytes": torch.cuda.max_memory_allocated(),
        }


@dataclass(frozen=True)
class Cpu:
    """The processor, with 32 bits."""

    kind: str = "cpu"
    dtype: str = "float32"
    matmul_size: int = 512

    def name(self) -> str:
        """The processor's name."""
        return cpu_name()

    def total_bytes(self) -> int:
        """Memory of the machine."""
        import psutil

        return psutil.virtual_memory().total

    def sync(self) -> None:
        """Nothing is launched and left."""

    def reset_peak(self) -> None:
        """Set the process's largest resident set back to its present one."""
        Path("/proc/self/clear_refs").write_text("5")

    def peaks(self) -> dict[str, int]:
        """The largest resident set since `reset_peak`."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return {"reserved_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))}


Device = Cuda | Cpu


def device_of(kind: str) -> Device:
    """The device of a kind."""
    return Cuda() if kind == "cuda" else Cpu()


def matmul_flops(device: Device) -> float:
    """Floating point operations a second of a large matrix product of random numbers: the median of ten."""
    import torch

    size = device.matmul_size
    a, b = (torch.randn(size, size, device=device.kind).to(getattr(torch, device.dtype)) for _ in range(2))
    times = [timed(device, lambda: a @ b) for _ in range(13)][3:]
    return 2.0 * size**3 / sorted(times)[len(times) // 2]


def timed(device: Device, work: Any) -> float:
    """Seconds that a call takes, with all that it launches."""
    device.sync()
    started = time.perf_counter()
    work()
    device.sync()
    return time.perf_counter() - started
