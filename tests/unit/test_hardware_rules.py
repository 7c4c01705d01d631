"""The table of device rules, applied to described devices; these tests need no hardware."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_recipes.hardware.profiles import GIB, PROFILES, Device
from dpo_recipes.hardware.rules import (
    AUTO_ORDER,
    RULES,
    Choice,
    Rule,
    Verdict,
    ask,
    best_dtype,
    needs_bitsandbytes,
    supports_attention,
    supports_dtype,
    supports_memory_limit,
    supports_optimizer,
    supports_processes,
    supports_quantization,
    supports_strategy,
    supports_torch,
)

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "hardware.md").read_text(encoding="utf-8")

PASCAL = Device("cuda", "NVIDIA GeForce GTX 1080", 8 * GIB, (6, 1))
MAXWELL = Device("cuda", "NVIDIA GeForce GTX 980", 4 * GIB, (5, 2))
DEVICES = {**PROFILES, "pascal": PASCAL, "maxwell": MAXWELL}
EVERY = pytest.mark.parametrize("device", [pytest.param(device, id=name) for name, device in DEVICES.items()])

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion_8bit")
ATTENTIONS = ("auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
ALL_RULES = list(dict.fromkeys(rule for rules in RULES.values() for rule in rules))


def rule_row(rule: Rule) -> str:
    """The line of docs/hardware.md that describes a rule."""
    outcome = "refused" if rule.outcome == "no" else "warning"
    return (
        f"| {rule.name} | {outcome} | {rule.why} ([source]({rule.source})) | {rule.ways_out[0]} | {rule.ways_out[1]} |"
    )


def outcomes(device: Device) -> list[Verdict]:
    return [
        *(supports_dtype(device, dtype) for dtype in (*AUTO_ORDER, "auto")),
        *(supports_quantization(device, bits, kind) for bits in (4, 8) for kind in ("nf4", "fp4")),
        *(supports_optimizer(device, name) for name in OPTIMIZERS),
        *(supports_attention(device, *pair) for pair in itertools.product(ATTENTIONS, (*AUTO_ORDER, "auto"))),
        *(supports_processes(device, number) for number in (1, 2)),
        *(supports_strategy(device, name, bits=4) for name in ("ddp", "fsdp", "fsdp2", "zero2", "zero3")),
        supports_memory_limit(device, None, None),
        supports_torch(device),
    ]


@EVERY
def test_every_combination_has_a_verdict_with_a_fix(device: Device) -> None:
    for verdict in outcomes(device):
        if verdict.outcome == "yes":
            assert verdict == Verdict("yes")
        else:
            assert verdict.why
            assert verdict.source.startswith("https://")
            assert len(verdict.ways_out) == 2
            assert verdict.fix == f"{verdict.ways_out[0]}, or {verdict.ways_out[1]}"
            assert verdict.allowed == (verdict.outcome == "warn")


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_reason_a_source_and_two_ways_out(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.name)
    assert re.fullmatch(r"https://\S+", rule.source)
    assert len(rule.why) > 20
    assert not rule.why.endswith(".")
    first, second = rule.ways_out
    assert first
    assert second
    assert first != second


def test_names_are_unique_and_refusals_come_before_warnings() -> None:
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)
    for rules in RULES.values():
        kinds = [rule.outcome for rule in rules]
        assert kinds == sorted(kinds), "`no` comes before `warn`"


def test_the_page_lists_exactly_the_rules() -> None:
    expected = [rule_row(rule) for rule in ALL_RULES]
    found = re.findall(r"^\| [a-z0-9-]+ \| (?:refused|warning) \|.*\|$", PAGE, re.MULTILINE)
    assert found == expected, "write into docs/hardware.md:\n" + "\n".join(expected)


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("bfloat16", "a40-48gb a100-40gb a100-80gb h100-80gb h200-141gb l4-24gb l40s-48gb rtx3060-12gb rtx3090-24gb"),
        ("bfloat16", "rtx4070ti-12gb rtx4090-24gb rtx5090-32gb cpu-amx"),
        ("float16", "rtx2060-6gb rtx2080ti-11gb t4-16gb v100-16gb v100-32gb"),
        ("float32", "mps-8gb mps-16gb mps-24gb mps-32gb mps-64gb cpu pascal maxwell"),
    ],
)
def test_auto_is_the_fastest_precision_without_a_refusal_or_warning(dtype: str, names: str) -> None:
    assert {name: best_dtype(DEVICES[name]) for name in names.split()} == dict.fromkeys(names.split(), dtype)


@EVERY
@pytest.mark.parametrize("model_type", [None, "llama", "gemma3_text"])
def test_auto_is_never_refused_nor_warned_of(device: Device, model_type: str | None) -> None:
    chosen = best_dtype(device, model_type=model_type)
    assert supports_dtype(device, chosen, model_type=model_type) == Verdict("yes")


@EVERY
def test_auto_knows_the_rate_it_chose(device: Device) -> None:
    if device.matmul_tflops:
        assert device.matmul_tflops[best_dtype(device)] == max(
            rate for dtype, rate in device.matmul_tflops.items() if dtype != "tf32"
        )


def test_a_model_that_overflows_float16_trains_in_float32_on_turing_and_bfloat16_on_ampere() -> None:
    turing, ampere = PROFILES["t4-16gb"], PROFILES["a40-48gb"]
    assert best_dtype(turing, model_type="gemma3_text") == "float32"
    assert best_dtype(ampere, model_type="gemma3_text") == "bfloat16"
    verdict = supports_dtype(turing, "float16", model_type="gemma3_text")
    assert (verdict.outcome, verdict.rule) == ("warn", "fp16-overflows")


@pytest.mark.parametrize(
    ("name", "dtype", "outcome", "rule"),
    [
        ("rtx2060-6gb", "bfloat16", "no", "bf16-needs-ampere"),
        ("v100-16gb", "bfloat16", "no", "bf16-needs-ampere"),
        ("rtx2060-6gb", "float16", "yes", ""),
        ("rtx3060-12gb", "bfloat16", "yes", ""),
        ("pascal", "float16", "warn", "fp16-slow-before-volta"),
        ("mps-16gb", "float16", "no", "fp16-trouble-on-mps"),
        ("mps-16gb", "bfloat16", "warn", "bf16-emulated-on-mps"),
        ("cpu", "float16", "no", "fp16-not-on-cpu"),
        ("cpu-amx", "float16", "no", "fp16-not-on-cpu"),
        ("cpu", "bfloat16", "warn", "bf16-slow-without-matrix-units"),
        ("cpu-amx", "bfloat16", "yes", ""),
    ],
)
def test_precisions(name: str, dtype: str, outcome: str, rule: str) -> None:
    verdict = supports_dtype(DEVICES[name], dtype)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)


@EVERY
def test_float32_runs_everywhere(device: Device) -> None:
    assert supports_dtype(device, "float32") == Verdict("yes")


@pytest.mark.parametrize(
    ("name", "bits", "outcome", "rule"),
    [
        ("rtx2060-6gb", 4, "yes", ""),
        ("rtx2060-6gb", 8, "yes", ""),
        ("v100-16gb", 4, "yes", ""),
        ("v100-16gb", 8, "warn", "int8-slow-before-turing"),
        ("maxwell", 4, "no", "bitsandbytes-needs-pascal"),
        ("mps-64gb", 4, "no", "no-bitsandbytes-on-mps"),
        ("mps-64gb", 8, "no", "no-bitsandbytes-on-mps"),
        ("cpu", 4, "warn", "quantized-slow-on-cpu"),
    ],
)
def test_quantized_bases(name: str, bits: int, outcome: str, rule: str) -> None:
    verdict = supports_quantization(DEVICES[name], bits)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)


@pytest.mark.parametrize(
    ("name", "optimizer", "outcome", "rule"),
    [
        ("a40-48gb", "adamw_8bit", "yes", ""),
        ("a40-48gb", "paged_adamw_8bit", "yes", ""),
        ("mps-16gb", "adamw_8bit", "no", "no-bitsandbytes-on-mps"),
        ("mps-16gb", "paged_adamw_32bit", "no", "no-bitsandbytes-on-mps"),
        ("mps-16gb", "adamw_torch_fused", "yes", ""),
        ("cpu", "adamw_8bit", "yes", ""),
        ("cpu", "paged_adamw_8bit", "warn", "paged-optimizer-on-cpu"),
        ("maxwell", "adamw_8bit", "no", "bitsandbytes-needs-pascal"),
    ],
)
def test_optimizers(name: str, optimizer: str, outcome: str, rule: str) -> None:
    verdict = supports_optimizer(DEVICES[name], optimizer)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)


def test_libraries_that_are_known_to_be_missing_are_named_and_unknown_ones_are_not() -> None:
    device = PROFILES["a40-48gb"]
    nothing, all_there = frozenset[str](), frozenset({"bitsandbytes", "flash_attn"})
    assert supports_optimizer(device, "adamw_8bit", installed=nothing).rule == "bitsandbytes-not-installed"
    assert supports_optimizer(device, "adamw_torch", installed=nothing).outcome == "yes"
    assert supports_quantization(device, 4, installed=nothing).rule == "bitsandbytes-not-installed"
    assert supports_quantization(device, 4, installed=all_there).outcome == "yes"
    flash = "flash_attention_2"
    assert supports_attention(device, flash, "bfloat16", installed=nothing).rule == "flash-attention-not-installed"
    assert supports_attention(device, flash, "bfloat16", installed=all_there).outcome == "yes"
    assert supports_attention(device, flash, "bfloat16", installed=frozenset({"flash_attn"})).outcome == "yes"
    # If the device cannot use the library, that is the reason to give, and not that it is missing.
    assert supports_optimizer(PROFILES["mps-16gb"], "adamw_8bit", installed=nothing).rule == "no-bitsandbytes-on-mps"


def test_which_optimizers_are_from_bitsandbytes() -> None:
    assert [name for name in OPTIMIZERS if needs_bitsandbytes(name)] == ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"]


@pytest.mark.parametrize(
    ("name", "attention", "dtype", "outcome", "rule"),
    [
        ("a100-40gb", "flash_attention_2", "bfloat16", "yes", ""),
        ("a100-40gb", "flash_attention_2", "auto", "yes", ""),
        ("a100-40gb", "flash_attention_2", "float32", "no", "flash-attention-needs-16-bit"),
        ("rtx2060-6gb", "flash_attention_2", "float16", "no", "flash-attention-needs-ampere"),
        ("rtx5090-32gb", "flash_attention_2", "bfloat16", "yes", ""),
        ("cpu", "flash_attention_2", "bfloat16", "no", "flash-attention-needs-cuda"),
        ("mps-16gb", "flash_attention_2", "bfloat16", "no", "flash-attention-needs-cuda"),
        ("h100-80gb", "flash_attention_3", "bfloat16", "yes", ""),
        ("a100-40gb", "flash_attention_3", "bfloat16", "warn", "flash-attention-3-is-for-hopper"),
        ("rtx5090-32gb", "flash_attention_3", "bfloat16", "warn", "flash-attention-3-is-for-hopper"),
        ("a100-40gb", "flash_attention_4", "bfloat16", "no", "flash-attention-needs-ampere"),
        ("cpu", "flex_attention", "float32", "no", "flex-attention-cannot-train-here"),
        ("mps-16gb", "flex_attention", "float32", "no", "flex-attention-cannot-train-here"),
    ],
)
def test_attention(name: str, attention: str, dtype: str, outcome: str, rule: str) -> None:
    verdict = supports_attention(DEVICES[name], attention, dtype)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)


@EVERY
@pytest.mark.parametrize("attention", ["auto", "eager", "sdpa"])
def test_torchs_own_attention_runs_everywhere(device: Device, attention: str) -> None:
    assert all(supports_attention(device, attention, dtype).outcome == "yes" for dtype in AUTO_ORDER)


@pytest.mark.parametrize(
    ("name", "strategy", "bits", "storage", "dtype", "rule"),
    [
        ("a40-48gb", "ddp", 4, None, None, ""),
        ("a40-48gb", "zero2", 8, None, None, ""),
        ("a40-48gb", "fsdp", None, None, "bfloat16", ""),
        ("a40-48gb", "fsdp", 4, None, "bfloat16", "sharded-4-bit-needs-float-storage"),
        ("a40-48gb", "fsdp2", 4, "uint8", "bfloat16", "sharded-4-bit-needs-float-storage"),
        ("a40-48gb", "fsdp2", 4, "float32", "bfloat16", "sharded-4-bit-needs-float-storage"),
        ("a40-48gb", "fsdp2", 4, "bfloat16", "bfloat16", ""),
        ("a40-48gb", "zero3", 4, "bfloat16", None, ""),
        ("a40-48gb", "zero3", 8, None, None, "int8-cannot-be-sharded"),
        ("a40-48gb", "fsdp", 8, None, None, "int8-cannot-be-sharded"),
        ("cpu", "fsdp", None, None, None, "no-fsdp-on-cpu"),
        ("cpu", "zero3", None, None, None, ""),
        ("cpu", "ddp", None, None, None, ""),
        ("mps-64gb", "ddp", None, None, None, "mps-is-one-process"),
    ],
)
def test_strategies(
    name: str, strategy: str, bits: int | None, storage: str | None, dtype: str | None, rule: str
) -> None:
    verdict = supports_strategy(PROFILES[name], strategy, bits=bits, quant_storage=storage, dtype=dtype)
    assert (verdict.outcome, verdict.rule) == ("no" if rule else "yes", rule)


def test_a_mac_is_one_process() -> None:
    assert supports_processes(PROFILES["mps-64gb"], 2).rule == "mps-is-one-process"
    assert supports_processes(PROFILES["mps-64gb"], 1).outcome == "yes"
    assert supports_processes(PROFILES["cpu"], 2).outcome == "yes"
    assert supports_processes(PROFILES["a40-48gb"], 8).outcome == "yes"


@pytest.mark.parametrize(
    ("high", "low", "outcome", "rule"),
    [
        (None, None, "warn", "mps-watermark-lets-it-swap"),
        (0.0, None, "warn", "mps-watermark-lets-it-swap"),
        (1.7, 1.4, "warn", "mps-watermark-lets-it-swap"),
        (1.0, 0.9, "yes", ""),
        (0.7, None, "no", "mps-watermarks-cross"),
        (0.7, 0.8, "no", "mps-watermarks-cross"),
    ],
)
def test_memory_watermarks_of_mps(high: float | None, low: float | None, outcome: str, rule: str) -> None:
    """Torch's own values are 1.7 and 1.4, so that a lower high mark alone lies below the low one."""
    verdict = supports_memory_limit(PROFILES["mps-16gb"], high, low)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)
    assert supports_memory_limit(PROFILES["cpu"], high, low).outcome == "yes"


def test_volta_needs_an_older_build_of_torch_and_turing_does_not() -> None:
    assert supports_torch(PROFILES["v100-16gb"]).rule == "old-gpu-needs-cuda-12-build"
    assert supports_torch(PASCAL).outcome == "warn"
    assert supports_torch(PROFILES["t4-16gb"]).outcome == "yes"
    assert supports_torch(PROFILES["cpu"]).outcome == "yes"


def test_choices_that_are_not_given_are_not_refused() -> None:
    for question, device in itertools.product(RULES, DEVICES.values()):
        verdict = ask(question, device, Choice(high_watermark=1.0, low_watermark=1.0))
        assert verdict.outcome == "yes" or question == "torch"


def test_the_rules_import_no_large_library() -> None:
    """`dpo-recipe validate` uses them, and must not wait for torch or even pydantic."""
    code = (
        "import sys, dpo_recipes.hardware.rules; "
        "print(sorted({'torch', 'transformers', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
