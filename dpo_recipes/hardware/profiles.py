"""Descriptions of devices, for which a recipe can be checked and estimated without owning the hardware.

`memory_bytes` is the advertised size in GiB; `usable_fraction` is the part that a training process gets:

- CUDA: the driver keeps about 2 % (torch sees 23.6 of a 24 GB card); GDDR6 data-center cards store their ECC bits
  in the same memory, another 1/16 (an L40S of 48 GB shows torch 44.3 GiB); CUDA context and cuBLAS take 0.5 GiB.
- MPS: Metal's recommendedMaxWorkingSetSize, 2/3 of the memory up to 32 GB and 3/4 above.
- CPU: 0.85, the operating system and what else runs.

A desktop that uses the same card takes more, and fragmentation is not included: leave a margin.

`matmul_tflops` are dense peaks (no 2:4 sparsity) with float32 accumulation, as torch multiplies: GeForce cards do that
at half of the advertised rate. A precision that the device only emulates has no entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from dpo_recipes.errors import RecipeError

GIB = 2**30
CPU_BF16_MATRIX_FLAGS = frozenset({"amx_bf16", "bf16", "svebf16"})
"""Flags of /proc/cpuinfo: Intel's AMX, and Arm's BFMMLA for Neon and SVE. `avx512_bf16` is a dot product of vectors
and not among them."""


@dataclass(frozen=True)
class Device:
    """One device, real or described, for the rules and the memory estimate."""

    kind: Literal["cuda", "mps", "cpu"]
    name: str
    memory_bytes: int
    compute_capability: tuple[int, int] | None = None
    """CUDA only: the generation, (8, 0) and up is Ampere and newer."""
    matmul_tflops: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Dense peak in 10^12 operations a second by precision: float32, tf32, float16, bfloat16."""
    memory_bandwidth_gb_s: float | None = None
    has_bf16_matrix_units: bool = False
    """CPU only: see `cpu_has_bf16_matrix_units`."""
    usable_fraction: float = 1.0
    source: str = ""
    """Where the figures are from."""
    note: str = ""

    @property
    def usable_bytes(self) -> int:
        """Memory that one training process can allocate on the device."""
        return int(self.memory_bytes * self.usable_fraction)

    def older_than(self, major: int, minor: int = 0) -> bool:
        """Whether it is a CUDA device of a compute capability below this one."""
        return self.compute_capability is not None and self.compute_capability < (major, minor)


def cpu_has_bf16_matrix_units(flags: Iterable[str]) -> bool:
    """Whether a processor with these /proc/cpuinfo flags multiplies bfloat16 matrices faster than float32 ones."""
    return not CPU_BF16_MATRIX_FLAGS.isdisjoint(flags)


def cuda_usable_fraction(memory_bytes: int, *, inline_ecc: bool = False) -> float:
    """The share of a GPU's nominal memory that a process gets: less ECC bits, driver and CUDA context."""
    visible = memory_bytes * 0.98 * (15 / 16 if inline_ecc else 1.0)
    return max(0.0, (visible - 0.5 * GIB) / memory_bytes)


def mps_usable_fraction(memory_bytes: int) -> float:
    """Metal's recommended working set as a share of unified memory, as macOS reports it: 10,923 MiB of 16 GiB, 21,845
    of 32, 49,152 of 64 (https://github.com/ggml-org/llama.cpp/issues/1870). Recent systems allow a little more."""
    return 0.75 if memory_bytes > 32 * GIB else 2 / 3


@dataclass(frozen=True)
class _Figures:
    """Peak rates of a GPU as its data sheet gives them."""

    fp32: float
    half: float
    bandwidth: float
    tf32: float | None = None

    def tflops(self) -> Mapping[str, float]:
        if self.tf32 is None:
            return MappingProxyType({"float32": self.fp32, "float16": self.half})
        return MappingProxyType(
            {"float32": self.fp32, "tf32": self.tf32, "float16": self.half, "bfloat16": self.half},
        )


def _gpu(
    name: str,
    gib: int,
    capability: tuple[int, int],
    figures: _Figures,
    source: str,
    *,
    inline_ecc: bool = False,
    note: str = "",
) -> Device:
    size = gib * GIB
    return Device(
        kind="cuda",
        name=name,
        memory_bytes=size,
        compute_capability=capability,
        matmul_tflops=figures.tflops(),
        memory_bandwidth_gb_s=figures.bandwidth,
        usable_fraction=cuda_usable_fraction(size, inline_ecc=inline_ecc),
        source=source,
        note=note,
    )


def _apple(name: str, gib: int, fp32: float, bandwidth: float, source: str) -> Device:
    rates = MappingProxyType({"float32": fp32, "float16": fp32})
    size = gib * GIB
    note = "the first chip sold with this memory"
    return Device("mps", name, size, None, rates, bandwidth, False, mps_usable_fraction(size), source, note)


def _cpu(name: str, gib: int, rates: Mapping[str, float], bandwidth: float, source: str) -> Device:
    note = "stands for any such machine: of the one that runs, its own memory counts"
    units = "bfloat16" in rates
    return Device("cpu", name, gib * GIB, None, MappingProxyType(rates), bandwidth, units, 0.85, source, note)


