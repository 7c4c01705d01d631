"""The installed command in a subprocess, on a tiny model: what a person types and what they get."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import recipe_text, write_pairs

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PROGRAM = Path(sys.executable).with_name("dpo-recipe")


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    write_pairs(tmp_path / "pairs.jsonl")
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_text(tiny_model, "pairs.jsonl"), encoding="utf-8")
    return path


def _run_directory(folder: Path) -> Path:
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


def test_validate_run_reload_generate(command: Command, recipe: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert command("validate", "tiny.yaml").returncode == 0
    done = command("run", "tiny.yaml", "--json", "--set", "model.adapter.save_as=merged")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "finished"
    assert "reward accuracy" not in done.stdout  # talk goes to stderr
    assert "step 3/3" in done.stderr
    assert (_run_directory(tmp_path) / "report.html").read_text().lower().startswith("<!doctype html>")
    tokenizer = AutoTokenizer.from_pretrained(result["model_dir"])
    model = AutoModelForCausalLM.from_pretrained(result["model_dir"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 3 plus one?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    torch.manual_seed(0)
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]


def test_an_interrupt_stops_at_a_checkpoint_and_the_same_command_goes_on_from_it(recipe: Path, tmp_path: Path) -> None:
    arguments = [str(PROGRAM), "run", "tiny.yaml", "--set", "training.max_steps=100000"]
    steps: list[int] = []
    for attempt in range(2):
        with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            _wait_for(lambda: _last_step(tmp_path) > (steps[-1] if steps else 0))
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            message = process.stderr.read()
            assert process.wait(timeout=60) == 75, message
        run = _run_directory(tmp_path)  # there is one only
        assert ("unfinished: resuming it" in message) == bool(attempt)
        assert "error[I101]" in message
        assert "Traceback" not in message
        assert not (run / "result.json").exists()
        assert not (run / "model").exists()
        newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        assert (newest / "manifest.json").exists()
        assert str(run / "checkpoints") in message
        steps.append(int(newest.name.partition("-")[2]))
    assert steps[0] < steps[1]


def test_a_second_interrupt_stops_at_once(recipe: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [str(PROGRAM), "run", "tiny.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait_for(lambda: '"event": "stage"' in _events(tmp_path))
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (75, 130)
    assert not (_run_directory(tmp_path) / "result.json").exists()


def test_an_interrupt_while_the_command_ends_changes_nothing(tmp_path: Path) -> None:
    """When the first one has ended the run, a second may come in the midst of the last words, or after them."""
    script = """
import atexit, os, signal
from dpo_recipes import cli
from dpo_recipes.errors import Interrupted

class LastWords(Interrupted):
    def __str__(self):
        os.kill(os.getpid(), signal.SIGINT)
        return "the last words"

def app():
    raise LastWords.of("I130", "stopped")

cli.app = app
atexit.register(os.kill, os.getpid(), signal.SIGINT)
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "the last words\n")


def test_a_killed_worker_is_reported(recipe: Path, tmp_path: Path) -> None:
    import psutil

    arguments = [str(PROGRAM), "run", "tiny.yaml", "--set", "training.max_steps=100000"]
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: '"event": "step"' in _events(tmp_path))
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        assert process.stderr is not None
        message = process.stderr.read()
        assert process.wait(timeout=30) == 6
    assert "error[T605]" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("processes", ["1", "2"])
def test_workers_write_a_checkpoint_when_the_command_is_killed(recipe: Path, tmp_path: Path, processes: str) -> None:
    """As when its terminal is closed: under torchrun the workers' own parent lives on."""
    import psutil

    arguments = [str(PROGRAM), "run", "tiny.yaml", "--set=training.max_steps=100000", "--num-processes", processes]
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        _wait_for(lambda: _last_step(tmp_path) > 0)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    (checkpoint,) = (_run_directory(tmp_path) / "checkpoints").glob("checkpoint-*")
    assert (checkpoint / "manifest.json").exists()


