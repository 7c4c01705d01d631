"""Two nodes that run the same command, as SkyPilot and Kubernetes start them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.recipe.validate import validate
from dpo_recipes.resume import find_unfinished

PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))


class Nodes:
    """Two commands that meet on this machine."""

    def __init__(self, recipe: Path, *folders: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            place = f"127.0.0.1:{listener.getsockname()[1]}"
        flags = ["--num-processes", "2", "--num-nodes", "2", "--rendezvous", place]
        self.commands = []
        for folder in folders:
            folder.mkdir(exist_ok=True)
            command = [PROGRAM, "run", str(recipe), *flags]
            self.commands.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))

    def wait(self) -> tuple[list[int], list[str]]:
        """How they ended, and what they said."""
        said = [command.communicate(timeout=500)[1] for command in self.commands]
        return [command.returncode for command in self.commands], said


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    write_pairs(tmp_path / "pairs.jsonl", 40)
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_text(tiny_model, "pairs.jsonl", adapter="{kind: lora, r: 4, dropout: 0.2}"))
    return path


@pytest.mark.slow
def test_each_node_ends_well_and_one_has_the_result(tmp_path: Path, recipe: Path) -> None:
    codes, said = Nodes(recipe, tmp_path / "first", tmp_path / "second").wait()
    assert codes == [0, 0], said
    (result,) = tmp_path.glob("*/runs/tiny/*/result.json")
    assert sum("step 3/3" in text for text in said) == 1
    for text in said:  # also of the node whose run directory it is not in, as it sees the other one's
        assert str(result.parent.relative_to(tmp_path)).partition("/")[2] in text.rpartition("report ")[2], text


@pytest.mark.slow
def test_nodes_with_common_files_go_on_to_the_same_weights(tmp_path: Path, recipe: Path) -> None:
    """Whichever of them is given which rank, and whoever finds the run that is to be gone on with."""
    long = recipe.read_text().replace("max_steps: 3", "max_steps: 12")
    recipe.write_text(long + "checkpoints: {save_steps: 2}")
    calm, common = tmp_path / "calm", tmp_path / "common"
    codes, said = Nodes(recipe, calm, calm).wait()
    assert codes == [0, 0], said
    nodes = Nodes(recipe, common, common)
    while not list(common.glob("runs/tiny/*/checkpoints/checkpoint-4")):
        assert all(command.poll() is None for command in nodes.commands)
        time.sleep(0.05)
    for command in nodes.commands:
        command.send_signal(signal.SIGINT)
    codes, said = nodes.wait()
    assert codes == [75, 75], said
    (home,) = {path.parents[1] for path in common.glob("runs/tiny/*/checkpoints/checkpoint-*")}
    codes, said = Nodes(recipe, common, common).wait()
    assert codes == [0, 0], said
    assert json.loads((home / "result.json").read_text())["resumed_from_step"] >= 4
    weights = {path.read_bytes() for path in tmp_path.glob("*/runs/tiny/*/model/adapter_model.safetensors")}
    assert len(weights) == 1
    validated = validate(recipe, [f"output_dir={common / 'runs'}"])
    assert find_unfinished(validated.recipe, common / "runs", print) is None, "all directories are of a finished run"