_NVIDIA = "https://www.nvidia.com"
_IMAGES = "https://images.nvidia.com"
_A40 = f"{_IMAGES}/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf"
_A100 = f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_T4 = f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_V100 = f"{_IMAGES}/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
_TURING = (
    f"{_IMAGES}/aem-dam/en-zz/Solutions/design-visualization/technologies/turing-architecture/"
    "NVIDIA-Turing-Architecture-Whitepaper.pdf"
)
_AMPERE = f"{_NVIDIA}/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
_ADA = f"{_IMAGES}/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_BLACKWELL = f"{_IMAGES}/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
_APPLE = "https://www.apple.com/newsroom"
_M1 = f"{_APPLE}/2020/11/apple-unleashes-m1/"
_M1_PRO = f"{_APPLE}/2021/10/introducing-m1-pro-and-m1-max-the-most-powerful-chips-apple-has-ever-built/"
_M2 = f"{_APPLE}/2022/06/apple-unveils-m2-with-breakthrough-performance-and-capabilities/"
_COMPUTED = "rates computed from its cores and clock"
_INTEL = "https://docs.pytorch.org/tutorials/recipes/amx.html"

# Operations a cycle and core (Intel, quoted on the page in _INTEL): 64 in float32 with AVX-512, 1,024 in bfloat16 with
# AMX; half of the 64 with AVX2. 8 cores at 3 GHz are 0.77 TFLOP/s; 16 at 2 GHz are 2.0 and 32.8.
_PROFILES: dict[str, Device] = {
    "a40-48gb": _gpu("NVIDIA A40", 48, (8, 6), _Figures(37.4, 149.7, 696, 74.8), _A40, inline_ecc=True),
    "a100-40gb": _gpu("NVIDIA A100 40 GB", 40, (8, 0), _Figures(19.5, 312, 1555, 156), _A100),
    "a100-80gb": _gpu("NVIDIA A100 80 GB", 80, (8, 0), _Figures(19.5, 312, 2039, 156), _A100, note="SXM"),
    "h100-80gb": _gpu(
        "NVIDIA H100 80 GB",
        80,
        (9, 0),
        _Figures(67, 989.4, 3350, 494.7),
        f"{_NVIDIA}/en-us/data-center/h100/",
        note="SXM",
    ),
    "h200-141gb": _gpu(
        "NVIDIA H200", 141, (9, 0), _Figures(67, 989.4, 4800, 494.7), f"{_NVIDIA}/en-us/data-center/h200/", note="SXM"
    ),
    "l4-24gb": _gpu(
        "NVIDIA L4", 24, (8, 9), _Figures(30.3, 121, 300, 60.5), f"{_NVIDIA}/en-us/data-center/l4/", inline_ecc=True
    ),
    "l40s-48gb": _gpu(
        "NVIDIA L40S", 48, (8, 9), _Figures(91.6, 362, 864, 183), f"{_NVIDIA}/en-us/data-center/l40s/", inline_ecc=True
    ),
    "rtx2060-6gb": _gpu("NVIDIA GeForce RTX 2060", 6, (7, 5), _Figures(6.5, 25.8, 336), _TURING, note=_COMPUTED),
    "rtx2080ti-11gb": _gpu("NVIDIA GeForce RTX 2080 Ti", 11, (7, 5), _Figures(13.4, 53.8, 616), _TURING),
    "rtx3060-12gb": _gpu(
        "NVIDIA GeForce RTX 3060", 12, (8, 6), _Figures(12.7, 25.5, 360, 12.7), _AMPERE, note=_COMPUTED
    ),
    "rtx3090-24gb": _gpu("NVIDIA GeForce RTX 3090", 24, (8, 6), _Figures(35.6, 71, 936, 35.6), _AMPERE),
    "rtx4070ti-12gb": _gpu(
        "NVIDIA GeForce RTX 4070 Ti", 12, (8, 9), _Figures(40.1, 80.2, 504, 40.1), _ADA, note=_COMPUTED
    ),
    "rtx4090-24gb": _gpu("NVIDIA GeForce RTX 4090", 24, (8, 9), _Figures(82.6, 165.2, 1008, 82.6), _ADA),
    "rtx5090-32gb": _gpu("NVIDIA GeForce RTX 5090", 32, (12, 0), _Figures(104.8, 209.5, 1792, 104.8), _BLACKWELL),
    "t4-16gb": _gpu("NVIDIA T4", 16, (7, 5), _Figures(8.1, 65, 320), _T4, inline_ecc=True),
    "v100-16gb": _gpu("NVIDIA V100 16 GB", 16, (7, 0), _Figures(15.7, 125, 900), _V100, note="SXM2"),
    "v100-32gb": _gpu("NVIDIA V100 32 GB", 32, (7, 0), _Figures(15.7, 125, 900), _V100, note="SXM2"),
    "mps-8gb": _apple("Apple M1", 8, 2.6, 68.25, _M1),
    "mps-16gb": _apple("Apple M1", 16, 2.6, 68.25, _M1),
    "mps-24gb": _apple("Apple M2", 24, 3.6, 100, _M2),
    "mps-32gb": _apple("Apple M1 Pro", 32, 5.2, 200, _M1_PRO),
    "mps-64gb": _apple("Apple M1 Max", 64, 10.4, 400, _M1_PRO),
    "cpu": _cpu("CPU, 8 cores with AVX2", 16, {"float32": 0.77}, 50, _INTEL),
    "cpu-amx": _cpu("CPU, 16 cores with AMX", 64, {"float32": 2.0, "bfloat16": 32.8}, 300, _INTEL),
}

PROFILES: Mapping[str, Device] = MappingProxyType(_PROFILES)
"""Described devices by the name a recipe gives them."""


def profile(name: str) -> Device:
    """The described device of that name. Raises `RecipeError` R330 with the nearest name for an unknown one."""
    key = name.lower()
    if key in PROFILES:
        return PROFILES[key]
    near = [known for known in PROFILES if known.startswith(key)] or difflib.get_close_matches(key, PROFILES, n=1)
    raise RecipeError.of(
        "R330",
        f"unknown hardware profile `{name}`",
        why=f"known are {', '.join(PROFILES)}",
        fix=f"did you mean {' or '.join(f'`{known}`' for known in near)}?" if near else "choose one of these",
    )