def test_a_killed_worker_is_started_again_where_that_was_asked_for(recipe: Path, tmp_path: Path) -> None:
    import psutil

    settings = ["training.max_steps=40", "checkpoints.save_steps=1"]
    arguments = [str(PROGRAM), "run", "tiny.yaml", "--retries", "1", *(f"--set={value}" for value in settings)]
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: _last_step(tmp_path) >= 3)
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        assert process.stderr is not None
        message = process.stderr.read()
        assert process.wait(timeout=60) == 0, message
    assert "error[T605]" in message
    assert "retry     starting again, 0 retries left" in message
    result = json.loads((_run_directory(tmp_path) / "result.json").read_text())
    assert (result["steps"], result["resumed_from_step"] >= 2) == (40, True)


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group that may use 450 MB, less than a worker takes to load its libraries and begin."""
    from dpo_recipes.hardware.machine import control_groups

    group = next((group for group in control_groups() if (group / "cgroup.procs").exists()), None)
    inner = group / f"dpo-recipe-test-{os.getpid()}" if group else None
    limit = "memory.limit_in_bytes"
    try:
        if inner is None:
            raise OSError("no control group")
        inner.mkdir()
        limit = limit if (inner / limit).exists() else "memory.max"
        (inner / limit).write_text(str(450_000_000))
    except OSError as error:
        pytest.skip(f"needs the right to make a control group: {error}")
    yield inner
    _wait_for(lambda: not (inner / "cgroup.procs").read_text())
    inner.rmdir()


def test_a_worker_that_the_kernel_ends_for_memory_is_told_apart(
    recipe: Path, tmp_path: Path, small_memory: Path
) -> None:
    def enter() -> None:
        (small_memory / "cgroup.procs").write_text(str(os.getpid()))

    arguments = [str(PROGRAM), "run", "tiny.yaml", "--set", "hardware.fit=false"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, preexec_fn=enter)
    assert done.returncode == 6, done.stderr
    assert "error[T603]: the system ended the run because memory ran out" in done.stderr


def test_a_wrong_recipe_ends_before_anything_is_made(command: Command, recipe: Path, tmp_path: Path) -> None:
    done = command("run", "tiny.yaml", "--set", "training.learning_rte=1")
    assert done.returncode == 3
    assert "did you mean `learning_rate`?" in done.stderr
    assert "--set:1:1" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_cannot_be_written(command: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command("run", "tiny.yaml", "--set", "output_dir=file/runs")
    assert (done.returncode, "error[T601]" in done.stderr) == (6, True)
    assert "Traceback" not in done.stderr


def test_a_hub_model_without_a_network(command: Command, recipe: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = command("run", "tiny.yaml", "--set", "model.path=nobody/nothing", env=environment)
    assert (done.returncode, "error[M509]" in done.stderr) == (6, True), done.stderr
    assert "http://127.0.0.1:9 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_remote_code_needs_the_flag(command: Command, recipe: Path, tmp_path: Path) -> None:
    done = command("run", "tiny.yaml", "--set", "model.trust_remote_code=true")
    assert (done.returncode, "error[R317]" in done.stderr) == (3, True)
    assert not (tmp_path / "runs").exists()


def test_doctor_tells_what_this_machine_has(command: Command) -> None:
    done = command("doctor", "--json", env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"})
    facts = json.loads(done.stdout)
    assert facts["hub_reachable"] is False
    assert facts["torch"]["device"] in ("cpu", "cuda", "mps")
    assert facts["disk_free_bytes"] > 0
    assert facts["packages"]["trl"].startswith("1.16")


def _events(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("runs/tiny/*/events.jsonl"))


def _last_step(folder: Path) -> int:
    events = [json.loads(line) for line in _events(folder).splitlines() if line.endswith("}")]
    return max((event["step"] for event in events if event["event"] == "step"), default=0)


def _wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
