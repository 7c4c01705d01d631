"""`dpo-recipe evaluate` that is killed or interrupted: the same command goes on and ends in the same result as one that
nobody disturbed, and until then nothing looks finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import write_pairs

from dpo_recipes.errors import EXIT_RESUMABLE, EXIT_RUN
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.evaluation_run import FOLDER
from dpo_recipes.run_dir import RunDirectory, read_json_lines

PROGRAM = Path(sys.executable).with_name("dpo-recipe")
SETTINGS = ["--limit", "40", "--batch-size", "4", "--max-new-tokens", "48", "--kl-prompts", "20", "--no-overlap"]
SETTINGS += ["--temperature", "1", "--reward", "{rule: length, max: 20}", "--chat-template", "chatml"]
VOLATILE = ("wall_s", "finished_at")


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with pairs, a model, and another one that it is compared with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_pairs(tmp_path / "pairs.jsonl", 40)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "tuned")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "tuned")
    (tmp_path / "base").symlink_to(tiny_model)
    return tmp_path


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """The command, with a cache and an output directory of this name."""
    return subprocess.Popen(
        [PROGRAM, "evaluate", "tuned", "--against", "base", "--data", "pairs.jsonl", "--output-dir", name, *SETTINGS],
        cwd=folder,
        env={**os.environ, "DPO_RECIPE_CACHE": str(folder / f"{name}-cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def directory(folder: Path, name: str) -> RunDirectory:
    (found,) = (folder / name / FOLDER).iterdir()
    return RunDirectory(found)


def kept(folder: Path, name: str, kind: str = "*") -> list[str]:
    """The keys of all values that are in the cache."""
    files = (folder / f"{name}-cache").glob(f"{kind}/*.jsonl")
    files = (file for file in files if file.parent.name in ("answers", "logps"))
    return [f"{file.name} {line['key']}" for file in files for line in read_json_lines(file)]


def wait_for_more(folder: Path, process: subprocess.Popen[str], more: int, kind: str = "*") -> None:
    """Wait until the command has computed so many more values."""
    wanted, end = len(kept(folder, "killed", kind)) + more, time.monotonic() + 300
    while len(kept(folder, "killed", kind)) < wanted:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    return next(child for child in psutil.Process(process.pid).children() if "dpo_recipes.worker" in child.cmdline())


def assert_unfinished(run: RunDirectory) -> None:
    for path in (run.result, run.report, run.answers):
        assert not path.exists()
    assert not [path.name for path in run.path.iterdir() if "partial" in path.name or "tmp" in path.name]


def outcome(run: RunDirectory) -> dict[str, Any]:
    plain = EvaluationResult.read(run.result).to_json()
    return {key: value for key, value in plain.items() if key not in VOLATILE}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_in_the_same_result(folder: Path) -> None:
    """Both processes are killed while answers are written, then the parent alone, then the worker alone while answers
    are scored; at last Ctrl-C interrupts it."""
    calm = start(folder, "calm")

    for kills_both in (True, False):
        process = start(folder, "killed")
        wait_for_more(folder, process, 8, "answers")
        worker = worker_of(process)
        for victim in (process, worker) if kills_both else (process,):
            victim.kill()
        process.communicate()
        worker.wait(60)  # it does not go on alone
        run = directory(folder, "killed")
        assert_unfinished(run)

    process = start(folder, "killed")
    wait_for_more(folder, process, 4, "logps")
    worker_of(process).kill()
    _, talk = process.communicate()
    assert process.returncode == EXIT_RUN
    assert "error[T605]" in talk
    assert_unfinished(run)

    process = start(folder, "killed")
    wait_for_more(folder, process, 4)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate()
    assert process.returncode == EXIT_RESUMABLE
    assert "the answers so far are kept" in talk
    assert_unfinished(run)

    _, talk = calm.communicate()
    assert calm.returncode == 0, talk
    process = start(folder, "killed")
    table, talk = process.communicate()
    assert process.returncode == 0, talk
    assert outcome(run) == outcome(directory(folder, "calm"))
    assert run.answers.read_text() == directory(folder, "calm").answers.read_text()
    assert "tuned" in table
    keys = kept(folder, "killed")
    assert len(keys) == len(set(keys)) == len(kept(folder, "calm"))  # nothing was computed twice
    assert run.report.exists()
