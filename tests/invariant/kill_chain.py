"""SIGKILL at random moments to a chain with two workers, until it has finished: the same weights and metrics of all
steps as in a chain that nobody disturbed, to the bit, and nothing that had finished is computed again.

A kill hits the whole command with all of its processes, or the command alone, or one of its two processes, or a worker
that trains. The command is then started again. `kill.py --chain` starts this.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from kill import outcome as outcome_of
from kill_sweep import follow
from tiny import recipe_text, save_tiny_model, write_pairs

from dpo_recipes.run_dir import RunDirectory

STEPS = """\
schema: 1
name: tiny
parallel: 2
steps:
  sft: {recipe: base.yaml, objective: {kind: sft}}
  dpo: {recipe: base.yaml, set: {model.path: "step:sft"}}
  reward: {recipe: base.yaml, objective: {kind: reward}}
"""


def make_chain(folder: Path) -> Path:
    """A chain of three short runs with evaluations and checkpoints, of which one needs another."""
    adapter = "{kind: lora, r: 4, dropout: 0.2, save_as: merged}"
    text = recipe_text(save_tiny_model(folder / "model"), write_pairs(folder / "pairs.jsonl", 60), adapter=adapter)
    text = text.replace("max_steps: 3", "num_epochs: 2, eval_steps: 5")
    text = text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", "evaluation: {num_samples: 0}\n")
    (folder / "base.yaml").write_text(text + "checkpoints: {save_steps: 2}\n", encoding="utf-8")
    chain = folder / "chain.yaml"
    chain.write_text(STEPS, encoding="utf-8")
    return chain


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same, by step. Raises `ValueError` if there are several job directories."""
    (job,) = (folder / "runs" / "tiny").glob("*-*")
    steps = json.loads((job / "result.json").read_text())["steps"]
    found = {step["name"]: {"directory": step["directory"], "figures": step["figures"]} for step in steps}
    for step in steps:
        found[step["name"]] |= outcome_of(RunDirectory(job / step["directory"]))
    return found


def attempts(folder: Path) -> int:
    """How often steps were started."""
    (path,) = (folder / "runs" / "tiny").glob("*-*/result.json")
    return sum(step["attempts"] for step in json.loads(path.read_text())["steps"])


def kill_chain(kills: int, seed: int) -> int:
    """Kill, compare, report. Returns the exit code."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chain = make_chain(folder)
        follow(chain, folder / "calm", 0, draw)
        expected = outcome(folder / "calm")
        ways = follow(chain, folder / "killed", kills, draw)
        found = outcome(folder / "killed")
        wrong = [
            f"{step}: {part}"
            for step in expected
            for part in expected[step]
            if found[step][part] != expected[step][part]
        ]
        verdict = f"differs in {', '.join(wrong)}" if wrong else "the same to the bit"
        starts = f"{attempts(folder / 'killed')} starts of {len(expected)} steps"
        print(f"killed {len(ways)} times ({', '.join(ways)}), {starts}: {verdict}", flush=True)
    return 1 if wrong or len(ways) < kills else 0
