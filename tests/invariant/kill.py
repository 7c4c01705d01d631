"""SIGKILL at random moments, again and again, until the run has finished: its weights must be those of a run that
nobody disturbed, to the bit, and so must its metrics.

    python tests/invariant/kill.py [--kills 50] [--runs 5] [--seed 0] [--adapter lora|full] [--processes 1]
    python tests/invariant/kill.py --chain [--kills 10] [--seed 0]

Libraries are loaded once; each attempt is a fork of this process that executes the worker as its launcher would. Kills
are spread over data preparation, reference pass, steps, checkpoints being written, evaluations, and saving. Of several
processes (DDP over gloo) a random one is killed, and the others then, as torchrun does it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import recipe_text, save_tiny_model, write_pairs

from dpo_recipes import worker
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.preparation import prepare_run
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_dir import RunDirectory

MOMENTS = {
    "start": ("stage", "start", 0.5),
    "data": ("stage", "data", 0.1),
    "reference": ("stage", "reference", 0.3),
    "base": ("stage", "base", 0.3),
    "step": ("step", None, 0.8),
    "saving": ("saving", None, 0.03),
    "training": ("stage", "train", 1.5),
    "evaluate": ("stage", "evaluate", 0.2),
    "save": ("stage", "save", 0.1),
}
"""By name: the event after which to kill, the stage it names, and within how many seconds."""
TIMED = ("runtime", "per_second", "memory", "time")


def make_job(folder: Path, adapter: str) -> Path:
    """A recipe with everything that random numbers go into: dropout, shuffled pairs, evaluations, and an end within an
    epoch, where steps still learn."""
    model = save_tiny_model(folder / "model")
    pairs = write_pairs(folder / "pairs.jsonl", 60)
    kind = "{kind: lora, r: 4, dropout: 0.2}" if adapter == "lora" else "null"
    text = recipe_text(model, pairs, adapter=kind)
    text = text.replace("max_steps: 3", "num_epochs: 1.5, eval_steps: 5, lr_scheduler: constant")
    text = text.replace("logging_steps: 1", "logging_steps: 3")
    recipe = folder / "tiny.yaml"
    recipe.write_text(text + "checkpoints: {save_steps: 2}\n", encoding="utf-8")
    return recipe


def start(run: RunDirectory, cache: Path, count: int) -> list[int]:
    """Execute the run directory in forks of this process; their ids."""
    run.clear_events()
    port = str(random.SystemRandom().randrange(20_000, 60_000))
    return [_fork(run, cache, rank, count, port) for rank in range(count)]


def _fork(run: RunDirectory, cache: Path, rank: int, count: int, port: str) -> int:
    process = os.fork()
    if process:
        return process
    os.environ["DPO_RECIPE_CACHE"] = str(cache)
    if count > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(count)}
    log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(worker.main([str(run.path)]))


def wait_for(run: RunDirectory, process: int, moment: str, count: int) -> bool:
    """Wait until the run has reported the moment `count` times. False if it ended before that."""
    event, stage, _ = MOMENTS[moment]
    end = time.monotonic() + 300
    while time.monotonic() < end:
        lines = run.events.read_text().splitlines() if run.events.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        if sum(e["event"] == event and stage in (None, e.get("name")) for e in events) >= count:
            return True
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    raise SystemExit(f"nothing happened in {run.path}")


def all_moments(draw: random.Random) -> Iterator[str]:
    """Moments without end: each of them once, in a random order, then each of them again."""
    while True:
        yield from draw.sample(list(MOMENTS), len(MOMENTS))


def disturbed(
    recipe: Path, folder: Path, draw: random.Random, moments: Iterator[str], kills: int, count: int
) -> tuple[RunDirectory, list[str]]:
    """A run that was killed `kills` times, or fewer where it finished before, and where."""
    run = new_run(recipe, folder, count)
    where: list[str] = []
    while True:
        processes = start(run, folder / "cache", count)
        aim = None
        if len(where) < kills:
            moment = next(moments)
            times = draw.randint(1, 6) if moment in ("step", "saving") else 1
            if wait_for(run, processes[0], moment, times):
                time.sleep(draw.uniform(0, MOMENTS[moment][2]))
                for process in draw.sample(processes, count):
                    os.kill(process, signal.SIGKILL)
                    time.sleep(draw.uniform(0, 0.2) if count > 1 else 0)
                aim = moment
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        if codes == [0] * count:  # also where the kill came too late
            return run, where
        if aim and -signal.SIGKILL in codes:
            where.append(aim)
        else:
            raise SystemExit(f"attempt ended with {codes}:\n{run.log.read_text()[-3000:]}")


def new_run(recipe: Path, folder: Path, count: int) -> RunDirectory:
    """A prepared run directory."""
    return prepare_run(validate(recipe, [f"output_dir={folder}"]), flags=LaunchFlags(count))[0].run


def outcome(run: RunDirectory) -> dict[str, Any]:
    """All that must be the same: bytes of the model's weights, rows of metrics, and results, without what is timed."""
    weights = {path.name: path.read_bytes() for path in (run.path / "model").glob("*.safetensors")}
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    result = json.loads(run.result.read_text())
    kept = ("metrics", "base_metrics", "steps", "samples", "num_train_pairs")
    return {
        "weights": weights,
        "rows": [_untimed(row) for row in rows],
        **{name: result[name] for name in kept},
    }


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not any(word in name for word in TIMED)}


def main() -> int:
    """Kill, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapter", choices=["lora", "full"], default="lora")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.chain:
        from kill_chain import kill_chain

        return kill_chain(options.kills or 10, options.seed)
    options.kills = options.kills or 50

    draw = random.Random(options.seed)
    moments, seen = all_moments(draw), Counter[str]()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = make_job(folder, options.adapter)
        expected = outcome(disturbed(recipe, folder / "calm", draw, moments, 0, options.processes)[0])
        number = 0
        while seen.total() < options.kills:  # a run that was too quick for its killer does not count for much
            share = min(-(-options.kills // options.runs), options.kills - seen.total())
            run, where = disturbed(recipe, folder / f"run{number}", draw, moments, share, options.processes)
            number += 1
            seen.update(where)
            found = outcome(run)
            wrong = [part for part in expected if found[part] != expected[part]]
            failures += bool(wrong)
            verdict = f"differs in {', '.join(wrong)}" if wrong else "the same to the bit"
            print(f"run {number}: killed {len(where)} times ({', '.join(where)}): {verdict}", flush=True)
            if wrong:
                shutil.copytree(run.path, Path(tempfile.mkdtemp()) / "run")
        spread = ", ".join(f"{moment} {seen[moment]}" for moment in MOMENTS)
        print(f"{seen.total()} kills in {number} runs: {spread}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
