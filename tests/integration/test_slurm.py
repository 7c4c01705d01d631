"""The SLURM launcher against a real SLURM (see tests/slurm_cluster.py), with a stand-in for the worker.

`make test-slurm` runs them all, the slow ones too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import INSTALL, SlurmCluster, missing_programs, running_cluster, wait_until

from dpo_recipes.errors import RunError
from dpo_recipes.launch.batch import count_processes
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm import LAUNCHER, SlurmJob
from dpo_recipes.launch.slurm_script import gpus_of_node
from dpo_recipes.launch.slurm_settings import SlurmSettings, read_slurm_settings
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason=f"no SLURM here: {INSTALL}")
WORKER = Path(__file__).resolve().parents[1] / "slurm_worker.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with running_cluster() as cluster:
        yield cluster


@dataclass
class Jobs:
    """Makes run directories whose worker is the stand-in, and follows their jobs."""

    folder: Path
    notes: list[str] = field(default_factory=list)

    def request(
        self, behaviour: str, name: str = "run", slurm_settings: SlurmSettings | None = None, **launch: Any
    ) -> LaunchRequest:
        run = RunDirectory(self.folder / name)
        run.path.mkdir()
        (run.path / "behaviour").write_text(behaviour)
        recipe = Recipe.model_validate(
            {
                "schema": 1,
                "name": "stand-in",
                "model": {"path": "gpt2"},
                "data": {"train": [{"path": "a/b"}]},
                "hardware": {"device": "cpu"},
                "launch": launch,
            }
        )
        counts = count_processes(recipe, gpus_of_node(recipe))
        return LaunchRequest(
            recipe, run, *counts, slurm_settings=slurm_settings or SlurmSettings(), on_message=self.notes.append
        )

    def start(
        self, behaviour: str, name: str = "run", slurm_settings: SlurmSettings | None = None, **launch: Any
    ) -> SlurmJob:
        return LAUNCHER.start(self.request(behaviour, name, slurm_settings, **launch))

    def path(self, name: str) -> Path:
        return self.folder / "run" / name


@pytest.fixture
def jobs(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setattr(
        "dpo_recipes.launch.local.LocalLauncher.command",
        lambda _, request: [sys.executable, str(WORKER), str(request.run.path)],
    )
    monkeypatch.setattr("dpo_recipes.launch.slurm_commands.QUERY_SLURM_S", (0.3, 1.0))
    monkeypatch.setattr("dpo_recipes.launch.slurm._LOOK_AT_FILES_S", 0.1)
    yield Jobs(tmp_path)
    cluster.call("scancel", "--me", "--signal=KILL")
    cluster.call("scancel", "--me")
    wait_until(cluster.is_idle, 30, cluster.logs)


def _end_of(job: SlurmJob, timeout_s: float = 60) -> int:
    code: list[int] = []
    wait_until(lambda: (found := job.poll()) is not None and not code.append(found), timeout_s, "the job does not end")
    return code[0]


def _wait_for(path: Path, job: SlurmJob | None = None) -> None:
    wait_until(lambda: (job and job.poll(), path.exists())[1], 30, f"{path} does not come")


def _number(job: SlurmJob) -> str:
    return job._number


def test_a_job_runs_to_its_end_and_its_output_is_in_the_run_directory(jobs: Jobs) -> None:
    job = jobs.start("exit 0")
    assert _end_of(job) == 0
    assert jobs.path("run.log").read_text() == "the worker speaks\n"
    assert jobs.path("launch/job.sbatch").read_text().startswith("#!/bin/bash\n")
    assert jobs.notes[0] == f"SLURM job {_number(job)} from {jobs.path('launch/job.sbatch')}"


def test_a_path_that_no_shell_would_like(jobs: Jobs) -> None:
    name = 'it\'s a "run" $(touch pwned) #%j\nline'
    job = jobs.start("exit 0", name=name)
    assert _end_of(job) == 0
    assert (jobs.folder / name / "run.log").read_text() == "the worker speaks\n"
    assert not (jobs.folder / name / "pwned").exists()


@pytest.mark.parametrize(("behaviour", "code"), [("exit 6", 6), ("exit 1", 1), ("die", -9)])
def test_a_worker_that_fails_hands_its_code_on(jobs: Jobs, behaviour: str, code: int) -> None:
    assert _end_of(jobs.start(behaviour)) == code


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_tasks_know_their_places_and_meet(jobs: Jobs, num_nodes: int) -> None:
    count = 2 * num_nodes
    launch = {"num_processes": count, "num_nodes": num_nodes, "slurm": {"cpus_per_task": 2}}
    assert _end_of(jobs.start("meet", **launch)) == 0, jobs.path("run.log").read_text()
    met = sorted(json.loads(jobs.path("met.json").read_text()), key=lambda place: int(place["RANK"]))
    assert met == [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(rank % 2),
            "LOCAL_WORLD_SIZE": "2",
            "SLURM_NODEID": str(rank // 2),
            "OMP_NUM_THREADS": met[0]["OMP_NUM_THREADS"],
        }
        for rank in range(count)
    ]


def test_a_job_gets_its_share_of_threads(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _end_of(jobs.start("meet", slurm={"cpus_per_task": 3}, num_processes=1)) == 1  # one process meets nobody
    assert _end_of(jobs.start("meet", "second", slurm={"cpus_per_task": 2}, num_processes=2)) == 0
    met = json.loads((jobs.folder / "second" / "met.json").read_text())
    assert [place["OMP_NUM_THREADS"] for place in met] == ["2", "2"]


@pytest.mark.slow
def test_two_gloo_processes_of_torch_meet(jobs: Jobs) -> None:
    assert _end_of(jobs.start("reduce", num_processes=2), 120) == 0, jobs.path("run.log").read_text()
    assert [jobs.path(f"total.{rank}").read_text() for rank in (0, 1)] == ["3.0", "3.0"]


def test_one_bad_task_ends_all(jobs: Jobs) -> None:
    setup = SlurmSettings(setup='cat > "$run/behaviour" <<< "exit 6"')
    assert _end_of(jobs.start("wait", slurm_settings=setup, num_processes=2)) == 6


@pytest.mark.parametrize(("behaviour", "code"), [("wait", 75), ("wait 130", -2)])
def test_a_stop_reaches_every_task_as_sigint_and_all_end_in_peace(jobs: Jobs, behaviour: str, code: int) -> None:
    job = jobs.start(behaviour, num_processes=2)
    _wait_for(jobs.path("lives"))
    time.sleep(1)  # for the other task
    job.interrupt()
    assert _end_of(job) == code  # 130 without a word of why is as if SIGINT had ended it
    assert [jobs.path(f"stopped.{rank}").read_text() for rank in (0, 1)] == ["SIGINT", "SIGINT"]
    assert len(jobs.path("lives").read_text().splitlines()) == 1  # a person's wish queues nothing again


def test_a_stop_while_the_job_waits_takes_it_out_of_the_queue(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("exit 0", slurm_settings=read_slurm_settings(["begin=now+3600"], None, {}))
    wait_until(lambda: job.poll() or len(jobs.notes) == 2, 20, "no reason is reported")
    assert jobs.notes[1].startswith("waiting: it may not start yet")
    job.interrupt()
    assert _end_of(job) == -2
    assert cluster.call("squeue", "--noheader") == ""
    assert not jobs.path("lives").exists()


def test_a_stop_while_the_job_sets_up_starts_no_worker(jobs: Jobs) -> None:
    job = jobs.start("exit 0", slurm_settings=SlurmSettings(setup="touch $run/setting-up; sleep 3"))
    _wait_for(jobs.path("setting-up"))
    job.interrupt()
    assert _end_of(job) == -2
    assert not jobs.path("lives").exists()


def test_a_second_stop_ends_a_worker_that_does_not_listen(jobs: Jobs) -> None:
    job = jobs.start("ignore")
    _wait_for(jobs.path("lives"))
    job.interrupt()
    job.kill()
    assert _end_of(job) == -2


def test_a_job_that_somebody_else_cancels(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("ignore")
    _wait_for(jobs.path("lives"))
    cluster.call("scancel", _number(job))
    with pytest.raises(RunError, match=r"T636[\s\S]*SLURM says CANCELLED"):
        _end_of(job)


def test_a_node_that_fails(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("ignore", slurm={"requeue": False})
    _wait_for(jobs.path("lives"))
    node = cluster.nodes[0]
    try:
        cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        with pytest.raises(RunError, match=rf"T635[\s\S]*NODE_FAIL, on {node}"):
            _end_of(job)
    finally:
        cluster.call("scontrol", "update", f"nodename={node}", "state=resume")


def test_setup_lines_that_fail_are_named_with_their_words(jobs: Jobs) -> None:
    with pytest.raises(RunError, match=r"T632[\s\S]*why: no such module: cuda"):
        _end_of(jobs.start("exit 0", slurm_settings=SlurmSettings(setup="echo no such module: cuda >&2; exit 3")))


def test_a_run_directory_that_the_node_does_not_see(jobs: Jobs) -> None:
    request = jobs.request("exit 0", slurm_settings=read_slurm_settings(["begin=now+3"], None, {}))
    job = LAUNCHER.start(request)
    request.run.path.rename(jobs.folder / "elsewhere")
    with pytest.raises(RunError, match=r"T632[\s\S]*cannot read the run directory"):
        _end_of(job)


@pytest.mark.parametrize(
    ("options", "launch", "words"),
    [
        (["partition=nosuch"], {}, r"invalid partition[\s\S]*hint: name a partition"),
        ([], {"slurm": {"gpus_per_node": 1}}, r"[\s\S]*gpus_per_node=0"),
        ([], {"slurm": {"memory": "9999G"}}, r"[Mm]emory[\s\S]*hint: lower `launch.slurm.memory`"),
        (["no-such-option"], {}, r"unrecognized option[\s\S]*man sbatch"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_own_words(
    jobs: Jobs, options: list[str], launch: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunError, match=r"T631[\s\S]*" + words):
        jobs.start("exit 0", slurm_settings=read_slurm_settings(options, None, {}), **launch)


def test_slurms_own_variables_keep_working_and_a_flag_goes_before_them(
    jobs: Jobs, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "urgent")
    assert _partition(cluster, jobs.start("exit 0", "one")) == "urgent"
    assert _partition(cluster, jobs.start("exit 0", "two", read_slurm_settings(["partition=work"], None, {}))) == "work"


def _partition(cluster: SlurmCluster, job: SlurmJob) -> str:
    shown = cluster.call("scontrol", "--oneliner", "show", "job", _number(job))
    return shown.partition(" Partition=")[2].split()[0]


def test_the_warning_before_the_time_limit_makes_the_job_queue_itself_again(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("wait")
    _wait_for(jobs.path("lives"), job)
    cluster.call("scancel", "--batch", "--signal=USR1", _number(job))
    assert _end_of(job) == 0
    assert [line.split()[1] for line in jobs.path("lives").read_text().splitlines()] == ["0", "1"]
    assert jobs.path("stopped.0").read_text() == "SIGINT"
    assert f"SLURM job {_number(job)} is queued again (restart 1)" in jobs.notes


def test_a_person_who_stops_it_meanwhile_is_stronger(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("wait")
    _wait_for(jobs.path("lives"))
    jobs.path(f"launch/stop.{_number(job)}").touch()
    cluster.call("scancel", "--batch", "--signal=USR1", _number(job))
    assert _end_of(job) == 75
    assert len(jobs.path("lives").read_text().splitlines()) == 1


def test_a_job_that_is_preempted_goes_on_afterwards(jobs: Jobs, cluster: SlurmCluster) -> None:
    job = jobs.start("wait")
    _wait_for(jobs.path("lives"))
    cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    assert _end_of(job, 90) == 0
    assert jobs.path("stopped.0").read_text() == "SIGTERM"
    assert [line.split()[1] for line in jobs.path("lives").read_text().splitlines()] == ["0", "1"]


@pytest.mark.slow
def test_the_real_time_limit_comes_with_its_warning(jobs: Jobs) -> None:
    job = jobs.start("wait", slurm={"time_limit": "1", "checkpoint_seconds": 30})
    assert _end_of(job, 180) == 0
    assert len(jobs.path("lives").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_worker_that_is_deaf_runs_into_the_time_limit(jobs: Jobs) -> None:
    job = jobs.start("ignore both", slurm={"time_limit": "1", "checkpoint_seconds": 10})
    with pytest.raises(RunError, match=r"T633[\s\S]*SLURM says TIMEOUT"):
        _end_of(job, 240)


def test_a_controller_that_is_away_for_a_while_ends_nothing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.start("wait")
    _wait_for(jobs.path("lives"), job)
    with monkeypatch.context() as away:
        away.setenv("SLURM_CONF", "/nosuch/slurm.conf")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert job.poll() is None
            time.sleep(0.2)
    job.interrupt()
    assert _end_of(job) == 75
    assert any(note.startswith("SLURM does not answer") for note in jobs.notes)


def test_a_job_that_slurm_has_forgotten(jobs: Jobs) -> None:
    request = jobs.request("exit 0")
    with pytest.raises(RunError, match="T637"):
        _end_of(SlurmJob(request, 999_999))
