"""Compares the logits of trained models with those of the saved models, for each architecture, tuning and form.

    python benchmarks/saved_models.py [--architectures llama gpt2-tied] [--output benchmarks/results/saved_models.json]

Plain transformers and peft reload the saved models in another process. The result is the largest difference of logits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dpo_recipes.hardware.machine import describe_machine, package_versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main() -> None:
    """Save and reload every cell of the table; print or write the differences. Exits with 1 if one cannot be loaded."""
    from saved_models import ARCHITECTURES

    parser = argparse.ArgumentParser()
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cells: list[dict[str, Any]] = []
    started = time.perf_counter()
    for architecture in options.architectures:
        cells += measure(architecture)
        print(f"{architecture}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    report = {
        "machine": describe_machine(),
        "packages": package_versions(),
        "largest": max(cell["difference"] for cell in cells),
        "cells": cells,
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text, table(cells), sep="\n")
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    sys.exit(any("why" in cell for cell in cells))


def measure(architecture: str) -> list[dict[str, Any]]:
    """The largest difference of logits and the largest logit for each tuning and form of an architecture."""
    from saved_models import TUNINGS, reload_cells, save_cell

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        saved = [cell for name in TUNINGS for cell in save_cell(architecture, name, folder / name, folder / "bases")]
        compared = reload_cells(saved, folder)
    return [
        {key: cell[key] for key in ("architecture", "tuning", "form", "difference", "scale", "why") if key in cell}
        for cell in compared
    ]


def table(cells: list[dict[str, Any]]) -> str:
    """The differences as the Markdown table of docs/models.md: a row for each tuning and form."""
    architectures = list(dict.fromkeys(cell["architecture"] for cell in cells))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        difference = cell["difference"]
        shown = f"{difference:.0e}" if difference else "0"
        rows.setdefault((cell["tuning"], cell["form"]), {})[cell["architecture"]] = shown
    lines = [
        f"| {tuning} | {form} | " + " | ".join(row[name] for name in architectures) + " |"
        for (tuning, form), row in rows.items()
    ]
    head = f"| tuning | saved as | {' | '.join(architectures)} |"
    return "\n".join([head, "| --- " * (2 + len(architectures)) + "|", *lines]) + "\n"


if __name__ == "__main__":
    main()
