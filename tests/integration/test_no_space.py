"""A disk that becomes full during a run: nothing is lost, and the run can be resumed when there is space again."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes import worker
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.checkpoints.folder import WRITING, find_newest
from dpo_recipes.evaluate import generation
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.recipe.schema.evaluate import Evaluate, Generate
from dpo_recipes.run_dir import RunDirectory, write_json

Work = Callable[..., Any]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 220 MB; a run is not begun with less than 200 free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=220m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(OSError), (folder / "crumbs").open("wb", buffering=0) as file:
        while True:
            file.write(b"x")


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    work: Work, tiny_model: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 40)
    text = recipe_text(tiny_model, pairs, "checkpoints: {save_steps: 2}").replace("max_steps: 3", "max_steps: 8")
    calm = work(text)
    original = MetricsCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 5:
            fill(small_disk)

    monkeypatch.setattr(MetricsCallback, "on_step_end", on_step_end)
    stopped = work(text, f"output_dir={small_disk}")
    monkeypatch.undo()
    assert stopped.exit_code == 6
    assert not (stopped.run.checkpoints / WRITING).exists()
    newest, damaged = find_newest(stopped.run.checkpoints)
    assert newest is not None
    assert (newest.step, damaged) == (4, {})
    for name in ("filler", "crumbs"):
        (small_disk / name).unlink()
    again = work(text, f"output_dir={small_disk}", resume=True)
    assert (again.exit_code, again.result["resumed_from_step"]) == (0, 4)
    saved = "adapter_model.safetensors"
    assert (again.run.path / "model" / saved).read_bytes() == (calm.run.path / "model" / saved).read_bytes()


@pytest.fixture
def evaluate(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[[Path], tuple[int, RunDirectory]]]:
    """Evaluates the tiny model in a folder, as a worker does."""
    handler = signal.getsignal(signal.SIGTERM)
    pairs = write_pairs(tmp_path / "pairs.jsonl", 8)
    generate = {"max_new_tokens": 12, "batch_size": 2}
    section = Evaluate(models=[str(tiny_model)], data=str(pairs), overlap=False, generate=Generate(**generate))

    def run(folder: Path) -> tuple[int, RunDirectory]:
        directory = RunDirectory(folder / "evaluation")
        directory.path.mkdir(exist_ok=True)
        write_json(directory.evaluation, section.model_dump(mode="json"))
        directory.clear_events()
        return worker.main([str(directory.path)]), directory

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_a_full_disk_ends_an_evaluation_and_room_lets_it_go_on(
    evaluate: Callable[[Path], tuple[int, RunDirectory]],
    tmp_path: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk becomes full after two of four batches of answers. The page that is begun still takes the others, and
    the scores find no room."""
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))
    code, calm = evaluate(tmp_path)
    assert code == 0
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(small_disk / "cache"))
    original, batches = generation._generate_batch, []

    def generate(*arguments: Any) -> Any:
        batches.append(arguments)
        if len(batches) == 3:
            fill(small_disk)
        return original(*arguments)

    monkeypatch.setattr(generation, "_generate_batch", generate)
    code, run = evaluate(small_disk)
    assert code == 6
    for path in (run.result, run.report, run.answers):
        assert not path.exists()
    for name in ("filler", "crumbs"):
        (small_disk / name).unlink()
    code, run = evaluate(small_disk)
    assert (code, len(batches)) == (0, 4)  # no answer is generated again
    results = [EvaluationResult.read(each.result) for each in (run, calm)]
    assert results[0].models == results[1].models
    assert run.answers.read_bytes() == calm.answers.read_bytes()
