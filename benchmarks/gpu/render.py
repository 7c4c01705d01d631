"""The results of the GPU check as tables.

    python benchmarks/gpu/render.py benchmarks/results/gpu-NAME.json [--write]

prints them; `--write` puts them into docs/performance.md and docs/memory.md, between the marks that stand there for
them, in the place of what is between these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
GIB = 2**30
Content = dict[str, Any]


def as_text(content: Content) -> str:
    """All tables, and what failed or was left out."""
    sections = [heading(content), *performance(content), *memory(content), *notes(content)]
    return "\n".join(sections)


def heading(content: Content) -> str:
    """The machine and the versions."""
    device, there = content.get("device", {}), content.get("packages", {}).get("there", {})
    versions = ", ".join(f"{name} {there[name]}" for name in ("torch", "transformers", "trl", "peft") if name in there)
    rate = f", {device['matmul_flops'] / 1e12:.0f} TFLOP/s in matrix products" if "matmul_flops" in device else ""
    return f"{device.get('name', 'unknown device')}{rate}; {versions}; {content.get('started', '')[:10]}.\n"


def performance(content: Content) -> Iterator[str]:
    """Exactness, speed, attention and resuming."""
    yield from _exactness(content.get("sharing", {}))
    yield from _speed(content.get("speed", {}))
    yield from _attention(content.get("flex", {}))
    yield from _resume(content.get("resume", {}))


def _exactness(rows: Content) -> Iterator[str]:
    if not rows:
        return
    yield "| prefix sharing | hidden states: padded, shared | gradients: padded, shared | kernel calls | right |"
    yield "| --- | --- | --- | --- | --- |"
    for name, row in rows.items():
        errors = [f"{row[what]['padded']:.1e}, {row[what]['shared']:.1e}" for what in ("hidden", "gradients")]
        right = "yes" if all(row[what]["is_right"] for what in ("hidden", "gradients")) else "**no**"
        yield f"| {name} | {errors[0]} | {errors[1]} | {row['kernel_calls']} | {right} |"
    yield ""


def _speed(rows: Content) -> Iterator[str]:
    if not rows:
        return
    columns = (
        "pairs/s with reference",
        "share of matrix products' rate",
        "peak GiB",
        "ours / TRL",
        "losses apart at most",
    )
    yield f"| job | side | {' | '.join(columns)} |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, row in rows.items():
        job, side = name.rsplit(", ", 1)
        share = f"{row['matmul_share']:.1%}" if row.get("matmul_share") else "not known"
        ratio = apart = ""
        other = rows.get(f"{job}, trl")
        if side == "ours" and other:
            ratio = f"{row['pairs_per_second'] / other['pairs_per_second']:.2f}"
            apart = f"{max(abs(a - b) for a, b in zip(row['losses'], other['losses'])):.1e}"  # noqa: B905 - a shorter side
        batch = f"{job}, batches of {row['batch']}{', checkpointed' if row['checkpointing'] else ''}"
        peak = row["reserved_bytes"] / GIB
        yield f"| {batch} | {side} | {row['pairs_per_second']:.2f} | {share} | {peak:.2f} | {ratio} | {apart} |"
    yield ""


def _attention(rows: Content) -> Iterator[str]:
    if not rows:
        return
    yield "| one layer's attention | way | forward ms | forward and backward ms |"
    yield "| --- | --- | --- | --- |"
    for name, ways in rows.items():
        for way, row in ways.items():
            if isinstance(row, dict):
                times = [row.get(key) for key in ("forward_s", "forward_and_backward_s")]
                cells = [f"{1000 * seconds:.2f}" if seconds else "not measured" for seconds in times]
                yield f"| {name}, {ways['tokens']} tokens | {way} | {cells[0]} | {cells[1]} |"
    yield ""


def _resume(rows: Content) -> Iterator[str]:
    apart = rows.get("difference of weights")
    if apart:
        words = [
            "equal to the bit" if apart[key]["is_equal"] else f"{apart[key]['relative']:.1e} apart (relative)"
            for key in ("undisturbed", "killed_and_resumed")
        ]
        yield (
            f"A run of {apart['steps']} steps, killed after step {apart['killed_after']} and resumed from step "
            f"{apart['resumed_from']}: its weights are {words[1]} from an undisturbed run's; two undisturbed runs are "
            f"{words[0]}.\n"
        )
    if "the command" in rows:
        yield f"`dpo-recipe run` ended with exit code {rows['the command']['exit_code']}.\n"


def memory(content: Content) -> Iterator[str]:
    """Predicted against measured peaks."""
    points = content.get("memory", {})
    if not points:
        return
    yield "| point | measured MiB | predicted MiB | error |"
    yield "| --- | --- | --- | --- |"
    errors = []
    for name, point in points.items():
        predicted = content.get("predictions", {}).get(name, {}).get("peak_bytes")
        measured = point.get("measured_bytes")
        error = ""
        if predicted and measured:
            errors.append(predicted / measured - 1)
            error = f"{errors[-1]:+.1%}"
        cells = [f"{size / 2**20:.0f}" if size else "" for size in (measured, predicted)]
        yield f"| {name} | {cells[0] or 'out of memory'} | {cells[1] or 'not predicted'} | {error} |"
    if errors:
        median = statistics.median(map(abs, errors))
        yield f"\n{len(errors)} points: median error {median:.1%}, from {min(errors):+.1%} to {max(errors):+.1%}."
    yield ""


def notes(content: Content) -> Iterator[str]:
    """What failed, what was left out."""
    for title in ("imports_failed", "failures", "skipped"):
        for name, reason in content.get(title, {}).items():
            yield f"{title}: {name}: {' '.join(str(reason).split())[:300]}"


def write(content: Content, path: Path, lines: list[str]) -> None:
    """Put the tables between a page's marks."""
    text = path.read_text(encoding="utf-8")
    start, end = "<!-- gpu-check: begins -->", "<!-- gpu-check: ends -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"{path} lacks the marks {start} and {end}")
    before, after = text[: text.index(start) + len(start)], text[text.index(end) :]
    path.write_text("\n".join([before, heading(content), *lines, after]), encoding="utf-8")


def main() -> None:
    """Print, or write into the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--docs", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    content = json.loads(options.results.read_text(encoding="utf-8"))
    print(as_text(content))
    if not options.write:
        return
    if content.get("is_tiny"):
        sys.exit("these results are of a trial with tiny models: nothing was written")
    write(content, options.docs / "performance.md", list(performance(content)))
    write(content, options.docs / "memory.md", list(memory(content)))


if __name__ == "__main__":
    main()
