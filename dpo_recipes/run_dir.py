"""The run directory: the names of its files, and writing them atomically."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpo_recipes.errors import RunError, is_no_space

STEPS_FOLDER = "steps"
"""The folder of a chain with the run directories of its steps: `NAME-KEY`."""
MODEL_FOLDER = "model"
"""The folder of the saved model in a run directory."""
MIN_FREE_BYTES = 200_000_000
"""A run is not started with less free space: even a small adapter and its logs would not fit."""


@dataclass(frozen=True)
class RunDirectory:
    """`runs/<recipe name>/<UTC time>-<short id>/` and the files in it. `result.json` present means finished."""

    path: Path

    @property
    def given_recipe(self) -> Path:
        """The recipe as it was given."""
        return self.path / "recipe.yaml"

    @property
    def resolved_recipe(self) -> Path:
        """Every value of the recipe, defaults included."""
        return self.path / "resolved.yaml"

    @property
    def evaluation(self) -> Path:
        """The settings of an evaluation. Its directory has no recipe, and files as a run has."""
        return self.path / "evaluate.json"

    @property
    def sampling(self) -> Path:
        """The settings of a sampling of preference data, in a directory as that of an evaluation."""
        return self.path / "sample.json"

    @property
    def sampled_rows(self) -> Path:
        """The preference data that a sampling has made."""
        return self.path / "samples.jsonl"

    @property
    def gives_answers_only(self) -> bool:
        """Whether it is the directory of an evaluation or a sampling, which resume without checkpoints."""
        return self.evaluation.exists() or self.sampling.exists()

    @property
    def plan(self) -> Path:
        """What was decided before the worker started."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """Machine and package versions."""
        return self.path / "environment.json"

    @property
    def data_report(self) -> Path:
        """Rows kept and dropped, and why."""
        return self.path / "data_report.json"

    @property
    def metrics(self) -> Path:
        """One object for each logged step, with the trainer's metric names."""
        return self.path / "metrics.jsonl"

    @property
    def answers(self) -> Path:
        """One object for each evaluation in training with `evaluation.samples_each_eval`: the step and the answers. In
        the directory of an evaluation or a sampling, one for each prompt: the answers of all models."""
        return self.path / "answers.jsonl"

    @property
    def inputs(self) -> Path:
        """What the run learns from, by content, and what it was computed on; written before the first step."""
        return self.path / "inputs.json"

    @property
    def reproduction(self) -> Path:
        """Names the run whose job this one does again. Its reference is then computed anew."""
        return self.path / "reproduction.json"

    @property
    def comparison(self) -> Path:
        """The comparison of a reproduction with its run."""
        return self.path / "comparison.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the trainer."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def result(self) -> Path:
        """The report for programs; written last."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """Everything the worker and its libraries printed."""
        return self.path / "run.log"

    @property
    def events(self) -> Path:
        """The worker's events for its parent."""
        return self.path / "events.jsonl"

    @property
    def ranks(self) -> Path:
        """A folder for each process: its id and host, and for all but the first its events and output."""
        return self.path / "ranks"

    @property
    def lock(self) -> Path:
        """The lock of the worker that executes the run, or of the first of several."""
        return self.path / "run.lock"

    @property
    def command_lock(self) -> Path:
        """The lock of the command that starts and follows the workers."""
        return self.path / "command.lock"

    @property
    def part_of(self) -> Path:
        """Names the run directory that has the result, if this one belongs to another of several nodes."""
        return self.path / "part_of.json"

    @property
    def origin(self) -> Path:
        """The reference and the digest of the artifact that the run came from, if it came from one."""
        return self.path / "origin.json"

    @property
    def shared_run(self) -> RunDirectory:
        """The run directory that has the result."""
        if not self.part_of.exists():
            return self
        return RunDirectory(Path(json.loads(self.part_of.read_text(encoding="utf-8"))["run"]))

    def clear_events(self) -> None:
        """Remove the events of earlier workers; run.log keeps their output."""
        self.events.unlink(missing_ok=True)
        shutil.rmtree(self.ranks, ignore_errors=True)


def step_of(path: Path) -> str:
    """The name of the step of a chain whose run directory this is; empty if it is that of another run."""
    return path.name.rpartition("-")[0] if path.parent.name == STEPS_FOLDER else ""


def find_output_dir(name: str) -> Path:
    """The absolute path of a folder, which need not exist. Raises `RunError` T601 if it cannot be a folder."""
    try:
        return Path(name).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a cycle of links, or the home of an unknown user
        raise _not_writable(name, str(error)) from error


def create_run_directory(output_dir: Path, recipe_name: str) -> RunDirectory:
    """Make a new, empty run directory. Raises `RunError` T601 (not writable) or T602 (no space)."""
    run = RunDirectory(new_directory(output_dir, recipe_name))
    create_directory(run.path, output_dir)
    return run


def new_directory(output_dir: Path, recipe_name: str) -> Path:
    """The path for a new run or sweep of a recipe, which has the time in its name."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return output_dir / recipe_name / f"{stamp}-{secrets.token_hex(3)}"


def create_directory(path: Path, output_dir: Path) -> None:
    """Make the directory of a run or a sweep, which may exist. Raises `RunError` T601 (`output_dir` is not writable) or
    T602 (no space)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(path).free
    except OSError as error:
        raise _not_writable(output_dir, error.strerror or str(error)) from error
    if free_bytes < MIN_FREE_BYTES:
        with contextlib.suppress(OSError):  # it may have existed before
            path.rmdir()
        raise RunError.of(
            "T602",
            f"there is no space left for a run in {output_dir}",
            why=f"{free_bytes / 1e6:.0f} MB are free, at least {MIN_FREE_BYTES / 1e6:.0f} MB are needed",
            fix="free some space, or choose another folder with `--set output_dir=...`",
        )


def _not_writable(output_dir: Path | str, why: str) -> RunError:
    return RunError.of(
        "T601",
        f"cannot write to the output folder {output_dir}",
        why=why,
        fix="change its permissions, or choose another with `--set output_dir=...`",
    )


@contextlib.contextmanager
def written_to(run: RunDirectory) -> Iterator[None]:
    """Turn the errors of a run directory that cannot be written to into `RunError` T601 or T602."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if is_no_space(error):
            fix = "free some space and run it again"
            raise RunError.of("T602", f"no space left while writing to {run.path}", why=why, fix=fix) from error
        fix = "change its permissions, or start a new run elsewhere with `--set output_dir=...`"
        raise RunError.of("T601", f"cannot write to {run.path}", why=why, fix=fix) from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def follow_umask(folder: Path) -> None:
    """Make all files in a folder as readable as new files there are: by the umask, or by the folder's own defaults.

    Some libraries write for their owner alone (safetensors 0.8 makes its files with mode 0600): neither a colleague nor
    a server could read such a model.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        probe = Path(scratch) / "probe"
        probe.touch()
        usual = stat.S_IMODE(probe.stat().st_mode)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode | usual != mode:
                with contextlib.suppress(PermissionError):  # file systems without modes
                    path.chmod(mode | usual)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, atomically. NaN and infinities are not valid JSON and must not be in it."""
    write_text_atomically(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_prediction(run: RunDirectory) -> dict[str, Any]:
    """What the plan of a run predicted; empty if plan.json is missing or truncated, or has no prediction."""
    try:
        prediction = json.loads(run.plan.read_text(encoding="utf-8"))["prediction"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return prediction if isinstance(prediction, dict) else {}


def read_json_lines(path: Path) -> list[Any]:
    """The values in the lines of a file, without lines that a kill or a power cut has truncated; empty if there is no
    file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    values: list[Any] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return values
