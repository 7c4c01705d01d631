"""How several processes are started, found, asked to stop, and asked why they failed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.launch import local, torchrun
from dpo_recipes.launch.batch import BatchPlan
from dpo_recipes.launch.choose import (
    LaunchFlags,
    check_devices,
    choose_backend,
    choose_batch,
    count_gpus,
    sketch_launch,
)
from dpo_recipes.launch.files import LaunchPlan, first_plan, read_launch, write_launch
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.ranks import Rank, events_path, first_failure, record_process, signal_processes
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory


def recipe(device: str = "auto", **launch: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]},
        "hardware": {"device": device}, "launch": launch,
    })  # fmt: skip


def request(tmp_path: Path, processes: int = 2, nodes: int = 1, **more: Any) -> LaunchRequest:
    return LaunchRequest(recipe(), RunDirectory(tmp_path), processes, nodes, **more)


def test_one_machine_needs_no_meeting_place(tmp_path: Path) -> None:
    assert torchrun.LAUNCHER.command(request(tmp_path, trust_remote_code=True)) == [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
        *("-m", "dpo_recipes.worker", str(tmp_path), "--trust-remote-code"),
    ]


def test_several_meet_where_the_command_says(tmp_path: Path) -> None:
    command = torchrun.LAUNCHER.command(request(tmp_path, 8, 2, rendezvous="first:2900"))
    assert command[3:8] == [
        *("--nproc-per-node=4", "--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=first:2900"),
        f"--rdzv-id={recipe().name}",
    ]


def test_or_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RecipeError, match="--rendezvous HOST:PORT") as caught:
        torchrun.LAUNCHER.command(request(tmp_path, 2, 2))
    assert caught.value.findings[0].code == "R347"
    monkeypatch.setenv("MASTER_ADDR", "first")
    assert "--rdzv-endpoint=first:29500" in torchrun.LAUNCHER.command(request(tmp_path, 2, 2))


@pytest.mark.parametrize("place", ["nowhere", "first:", ":29500", "first:0", "first:99999999", "first:port"])
def test_what_is_no_place_to_meet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    with pytest.raises(RecipeError, match="must be HOST:PORT") as caught:
        torchrun.LAUNCHER.command(request(tmp_path, 2, 2, rendezvous=place))
    assert caught.value.findings[0].code == "R347"
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("MASTER_PORT", "many")
    with pytest.raises(RecipeError, match="R347"):
        torchrun.LAUNCHER.command(request(tmp_path, 2, 2))


def test_cores_are_shared_out_but_a_persons_number_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "num_cores", lambda: 12)
    assert torchrun.environment(request(tmp_path, 4))["OMP_NUM_THREADS"] == "3"
    assert torchrun.environment(request(tmp_path, 8, 2))["OMP_NUM_THREADS"] == "3"
    assert torchrun.environment(request(tmp_path, 64))["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert torchrun.environment(request(tmp_path, 4))["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("launch", "processes", "backend"),
    [
        ({}, 1, "local"),
        ({}, 2, "torchrun"),
        ({"strategy": "deepspeed-zero2"}, 1, "torchrun"),  # one GPU that offloads wants a process group too
        ({"backend": "torchrun"}, 1, "torchrun"),
        ({"backend": "accelerate"}, 2, "accelerate"),
    ],
)
def test_the_launcher_follows_from_the_processes(launch: Any, processes: int, backend: str) -> None:
    assert choose_backend(recipe(**launch), BatchPlan(processes, 1, 1, 1)) == backend


def test_gpus_that_are_hidden_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.launch.choose.gpu_names", lambda: ["A40", "A40", "A40"])
    for visible, count in ((None, 3), ("0,2", 2), ("", 0), ("-1", 0)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_gpus() == count


def test_more_processes_than_gpus_are_refused_before_anything_starts() -> None:
    given = recipe("cuda")
    with pytest.raises(RunError, match="--num-processes 2") as caught:
        check_devices(given, choose_batch(given, LaunchFlags(num_processes=4), 2), 2)
    assert caught.value.findings[0].code == "M507"
    check_devices(given, choose_batch(given, LaunchFlags(num_processes=2), 2), 2)
    check_devices(recipe(), choose_batch(recipe(), LaunchFlags(num_processes=4), 0), 0)  # processes of a CPU


def test_a_sketch_shows_command_and_configurations() -> None:
    given = recipe(strategy="deepspeed-zero2")
    sketch = sketch_launch(given, BatchPlan(4, 2, 2, 2), "deepspeed-zero2", "the recipe says so", "bfloat16").to_json()
    assert sketch["launch"]["pairs_per_step"] == 16
    assert "--rdzv-endpoint=HOST:29500" in sketch["command"]
    config = sketch["configurations"]["deepspeed.json"]
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (16, 2)
    given = recipe(backend="accelerate")
    sketch = sketch_launch(given, BatchPlan(4, 1, 2, 2), "ddp", "the whole job fits", "bfloat16")
    assert sketch.configurations["accelerate.yaml"]["num_processes"] == 4


def test_the_worker_reads_what_was_planned(tmp_path: Path) -> None:
    run, given = RunDirectory(tmp_path), recipe(strategy="fsdp")
    assert read_launch(run, recipe()).batch.num_processes == 1
    plan = first_plan(given, BatchPlan(4, 2, 2, 2))
    write_launch(run, given, plan)
    assert read_launch(run, given) == plan == LaunchPlan(BatchPlan(4, 2, 2, 2), "fsdp")
    assert json.loads((tmp_path / "launch" / "fsdp.json").read_text())["version"] == 2
    assert first_plan(recipe(), BatchPlan(1, 1, 2, 2)).strategy == "ddp"
    assert first_plan(recipe(), BatchPlan(2, 1, 2, 2)).strategy == "auto"


def test_a_process_knows_its_place() -> None:
    assert Rank.of({}) == Rank(0, 1, 0, 1, is_joined=False)
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert Rank.of(environment) == Rank(5, 8, 1, 4, is_joined=True)


def _began(pid: int) -> float:
    return psutil.Process(pid).create_time()


def test_workers_are_asked_to_stop_and_their_agent_is_not(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not signal_processes(run, signal.SIGTERM)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        record_process(run, Rank(1, 2, 1, 2, is_joined=True))
        path = tmp_path / "ranks" / "1" / "process.json"
        record = json.loads(path.read_text())
        assert (record["pid"], record["host"]) == (os.getpid(), socket.gethostname())
        path.write_text(json.dumps({**record, "pid": sleeper.pid, "began": record["began"] - 100}))
        assert not signal_processes(run, signal.SIGTERM)  # another process than the one that had this number
        path.write_text(json.dumps({**record, "pid": sleeper.pid, "began": _began(sleeper.pid)}))
        elsewhere = tmp_path / "ranks" / "0"
        elsewhere.mkdir()
        (elsewhere / "process.json").write_text(json.dumps({**record, "host": "another-machine"}))
        assert signal_processes(run, signal.SIGTERM)
        assert sleeper.wait(10) == -signal.SIGTERM
    assert not signal_processes(run, signal.SIGTERM)  # it has gone


def test_killing_a_job_reaches_workers_in_sessions_of_their_own(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    agent, worker = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
    record_process(run, Rank(0, 1, 0, 1, is_joined=True))
    path = tmp_path / "ranks" / "0" / "process.json"
    record = {**json.loads(path.read_text()), "pid": worker.pid, "began": _began(worker.pid)}
    path.write_text(json.dumps(record))
    torchrun.TorchrunJob(agent, run, 0).kill()
    assert (agent.wait(10), worker.wait(10)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_a_job_that_is_stopped_before_its_workers_are_there_ends_at_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    job = torchrun.TorchrunJob(process, run, 0)
    job.interrupt()
    process.wait(10)
    assert job.poll() == -signal.SIGINT


REPORT = """\
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 12)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_16:02:51
  exitcode  : -9 (pid: 11456)
"""


def test_the_exit_code_is_that_of_the_worker_that_failed_first(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(REPORT)
    assert torchrun.root_cause(log) == -9
    log.write_text(REPORT + "another start\n")
    assert torchrun.root_cause(log, len(REPORT)) is None


def _events(run: RunDirectory, rank: int, *events: dict[str, Any]) -> None:
    path = events_path(run, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "err', encoding="utf-8")


def test_the_reason_is_that_of_the_process_that_failed_first(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert first_failure(run) == (None, None)
    _events(run, 0, {"event": "stage", "time": 1}, {"event": "error", "time": 5, "findings": [{"code": "T604"}]})
    _events(run, 1, {"event": "error", "time": 2, "findings": [{"code": "T613"}]})
    _events(run, 2, {"event": "error", "time": 3, "findings": [{"code": "T602"}]})
    failure, rank = first_failure(run)
    assert failure
    assert (failure["findings"], rank) == ([{"code": "T602"}], 2)


def test_the_local_launcher_is_unchanged(tmp_path: Path) -> None:
    assert local.LAUNCHER.command(request(tmp_path, 1))[1:] == ["-m", "dpo_recipes.worker", str(tmp_path)]
