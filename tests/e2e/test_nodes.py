"""Two nodes that run the same command and share no run directory, as SkyPilot and Kubernetes start them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import recipe_text, write_pairs

PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))


@pytest.mark.slow
def test_each_node_ends_well_and_one_has_the_result(tmp_path: Path, tiny_model: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe_text(tiny_model, "pairs.jsonl"), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = ["--num-processes", "2", "--num-nodes", "2", "--rendezvous", place]
    nodes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        command = [PROGRAM, "run", str(recipe), *flags]
        nodes.append(subprocess.Popen(command, cwd=tmp_path / name, stderr=subprocess.PIPE, text=True))
    said = [node.communicate(timeout=500)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert len(list(tmp_path.glob("*/runs/tiny/*/result.json"))) == 1
    assert sum("the result is on the node of the first process" in text for text in said) == 1
    assert sum("step 3/3" in text for text in said) == 1
