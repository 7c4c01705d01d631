"""Checkpoints on disk: a sealed checkpoint is whole, and one that is not whole is detected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_recipes.engine.checkpoints import folder as checkpoints
from dpo_recipes.engine.checkpoints.folder import (
    WRITING,
    find_best,
    find_damage,
    find_newest,
    newest_first,
    prune,
    read,
    remove_unfinished,
    seal,
)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes and seals a checkpoint."""

    def seal_one(step: int, **facts: object) -> Path:
        written = tmp_path / WRITING / f"checkpoint-{step}"
        (written / "inner").mkdir(parents=True)
        (written / "weights.bin").write_bytes(b"weights %d" % step)
        (written / "inner" / "piece.bin").write_bytes(b"piece")
        return seal(written, tmp_path / written.name, dict(facts)).path

    return seal_one


def test_a_sealed_checkpoint_is_whole_and_knows_what_it_was_made_of(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(3, data="abc")
    assert find_damage(path) is None
    newest, damaged = find_newest(tmp_path)
    assert newest is not None
    assert (newest.path, newest.step, newest.facts, damaged) == (path, 3, {"data": "abc"}, {})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "weights.bin").write_bytes(b"weights 4"), "the checksum of weights.bin differs"),
        (lambda path: (path / "weights.bin").write_bytes(b"wei"), "weights.bin has 3 bytes instead of 9"),
        (lambda path: (path / "inner" / "piece.bin").unlink(), "inner/piece.bin is missing"),
        (lambda path: (path / "manifest.json").unlink(), "its manifest cannot be read (FileNotFoundError)"),
        (lambda path: (path / "manifest.json").write_text("{"), "its manifest cannot be read (JSONDecodeError)"),
        (lambda path: (path / "manifest.json").write_text("[]"), "its manifest cannot be read (TypeError)"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), "manifest cannot be read (UnicodeDecodeErr"),
    ],
    ids=["flipped", "cut", "lost", "no_manifest", "half_manifest", "other_manifest", "no_text"],
)
def test_damage_is_found_and_the_one_before_is_taken(
    make: Callable[..., Path], tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    older = make(2)
    harm(make(3))
    newest, damaged = find_newest(tmp_path)
    assert newest is not None
    assert newest.path == older
    assert list(damaged) == ["checkpoint-3"]
    assert said in damaged["checkpoint-3"]


def test_order_is_by_number_and_other_folders_do_not_count(make: Callable[..., Path], tmp_path: Path) -> None:
    for step in (9, 10, 2):
        make(step)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / WRITING / "checkpoint-99").mkdir(parents=True)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]
    assert find_newest(tmp_path / "nosuch") == (None, {})


def test_the_last_and_the_best_are_kept(make: Callable[..., Path], tmp_path: Path) -> None:
    for step in range(1, 6):
        make(step, **({"is_best": True, "eval_loss": 0.5} if step == 2 else {}))
    best, damaged = find_best(tmp_path, read(tmp_path / "checkpoint-5"), "eval_loss")
    assert best is not None
    assert not damaged
    assert best.step == 2
    prune(tmp_path, keep=2, newest=read(tmp_path / "checkpoint-5"), best=best.path.name)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-5", "checkpoint-4", "checkpoint-2"]
    assert not list(tmp_path.glob(f"{WRITING}-*"))


def test_of_the_best_damage_is_told_and_the_one_before_is_taken(make: Callable[..., Path], tmp_path: Path) -> None:
    for step in (2, 4, 5):
        make(step, **({"is_best": True, "eval_loss": 1 / step} if step < 5 else {}))
    (tmp_path / "checkpoint-4" / "weights.bin").write_bytes(b"cut")
    best, damaged = find_best(tmp_path, read(tmp_path / "checkpoint-5"), "eval_loss")
    assert best is not None
    assert best.step == 2
    assert "weights.bin has 3 bytes" in damaged["checkpoint-4"]


def test_a_damaged_one_counts_for_none(make: Callable[..., Path], tmp_path: Path) -> None:
    for step in (4, 5, 9, 10):
        make(step)
    damaged = ["checkpoint-9", "checkpoint-10"]
    make(6)
    prune(tmp_path, keep=1, newest=read(tmp_path / "checkpoint-6"), best=None, damaged=damaged)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-6"]
    make(11)
    prune(tmp_path, keep=2, newest=read(tmp_path / "checkpoint-11"), best=None, damaged=damaged)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-11", "checkpoint-6"]


def test_one_that_is_being_replaced_is_not_lost(make: Callable[..., Path], tmp_path: Path) -> None:
    first = make(3)
    first.rename(tmp_path / f".replaced-{first.name}")  # the process was killed between the two names
    remove_unfinished(tmp_path)
    assert find_damage(first) is None
    first.rename(tmp_path / f".replaced-{first.name}")
    make(3)
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != WRITING] == ["checkpoint-3"]


def test_a_damaged_one_of_the_same_step_is_replaced(make: Callable[..., Path]) -> None:
    first = make(3)
    (first / "weights.bin").write_bytes(b"")
    assert find_damage(make(3)) is None


def test_what_cannot_be_read_back_is_no_checkpoint(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that loses what it was given: the older checkpoints must not be removed for it."""
    older = make(2)
    monkeypatch.setattr(checkpoints, "find_damage", lambda path: "the checksum of weights.bin differs")
    with pytest.raises(OSError, match="checkpoint-3 could not be read back"):
        make(3)
    monkeypatch.undo()
    assert find_damage(older) is None
