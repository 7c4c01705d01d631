"""A sweep through a SLURM array: what is submitted, followed and recorded. SLURM's commands are stand-ins, and runs are
computed by a function."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps import FakeRuns

from dpo_recipes.errors import Interrupted, RunError
from dpo_recipes.jobs import array, array_task, trial_executor
from dpo_recipes.jobs.sweep import FinishedSweep, run_sweep
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.launch import slurm_commands
from dpo_recipes.launch.slurm_state import parse_array
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.workflow import RunOptions

GRID = "sweep: {metric: loss, parallel: 2, grid: {training.learning_rate: [4e-5, 3e-5, 2e-5, 1e-5]}}\n"
Step = Callable[[], object]


def loss(recipe: Recipe) -> dict[str, float]:
    """The lowest loss is that of the fourth trial."""
    return {"eval_loss": recipe.training.learning_rate}


@dataclass
class FakeSlurm:
    """Stand-ins for SLURM's commands, and what happens each time that the command has looked at everything."""

    folder: Path
    runs: FakeRuns
    states: dict[int, str] = field(default_factory=dict)
    """What `scontrol` says about the tasks of the newest array."""
    steps: list[Step] = field(default_factory=list)
    num_arrays: int = 0
    """The number of arrays when `states` was last set."""

    def __post_init__(self) -> None:
        pending = "JobId=17 ArrayJobId=17 ArrayTaskId=$tasks JobState=PENDING Restarts=0 Command=$script"
        self._write(
            "sbatch",
            'echo sbatch >>"$0.calls"; for script; do :; done; tasks=$(sed -n "s/^#SBATCH --array=//p" "$script")\n'
            f'echo "{pending}" >"$(dirname "$0")/scontrol.shown"; echo 17',
        )
        self._write("scancel", 'echo scancel "$@" >>"$(dirname "$0")/sbatch.calls"')
        self._write("scontrol", 'cat "$0.shown" 2>/dev/null || { echo Invalid job id >&2; exit 1; }')

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The calls of sbatch and scancel."""
        return (self.folder / "sbatch.calls").read_text().splitlines()

    @property
    def sweep(self) -> Path:
        return self.runs.folders[-1]

    @property
    def submitted(self) -> str:
        """The tasks in the script, as sbatch reads them."""
        script = (self.sweep / "launch" / "job.sbatch").read_text()
        return script.partition("--array=")[2].partition("\n")[0]

    def show(self, **states: str) -> None:
        """Let SLURM describe tasks: `t0="RUNNING"`, `t1="FAILED ExitCode=0:9"`. Others of the array wait."""
        if self.num_arrays != self.calls.count("sbatch"):
            self.num_arrays = self.calls.count("sbatch")
            line = f"ArrayTaskId={self.submitted} JobState=PENDING"
            self.states = dict.fromkeys(parse_array(line), "PENDING")
        self.states |= {int(name[1:]): state for name, state in states.items()}
        command = f"Command={self.sweep}/launch/job.sbatch"
        lines = [
            f"JobId=17 ArrayJobId=17 ArrayTaskId={task} JobState={state} Restarts=0 NodeList=n1 {command}"
            for task, state in self.states.items()
        ]
        (self.folder / "scontrol.shown").write_text("\n".join(lines) + "\n")

    def execute(self, *tasks: int) -> None:
        """Execute tasks of the array to their ends."""
        for task in tasks:
            code = array_task.main([str(self.sweep), str(task)])
            self.show(**{f"t{task}": "COMPLETED" if code == 0 else f"FAILED ExitCode={code}:0"})

    def look(self, _: float) -> None:
        """Replaces `time.sleep` of the command."""
        self.steps.pop(0)()

    def run(self, sweep: str = GRID, *steps: Step, retries: int = 0, **options: Any) -> FinishedSweep:
        """`dpo-recipe run --via slurm` with what happens while it follows the array."""
        self.steps = list(steps)
        validated = self.runs.validate(sweep, "launch.backend=slurm")
        return run_sweep(validated, self.runs.events.append, RunOptions(retries=retries), **options)

    def notes(self) -> list[str]:
        return [event["text"] for event in self.runs.events if event["event"] == "note"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    (tmp_path / "bin").mkdir()
    fake = FakeSlurm(tmp_path / "bin", FakeRuns(tmp_path, loss))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(trial_executor, "run_recipe", fake.runs.execute)
    monkeypatch.setattr(array, "time", SimpleNamespace(sleep=fake.look))
    monkeypatch.setattr(slurm_commands, "QUERY_SLURM_S", (0.0, 0.0))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield fake
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _states(finished: FinishedSweep) -> list[tuple[str, str | None]]:
    return [(run.state, run.code) for trial in finished.result.trials for run in trial.runs]


def test_one_array_has_a_task_for_each_run_and_the_best_is_chosen(slurm: FakeSlurm) -> None:
    waits = lambda: slurm.show(t0="PENDING Reason=Resources")  # noqa: E731
    finished = slurm.run(GRID, waits, lambda: slurm.execute(0, 1), lambda: slurm.execute(2, 3))
    assert slurm.submitted == "0-3%2"
    assert slurm.calls == ["sbatch"]
    assert finished.result.best is not None
    assert (finished.result.best.trial, slurm.runs.executed) == (4, ["001", "002", "003", "004"])
    assert (finished.directory.best / "model").exists()
    script = finished.directory.path / "launch" / "job.sbatch"
    assert slurm.notes()[:3] == [
        f"SLURM array 17 of 4 tasks from {script}",
        "waiting in the queue",
        "waiting: no node with the requested resources is free (Resources)",
    ]
    events = [(event["event"], event["of"]) for event in slurm.runs.events if "of" in event]
    assert events == [(kind, name) for name in ("001", "002", "003", "004") for kind in ("trial", "trial_ended")]


def test_seeds_and_random_trials_are_tasks_in_the_order_of_a_command(slurm: FakeSlurm) -> None:
    sweep = "sweep: {random: {training.learning_rate: {low: 1e-6, high: 1e-4}}, max_trials: 2, seeds: 2}\n"
    finished = slurm.run(sweep, lambda: slurm.execute(0, 1, 2, 3))
    assert slurm.submitted == "0-3%1"
    assert slurm.runs.executed == ["001-1", "002-1", "001-2", "002-2"]
    assert [run.seed for run in finished.result.trials[1].runs] == [42, 43]


def test_the_last_task_finishes_the_sweep_without_a_command(slurm: FakeSlurm) -> None:
    def close() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slurm.run(GRID, close)
    slurm.execute(0, 1, 2)
    assert not (slurm.sweep / "result.json").exists()
    slurm.execute(3)
    result = SweepResult.read(slurm.sweep / "result.json")
    assert result.best is not None
    assert result.best.trial == 4


def test_another_command_follows_the_array_and_submits_nothing(slurm: FakeSlurm) -> None:
    def close() -> None:
        slurm.execute(0)
        slurm.show(t1="RUNNING")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slurm.run(GRID, close)
    finished = slurm.run(GRID, lambda: slurm.execute(1, 2, 3))
    assert (slurm.calls, slurm.notes()[-1]) == (["sbatch"], "SLURM array 17 is already in the queue")
    assert [trial.runs[0].attempts for trial in finished.result.trials] == [1, 1, 1, 1]


def test_with_other_settings_the_tasks_that_wait_are_submitted_again(slurm: FakeSlurm) -> None:
    def close() -> None:
        slurm.show(t0="RUNNING")
        raise KeyboardInterrupt

    def cancelled() -> None:
        slurm.show(t1="CANCELLED", t2="CANCELLED", t3="CANCELLED")
        slurm.execute(0)

    with pytest.raises(KeyboardInterrupt):
        slurm.run(GRID, close)
    finished = slurm.run(GRID.replace("parallel: 2", "parallel: 3"), cancelled, lambda: slurm.execute(1, 2, 3))
    assert slurm.calls == ["sbatch", "scancel --state=PENDING 17", "sbatch"]
    assert slurm.submitted == "1-3%3"
    assert _states(finished) == [("finished", None)] * 4


def test_a_failure_is_recorded_by_its_task_and_a_limit_by_the_command(slurm: FakeSlurm) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-002":
            raise RunError.of("T603", "the run is out of memory")
        return loss(recipe)

    def limits() -> None:
        slurm.execute(1, 3)
        slurm.show(t0="TIMEOUT ExitCode=0:15", t2="OUT_OF_MEMORY ExitCode=0:125")

    slurm.runs.metrics = metrics
    finished = slurm.run(GRID, limits)
    assert _states(finished) == [
        ("failed", "T633"),
        ("out_of_memory", "T603"),
        ("out_of_memory", "T634"),
        ("finished", None),
    ]
    assert finished.result.best is not None
    assert finished.result.best.trial == 4


def test_a_run_whose_task_was_killed_is_left_or_submitted_again(slurm: FakeSlurm) -> None:
    def killed() -> None:
        slurm.execute(0, 1, 2)
        slurm.show(t3="FAILED ExitCode=0:9")

    with pytest.raises(RunError, match=r"T605[\s\S]*task 17_3 was killed[\s\S]*run 004") as caught:
        slurm.run(GRID, killed)
    assert caught.value.exit_code == 6
    finished = slurm.run(GRID, lambda: slurm.show(t3="NODE_FAIL"), lambda: slurm.execute(3), retries=1)
    assert slurm.submitted == "3%2"
    assert slurm.calls == ["sbatch"] * 3
    assert [event["left"] for event in slurm.runs.events if event["event"] == "retry"] == [0]
    assert slurm.runs.executed == ["001", "002", "003", "004"]
    assert _states(finished) == [("finished", None)] * 4


def test_cancelled_tasks_end_the_command_and_are_submitted_by_the_next_one(slurm: FakeSlurm) -> None:
    def cancelled() -> None:
        slurm.execute(0, 1)
        slurm.show(t2="CANCELLED", t3="CANCELLED")

    with pytest.raises(RunError, match=r"T636[\s\S]*run 003"):
        slurm.run(GRID, cancelled, retries=3)
    assert not (slurm.sweep / "result.json").exists()
    slurm.run(GRID, lambda: slurm.execute(2, 3))
    assert slurm.submitted == "2-3%2"


def test_what_other_runs_would_meet_too_ends_the_array(slurm: FakeSlurm) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        raise RunError.of("T602", "no space left", fix="free some space")

    def full() -> None:
        slurm.show(t1="RUNNING")
        slurm.execute(0)

    slurm.runs.metrics = metrics
    stopped = lambda: slurm.show(t1="FAILED ExitCode=75:0", t2="CANCELLED", t3="CANCELLED")  # noqa: E731
    with pytest.raises(RunError, match="T602"):
        slurm.run(GRID, full, stopped)
    assert slurm.calls == ["sbatch", "scancel --state=PENDING 17", "scancel --signal=INT 17"]
    assert (slurm.sweep / "launch" / "stop.17").exists()


def test_ctrl_c_stops_what_runs_and_removes_what_waits(slurm: FakeSlurm) -> None:
    def press() -> None:
        slurm.show(t0="RUNNING")
        signal.raise_signal(signal.SIGINT)

    stopped = lambda: slurm.show(t0="FAILED ExitCode=75:0", t1="CANCELLED", t2="CANCELLED", t3="CANCELLED")  # noqa: E731
    with pytest.raises(Interrupted, match="I101"):
        slurm.run(GRID, press, stopped)
    assert slurm.calls == ["sbatch", "scancel --state=PENDING 17", "scancel --signal=INT 17"]
    slurm.run(GRID, lambda: slurm.execute(0, 1, 2, 3))
    assert len(slurm.runs.folders) == 1


def test_after_its_hours_no_task_starts_a_run(slurm: FakeSlurm) -> None:
    sweep = GRID.replace("parallel: 2", "max_hours: 1e-9")
    finished = slurm.run(sweep, lambda: slurm.execute(0, 1, 2, 3))
    assert slurm.runs.executed == ["001"]
    assert [state for state, _ in _states(finished)] == ["finished", "not_run", "not_run", "not_run"]


def test_values_by_tpe_are_chosen_by_the_task(slurm: FakeSlurm) -> None:
    pytest.importorskip("optuna")
    sweep = "sweep: {tpe: {training.learning_rate: {low: 1e-6, high: 1e-4}}, max_trials: 3}\n"
    alone = FakeRuns(slurm.runs.folder / "alone", loss)
    alone.folder.mkdir()
    expected = [trial.values for trial in alone.run(sweep).result.trials]
    finished = slurm.run(sweep, lambda: slurm.execute(0), lambda: slurm.execute(1), lambda: slurm.execute(2))
    assert [trial.values for trial in finished.result.trials] == expected


def test_a_task_ends_its_run_early_by_what_the_others_have_recorded(slurm: FakeSlurm) -> None:
    """The third run is worse than the median of the first two at the same evaluation."""
    pytest.importorskip("optuna")
    slurm.runs.evaluations = lambda recipe: [0.9 if recipe.name == "job-003" else 0.5]
    pruning = (
        "sweep: {metric: loss, pruning: {startup_trials: 2}, grid: {training.learning_rate: [4e-5, 3e-5, 2e-5]}}\n"
    )
    evaluated = "training: {eval_steps: 5}\n"
    finished = slurm.run(evaluated + pruning, lambda: slurm.execute(0, 1), lambda: slurm.execute(2))
    assert _states(finished) == [("finished", None), ("finished", None), ("pruned", None)]
    assert slurm.states[2] == "COMPLETED"
