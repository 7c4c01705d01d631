"""(d) A run that is killed with SIGKILL and started again, beside two that nobody disturbs; and the command itself.

Backward passes of flash attention add in another order each time, so that two undisturbed runs differ too: how much is
the measure for the one that resumed. On a CPU all three are equal to the bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from context import Context

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "invariant")]

_STEPS, _KILLED_AFTER, _SAVED_EVERY = 8, 5, 2


def run(context: Context) -> None:
    """Two calm runs and a killed one; record how far apart their weights are."""

    recipe = _in_a_fork(write_job, context)
    calm = [_calm(recipe, context.scratch / f"calm{number}") for number in range(2)]
    killed, resumed_from = _killed(recipe, context.scratch / "killed")
    context.record(
        "resume",
        "difference of weights",
        {
            "steps": _STEPS,
            "killed_after": _KILLED_AFTER,
            "resumed_from": resumed_from,
            "undisturbed": _difference(calm[0], calm[1]),
            "killed_and_resumed": _difference(calm[0], killed),
        },
    )


def _in_a_fork(write: Callable[[Context], None], context: Context) -> Path:
    """Write the job in a process of its own: where torch has begun threads, later forks would wait for them without
    end."""
    process = os.fork()
    if not process:
        try:
            write(context)
        except BaseException:  # noqa: BLE001 - the edge of the process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise RuntimeError("the job could not be written; the log has the reason")
    return job_folder(context) / "recipe.yaml"


def job_folder(context: Context) -> Path:
    """Where the recipe, its base and its data are."""
    return context.scratch / "resume-job"


def write_job(context: Context) -> None:
    """A recipe with a base on disk, for the command as people run it."""
    import memory
    import tiny
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = job_folder(context)
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        return
    tokenizer = tiny.make_tokenizer()
    sizes = {} if not context.is_tiny else dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    shape = {**memory.MODELS["llama"], "vocab_size": len(tokenizer), "num_attention_heads": 8, "num_key_value_heads": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape | sizes, **special)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    pairs = tiny.write_pairs(folder / "pairs.jsonl", 60)
    text = tiny.recipe_text(folder / "model", pairs, adapter="{kind: lora, r: 8, dropout: 0.1}")
    text = text.replace("device: cpu", f"device: {context.device.kind}").replace("max_steps: 3", f"max_steps: {_STEPS}")
    text = text.replace("num_samples: 2, max_new_tokens: 8", "num_samples: 1, max_new_tokens: 2")
    recipe.write_text(f"{text}checkpoints: {{save_steps: {_SAVED_EVERY}}}\n", encoding="utf-8")


def _calm(recipe: Path, folder: Path) -> Any:
    import kill

    run = kill.new_run(recipe, folder, 1)
    _wait(run, kill.start(run, folder / "cache", 1)[0], expected=0)
    return run


def _killed(recipe: Path, folder: Path) -> tuple[Any, int]:
    import kill

    run = kill.new_run(recipe, folder, 1)
    process = kill.start(run, folder / "cache", 1)[0]
    if not kill.wait_for(run, process, "step", _KILLED_AFTER):
        raise RuntimeError(f"the run ended before it could be killed:\n{run.log.read_text()[-2000:]}")
    os.kill(process, signal.SIGKILL)
    _wait(run, process, expected=-signal.SIGKILL)
    _wait(run, kill.start(run, folder / "cache", 1)[0], expected=0)
    return run, json.loads(run.result.read_text())["resumed_from_step"]


def _wait(run: Any, process: int, expected: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code != expected:
        raise RuntimeError(f"a run ended with {code}, not {expected}:\n{run.log.read_text()[-3000:]}")


def _difference(first: Any, second: Any) -> dict[str, Any]:
    """How far the weights of two runs' saved models are apart, and what the training has moved them by."""
    from safetensors.numpy import load_file

    largest = squares = total = 0.0
    for path in sorted((first.path / "model").glob("*.safetensors")):
        mine, theirs = load_file(path), load_file(second.path / "model" / path.name)
        for name, weight in mine.items():
            apart = weight.astype("float64") - theirs[name].astype("float64")
            largest = max(largest, float(abs(apart).max()))
            squares, total = squares + float((apart**2).sum()), total + float((weight.astype("float64") ** 2).sum())
    return {"is_equal": largest == 0.0, "largest": largest, "relative": (squares / max(total, 1e-300)) ** 0.5}


def run_command(context: Context) -> None:
    """`dpo-recipe run` as a person starts it, in processes of its own."""
    recipe = _in_a_fork(write_job, context)
    command = [
        sys.executable,
        "-m",
        "dpo_recipes",
        "run",
        str(recipe),
        "--set",
        f"output_dir={context.scratch / 'runs'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    results = sorted((context.scratch / "runs").rglob("result.json"))
    value: dict[str, Any] = {"exit_code": done.returncode}
    if done.returncode or not results:
        value["stderr"] = done.stderr[-3000:]
    else:
        result = json.loads(results[-1].read_text())
        value |= {name: result.get(name) for name in ("steps", "model", "peak_memory_bytes", "pairs_per_second")}
    context.record("resume", "the command", value)
