"""Described devices: their figures are consistent, unknown names get a suggestion, and docs/hardware.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpo_recipes.errors import RecipeError
from dpo_recipes.hardware.profiles import (
    GIB,
    PROFILES,
    Device,
    cpu_has_bf16_matrix_units,
    cuda_usable_fraction,
    mps_usable_fraction,
    profile,
)
from dpo_recipes.hardware.rules import best_dtype

PAGE = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
EVERY = pytest.mark.parametrize("name", PROFILES)


def profile_row(name: str) -> str:
    """The line of docs/hardware.md that describes a profile."""
    device = PROFILES[name]
    dtype = best_dtype(device)
    major, minor = device.compute_capability or (0, 0)
    cells = (
        f"`{name}`",
        device.name,
        f"{device.memory_bytes / GIB:.0f}",
        f"{device.usable_bytes / GIB:.1f}",
        f"{major}.{minor}" if device.compute_capability else "–",
        dtype,
        f"{device.matmul_tflops[dtype]:g}",
        f"{device.memory_bandwidth_gb_s:g}",
        f"[source]({device.source})" + (f", {device.note}" if device.note else ""),
    )
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_exactly_the_profiles() -> None:
    expected = [profile_row(name) for name in PROFILES]
    found = re.findall(r"^\| `[a-z0-9-]+` \|.*\|$", PAGE.partition("## Rules")[0], re.MULTILINE)
    assert found == expected, "write into docs/hardware.md:\n" + "\n".join(expected)


@pytest.mark.parametrize(
    "name",
    [
        *("a40-48gb", "a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "l4-24gb", "l40s-48gb", "t4-16gb"),
        *("rtx2060-6gb", "rtx2080ti-11gb", "rtx3060-12gb", "rtx3090-24gb", "rtx4090-24gb", "rtx5090-32gb"),
        *("v100-16gb", "v100-32gb", "mps-8gb", "mps-16gb", "mps-32gb", "mps-64gb", "cpu", "cpu-amx"),
    ],
)
def test_recipes_may_count_on_these_names(name: str) -> None:
    assert profile(name) is PROFILES[name]
    assert profile(name.upper()) is PROFILES[name]


@EVERY
def test_a_name_that_gives_a_size_gives_the_memory(name: str) -> None:
    size = re.search(r"-(\d+)gb$", name)
    assert size is None or PROFILES[name].memory_bytes == int(size[1]) * GIB


@EVERY
def test_figures_are_whole_and_have_a_source(name: str) -> None:
    device = PROFILES[name]
    assert name.partition("-")[0] == device.kind or device.kind == "cuda"
    assert (device.compute_capability is not None) == (device.kind == "cuda")
    assert re.fullmatch(r"https://\S+", device.source)
    assert device.matmul_tflops["float32"] > 0
    assert device.memory_bandwidth_gb_s is not None
    assert device.memory_bandwidth_gb_s > 0
    assert 0.6 < device.usable_fraction < 1
    assert device.usable_bytes == int(device.memory_bytes * device.usable_fraction)


@EVERY
def test_bfloat16_has_a_rate_only_where_the_hardware_has_it(name: str) -> None:
    device = PROFILES[name]
    native = (device.compute_capability or (0, 0)) >= (8, 0) or device.has_bf16_matrix_units
    assert ("bfloat16" in device.matmul_tflops) == native


@EVERY
def test_tensor_core_rates_are_dense_and_accumulate_in_float32(name: str) -> None:
    """tf32 runs at half of bfloat16's dense rate with float32 accumulation from Ampere on; a sparse figure, or
    GeForce's with float16 accumulation, would be four times it."""
    rates = PROFILES[name].matmul_tflops
    if "tf32" in rates:
        assert rates["float16"] == rates["bfloat16"]
        assert rates["bfloat16"] / rates["tf32"] == pytest.approx(2, rel=0.02)


def test_turing_geforce_multiplies_half_precision_at_four_times_float32() -> None:
    """With float32 accumulation: half of the 8 times that TU10x tensor cores reach with float16's. T4 and V100, which
    are no GeForce, reach 8."""
    ratio = {
        name: device.matmul_tflops["float16"] / device.matmul_tflops["float32"]
        for name, device in PROFILES.items()
        if device.kind == "cuda"
    }
    assert ratio["rtx2060-6gb"] == pytest.approx(4, rel=0.02)
    assert ratio["rtx2080ti-11gb"] == pytest.approx(4, rel=0.02)
    assert ratio["t4-16gb"] == pytest.approx(8, rel=0.02)
    assert ratio["v100-16gb"] == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize(
    ("name", "torch_total_gib"),
    [
        ("l40s-48gb", 45372.6875 / 1024),  # torch's total_memory in a published benchmark of PrunaAI
        ("h200-141gb", 139.0),
    ],
)
def test_usable_memory_is_what_torch_sees_less_the_context(name: str, torch_total_gib: float) -> None:
    """0.5 GiB of CUDA context and cuBLAS come off torch's total; within 1 %."""
    assert PROFILES[name].usable_bytes / GIB == pytest.approx(torch_total_gib - 0.5, rel=0.01)


def test_usable_fractions() -> None:
    """CUDA: (0.98 · 8 − 0.5) / 8; with ECC inline 0.98 · 15/16. A card below the reserve has nothing left."""
    assert cuda_usable_fraction(8 * GIB) == pytest.approx(0.9175)
    assert cuda_usable_fraction(8 * GIB, inline_ecc=True) == pytest.approx(0.85625)
    assert cuda_usable_fraction(GIB // 4) == 0.0
    assert int(16 * 1024 * mps_usable_fraction(16 * GIB)) == 10922
    assert 64 * 1024 * mps_usable_fraction(64 * GIB) == 49152


@pytest.mark.parametrize(
    ("flags", "has_units"),
    [
        ("fma avx avx2", False),
        ("avx512f avx512_bf16 avx512_vnni", False),
        ("avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("fp asimd sve svebf16 bf16", True),
        ("", False),
    ],
)
def test_matrix_units_are_detected_by_processor_flags(flags: str, *, has_units: bool) -> None:
    assert cpu_has_bf16_matrix_units(flags.split()) is has_units


def test_devices_compare_by_generation() -> None:
    assert PROFILES["t4-16gb"].older_than(8)
    assert not PROFILES["t4-16gb"].older_than(7, 5)
    assert not PROFILES["rtx5090-32gb"].older_than(9), "12.0 is newer than 9.0, not older"
    assert not Device("cpu", "some CPU", GIB).older_than(8)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("rtx-2060-6gb", "`rtx2060-6gb`"), ("a100", "`a100-40gb` or `a100-80gb`"), ("mps-16", "`mps-16gb`")],
)
def test_an_unknown_profile_gets_a_suggestion(wrong: str, near: str) -> None:
    with pytest.raises(RecipeError) as caught:
        profile(wrong)
    (finding,) = caught.value.findings
    assert finding.code == "R330"
    assert f"`{wrong}`" in finding.what
    assert finding.fix == f"did you mean {near}?"
    assert "cpu-amx" in (finding.why or "")


def test_a_name_without_a_similar_one_gets_the_list() -> None:
    with pytest.raises(RecipeError, match="hint: choose one of these"):
        profile("gaudi3")
