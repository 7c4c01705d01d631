"""A disk that becomes full during a run: nothing is lost, and the run can be resumed when there is space again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.checkpoints.folder import WRITING, find_newest

Work = Callable[..., "Outcome"]  # noqa: F821


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
