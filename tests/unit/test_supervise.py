"""How the parent handles the events of its workers, and their ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import supervise
from dpo_recipes.errors import Interrupted, RunError
from dpo_recipes.launch.job import ProcessJob
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.supervise import Watchdog, WorkerBug, explain_failure, follow, is_transient

PLAIN = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    for rank in ("0", "1"):
        (run.ranks / rank).mkdir(parents=True)
    return run


def on_message(run: RunDirectory, rank: int, *events: dict[str, Any]) -> None:
    path = run.events if rank == 0 else run.ranks / str(rank) / "events.jsonl"
    with path.open("a") as file:
        for event in events:
            file.write(json.dumps({"time": 0.0, **event}) + "\n")


def error(code: str, at: float) -> dict[str, Any]:
    finding = {"code": code, "what": "w", "where": None, "why": None, "fix": None, "severity": "error"}
    return {"event": "error", "time": at, "findings": [finding], "bug": None}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervise.time, "monotonic", clock.monotonic)
    return clock


def after_steps(clock: Clock, watchdog: Watchdog, count: int, each_s: float) -> None:
    for _ in range(count):
        clock.now += each_s
        watchdog.see({"event": "step"})


def test_silence_is_a_hang_after_minutes_and_many_steps_worth(clock: Clock) -> None:
    watchdog = Watchdog(1.0)
    after_steps(clock, watchdog, 5, each_s=2.0)
    clock.now += 59
    assert not watchdog.is_hanging()
    clock.now += 2
    assert watchdog.is_hanging()
    slow = Watchdog(1.0)
    after_steps(clock, slow, 5, each_s=30.0)
    clock.now += 599  # 20 × 30 s is what counts here
    assert not slow.is_hanging()
    clock.now += 2
    assert slow.is_hanging()


def test_a_run_that_evaluates_saves_or_has_just_begun_does_not_hang(clock: Clock) -> None:
    watchdog = Watchdog(1.0)
    after_steps(clock, watchdog, 2, each_s=2.0)
    clock.now += 10_000
    assert not watchdog.is_hanging(), "two steps do not show how long one takes"
    after_steps(clock, watchdog, 5, each_s=2.0)
    for _ in range(100):
        clock.now += 30
        watchdog.see({"event": "alive"})
        assert not watchdog.is_hanging()
    watchdog.see({"event": "saving"})
    clock.now += 10_000
    assert not watchdog.is_hanging()
    watchdog.see({"event": "saved"})
    clock.now += 61
    assert watchdog.is_hanging(), "also where each step is saved"
    after_steps(clock, watchdog, 1, each_s=1.0)
    watchdog.see({"event": "stage", "name": "evaluate"})
    clock.now += 10_000
    assert not watchdog.is_hanging()
    off = Watchdog(None)
    after_steps(clock, off, 9, each_s=1.0)
    clock.now += 10_000
    assert not off.is_hanging()


def test_the_rank_that_failed_first_is_believed(run: RunDirectory) -> None:
    on_message(run, 0, error("T613", at=5.0))
    on_message(run, 1, {"event": "step", "step": 7}, error("T603", at=6.0))
    failure = explain_failure(1, run)
    assert isinstance(failure, RunError)
    assert failure.findings[0].code == "T603"


def test_a_rank_that_was_killed_is_named_with_its_last_step(run: RunDirectory) -> None:
    on_message(run, 0, error("T613", at=5.0))
    on_message(run, 1, {"event": "step", "step": 7})
    run.log.write_text(
        "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)"
    )
    failure = explain_failure(-9, run)
    assert "rank 1 after step 7 was killed (SIGKILL)" in str(failure)
    assert "T605" in str(failure)


def test_a_collective_that_nccl_gave_up_is_no_crash_of_a_library(run: RunDirectory) -> None:
    assert "T605" in str(explain_failure(-6, run))
    (run.ranks / "1" / "run.log").write_text(
        "[rank1]:[E1218 20:27:21 ProcessGroupNCCL.cpp:629] [Rank 1] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=7, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600081 milliseconds before timing out.\n"
    )
    failure = explain_failure(-6, run)
    assert "T613" in str(failure)
    assert "OpType=ALLREDUCE" in str(failure)
    assert is_transient(failure)


def test_nodes_that_do_not_meet_are_no_bug_of_ours(run: RunDirectory) -> None:
    api = "torch.distributed.elastic.rendezvous.api"
    run.log.write_text(
        f"Traceback (most recent call last):\n  ...\n{api}.RendezvousConnectionError: The connection ...\n"
    )
    failure = explain_failure(1, run)
    assert "T613" in str(failure)
    assert "the nodes could not connect to one another" in str(failure)
    with run.log.open("a") as log:  # another start, which came further
        log.write("Traceback (most recent call last):\n  ...\nZeroDivisionError: division by zero\n")
    assert isinstance(explain_failure(1, run), WorkerBug)


def test_a_kill_by_the_kernel_for_memory_is_told_apart(run: RunDirectory) -> None:
    assert "T603" in str(explain_failure(-9, run, was_out_of_memory=True))
    assert "T605" in str(explain_failure(-9, run))


@pytest.mark.parametrize("code", ["I101", "I130"])
def test_the_launchers_signal_to_the_others_hides_no_kill(run: RunDirectory, code: str) -> None:
    """Before training they end at once when torchrun asks them to, and say that they were interrupted."""
    on_message(run, 0, error(code, at=1.0))
    assert "T605" in str(explain_failure(-9, run))
    assert "T603" in str(explain_failure(-9, run, was_out_of_memory=True))
    on_message(run, 1, error("T602", at=2.0))
    assert "T602" in str(explain_failure(1, run))


def test_interruptions_keep_their_code_whatever_the_launcher_ends_with(run: RunDirectory) -> None:
    on_message(run, 0, error("I101", at=1.0))
    failure = explain_failure(1, run)
    assert getattr(failure, "exit_code", None) == 75


def test_what_may_not_come_again() -> None:
    assert is_transient(RunError.of("T605", "killed"))
    assert is_transient(RunError.of("T612", "hung"))
    assert is_transient(WorkerBug("a library"))
    for code in ("T602", "T603", "T604", "T616"):
        assert not is_transient(RunError.of(code, "x"))


HANGING = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from dpo_recipes.launch.ranks import Rank, record_process
from dpo_recipes.launch.stacks import stacks_on_request
from dpo_recipes.run_dir import RunDirectory
run = RunDirectory(Path({run!r}))
rank = Rank()
record_process(run, rank)
def wait_for_nobody():
    time.sleep(600)
with stacks_on_request(run, rank), run.events.open("w") as events:
    for step in range(5):
        events.write(json.dumps({{"event": "step", "step": step, "total": 9, "time": time.time()}}) + "\\n")
        events.flush()
        time.sleep(0.15)
    wait_for_nobody()
"""


