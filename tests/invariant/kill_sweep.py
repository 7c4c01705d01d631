"""SIGKILL at random moments to a sweep with two workers, until it has finished: the same trials, values and winner as a
sweep that nobody disturbed, and nothing that had finished is computed again.

    python tests/invariant/kill_sweep.py [--kills 5] [--seed 0]

A kill hits the whole command with all of its processes, or the command alone, or one of its two processes, or a worker
that trains. The command is then started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from tiny import recipe_text, save_tiny_model, write_pairs

WAYS = ("all", "command", "process", "worker")


def make_recipe(folder: Path) -> Path:
    """A sweep of four short trials, each with evaluations and checkpoints."""
    text = recipe_text(save_tiny_model(folder / "model"), write_pairs(folder / "pairs.jsonl", 60))
    text = text.replace("max_steps: 3", "num_epochs: 2, eval_steps: 5")
    recipe = folder / "tiny.yaml"
    sweep = "sweep: {parallel: 2, grid: {training.learning_rate: [1e-2, 1e-3], training.weight_decay: [0.0, 0.1]}}\n"
    recipe.write_text(text + "checkpoints: {save_steps: 2}\n" + sweep, encoding="utf-8")
    return recipe


def start(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The command, with a cache and an output folder of its own."""
    environment = {**os.environ, "DPO_RECIPE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "dpo_recipes", "run", str(recipe), "--set", f"output_dir={folder / 'runs'}"]
    with (folder / "command.log").open("ab") as log:
        return subprocess.Popen([*program, "--retries", "3"], stdout=log, stderr=log, env=environment)


def kill(command: subprocess.Popen[bytes], way: str, draw: random.Random) -> bool:
    """Kill what the way says. False if there is none of it at the moment."""
    parent = psutil.Process(command.pid)
    below = [(process, _line_of(process)) for process in parent.children(recursive=True)]
    workers = [process for process, line in below if "dpo_recipes.worker" in line]
    processes = [process for process, line in below if "spawn_main" in line]
    chosen = {"all": [parent, *(process for process, _ in below)], "command": [parent]}.get(way)
    if chosen is None:
        found = workers if way == "worker" else processes
        chosen = draw.sample(found, min(1, len(found)))
    for process in chosen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(chosen)


def _line_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


def sweep_of(folder: Path) -> Path:
    """The directory of the only sweep. Raises `ValueError` if there are several."""
    (sweep,) = (folder / "runs" / "tiny").glob("*-*")
    return sweep


def finished_runs(folder: Path) -> dict[str, int]:
    """When each run that has a result got it."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/*/*/*/result.json")}


def run(recipe: Path, folder: Path, kills: int, draw: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Run the sweep to its end, and kill it on the way. Returns what must be the same, and how it was killed."""
    ways = follow(recipe, folder, kills, draw)
    return outcome(folder), ways


def follow(recipe: Path, folder: Path, kills: int, draw: random.Random) -> list[str]:
    """Run a job with several runs to its end, and kill it on the way. Returns how it was killed."""
    folder.mkdir()
    ways: list[str] = []
    seen: dict[str, int] = {}
    command = start(recipe, folder)
    began = time.monotonic()
    while True:
        pause = draw.uniform(3, 20) if len(ways) < kills else 900
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = command.wait(pause)
            if code == 0:
                break
            if code > 0:
                raise SystemExit(f"the command ended with {code}:\n{(folder / 'command.log').read_text()[-3000:]}")
            command = start(recipe, folder)  # it was killed
            continue
        if time.monotonic() - began > 1800:
            raise SystemExit("the job does not end")
        done = finished_runs(folder)
        assert all(done[name] == moment for name, moment in seen.items()), "a finished run was computed again"
        seen = done
        way = draw.choice(WAYS)
        if len(ways) < kills and kill(command, way, draw):
            ways.append(way)
    assert all(finished_runs(folder)[name] == moment for name, moment in seen.items()), (
        "a finished run was computed again"
    )
    return ways


def outcome(folder: Path) -> dict[str, Any]:
    """The trials with their metrics, the winner, and the entries of the cache."""
    sweep = sweep_of(folder)
    result = json.loads((sweep / "result.json").read_text())
    metrics = {}
    for path in sorted(sweep.glob("trials/*/result.json")):
        plain = json.loads(path.read_text())
        metrics[path.parent.name] = {name: plain[name] for name in ("metrics", "base_metrics", "steps", "samples")}
    return {
        "trials": [(trial["number"], trial["values"], trial["value"]) for trial in result["trials"]],
        "best": result["best"],
        "metrics": metrics,
        "cache": sorted(str(path.relative_to(folder / "cache")) for path in _entries(folder / "cache")),
    }


def _entries(cache: Path) -> list[Path]:
    """The entries of the cache, and what should not be left beside them, such as locks and unfinished entries."""
    return [path for kind in ("rows", "tokens", "reference") for path in (cache / kind).iterdir()]


def attempts(folder: Path) -> int:
    """How often runs were started."""
    result = json.loads((sweep_of(folder) / "result.json").read_text())
    return sum(run["attempts"] for trial in result["trials"] for run in trial["runs"])


def main() -> int:
    """Kill, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = make_recipe(folder)
        expected, _ = run(recipe, folder / "calm", 0, draw)
        found, ways = run(recipe, folder / "killed", options.kills, draw)
        wrong = [part for part in expected if found[part] != expected[part]]
        for part in wrong:
            print(f"{part}:\n  {expected[part]}\n  {found[part]}")
        started, most = attempts(folder / "killed"), len(expected["trials"]) + 2 * len(ways)
        if started > most:  # a kill ends at most the two runs that are being executed
            wrong.append("attempts")
        verdict = f"differs in {', '.join(wrong)}" if wrong else "the same trials, values and winner"
        runs = f"{started} starts of {len(expected['trials'])} runs"
        print(f"killed {len(ways)} times ({', '.join(ways)}), {runs}: {verdict}")
    return 1 if wrong or len(ways) < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
