"""Whatever does not train answers at once: a fresh process loads no heavy library for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_runs import make_recipe, make_run

from dpo_recipes.shipped import recipe_paths

HEAVY = {"torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy", "tokenizers", "safetensors"}
SCRIPT = """
import sys
from dpo_recipes.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    print("\\nEND", end.code or 0, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def _end_of(*arguments: str, cwd: Path, script: str = SCRIPT) -> tuple[int, set[str]]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=cwd)
    assert "END" in done.stdout, done.stderr
    _, code, *modules = done.stdout.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["validate", name] for name in recipe_paths()),
        ["show", "smollm2_hh"],
        ["--help"],
        ["run", "--help"],
        ["data", "--help"],
        ["lock", "--help"],
        ["reproduce", "--help"],
        ["--version"],
        ["ls"],
        ["schema"],
        ["explain", "R203"],
        ["runs", "--output-dir", "."],
        ["report", "--help"],
        ["runs", "prune", "--output-dir", "."],
        ["cp", "smollm2_hh", "copy.yaml"],
        ["init", "--model", "owner/model", "--data", "owner/pairs"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_train_loads_no_heavy_library(arguments: list[str], tmp_path: Path) -> None:
    code, modules = _end_of(*arguments, cwd=tmp_path)
    assert code == 0
    assert "dpo_recipes" in modules
    assert not modules & HEAVY


def test_a_heavy_library_would_be_seen(tmp_path: Path) -> None:
    _, modules = _end_of("--version", cwd=tmp_path, script=SCRIPT.replace("import sys", "import sys, numpy"))
    assert "numpy" in modules


def test_comparing_runs_loads_no_heavy_library(tmp_path: Path) -> None:
    for number in (1, 2):
        make_run(tmp_path / "runs", make_recipe(training={"num_epochs": number}), digits=f"00000{number}")
    code, modules = _end_of("report", "000001", "000002", "--output", "page.html", cwd=tmp_path)
    assert code == 0
    assert (tmp_path / "page.html").exists()
    assert not modules & HEAVY