def test_a_checkpoint_that_is_sealed_after_the_last_step_takes_as_long_as_it_takes(clock: Clock) -> None:
    watchdog = Watchdog(1.0)
    after_steps(clock, watchdog, 5, each_s=2.0)
    for event in ("saving", "saved", "saving"):  # written; training is over and waits for the disk
        watchdog.see({"event": event})
    clock.now += 10_000
    assert not watchdog.is_hanging()


class Queued:
    """A job that ran, and was queued again by its cluster; it ends when the clock stands at some time."""

    obeys_second_signal = True

    def __init__(self, clock: Clock, ends_at: float) -> None:
        self.clock, self.ends_at, self.is_executing = clock, ends_at, True

    def poll(self) -> int | None:
        self.clock.now += 100
        self.is_executing = False
        return 0 if self.clock.now >= self.ends_at else None

    def interrupt(self) -> None: ...

    def kill(self) -> None:
        raise AssertionError("it waits, and does not hang")


def test_a_job_that_waits_in_a_queue_does_not_hang(
    run: RunDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise.time, "sleep", lambda seconds: None)
    on_message(run, 0, *({"event": "step", "step": step} for step in range(9)))
    run.result.write_text("{}")
    follow(Queued(clock, clock.now + 5_000), run, lambda event: None, watchdog_minutes=30)


class Signalled(Queued):
    """A job during which this process gets three signals."""

    def __init__(self, *, obeys: bool) -> None:
        self.obeys_second_signal, self.is_executing = obeys, True
        self.calls: list[str] = []
        self.polls = 0

    def poll(self) -> int | None:
        self.polls += 1
        if self.polls <= 3:
            signal.raise_signal(signal.SIGTERM)
        return None if self.polls <= 3 else -2

    def interrupt(self) -> None:
        self.calls.append("interrupt")

    def kill(self) -> None:
        self.calls.append("kill")


@pytest.mark.parametrize(("obeys", "calls"), [(True, ["interrupt", "kill", "kill"]), (False, ["interrupt"])])
def test_only_a_person_ends_workers_by_a_second_signal(run: RunDirectory, obeys: bool, calls: list[str]) -> None:
    """SLURM signals a task before its time limit, and again at the limit, while the workers write a checkpoint."""
    job = Signalled(obeys=obeys)
    with pytest.raises(Interrupted):
        follow(job, run, lambda event: None)
    assert job.calls == calls


@dataclass
class Ended:
    """A job that is over."""

    returncode: int
    is_executing = True
    obeys_second_signal = True

    def poll(self) -> int:
        return self.returncode

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...


def test_a_process_that_dies_when_all_is_saved_takes_nothing_away(run: RunDirectory) -> None:
    messages = []
    with pytest.raises(RunError, match="died of SIGABRT"):
        follow(Ended(-6), run, messages.append)
    run.result.write_text("{}")
    follow(Ended(-6), run, messages.append)
    (note,) = messages
    assert note["event"] == "note"
    assert "code -6 after everything was saved" in note["text"]


CRASHING = """
import faulthandler, os
faulthandler.enable()
def call_a_library():
    os.abort()
call_a_library()
"""


def test_a_crash_names_the_place_and_the_log_of_the_rank_that_crashed(run: RunDirectory) -> None:
    log = run.ranks / "1" / "run.log"
    with log.open("w") as output:
        subprocess.run([sys.executable, "-c", CRASHING], stdout=output, stderr=output, check=False)
    run.log.write_text(
        "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -6 (pid: 7)"
    )
    why = str(explain_failure(-6, run))
    assert "a library crashed in call_a_library (<string>:5)" in why
    assert f"the last output is in {log}" in why


def test_a_process_that_hangs_is_ended_and_says_where_it_was(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    code = HANGING.format(root=str(Path(__file__).parents[2]), run=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    began = time.monotonic()
    with pytest.raises(RunError) as caught:
        follow(ProcessJob(process), run, lambda event: None, watchdog_minutes=0.05)
    assert time.monotonic() - began < 60
    finding = caught.value.findings[0]
    assert finding.code == "T612"
    assert "wait_for_nobody" in str(finding.why)
    assert "wait_for_nobody" in (run.ranks / "0" / "stacks.txt").read_text()
    assert process.poll() is not None
