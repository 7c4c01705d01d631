"""The state of a job as read from SLURM, and the messages about it. The commands are stand-ins."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm import LAUNCHER, is_executed
from dpo_recipes.launch.slurm_errors import ended_badly, submission_refused
from dpo_recipes.launch.slurm_state import JobView, describe_wait, parse_job
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

# Of SLURM 22.05, shortened.
SHOWN = (
    "JobId=17 JobName=tiny UserId=root(0) Priority=4294901759 QOS=(null) JobState={state} Reason={reason} "
    "Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 ExitCode={code} RunTime=00:00:09 TimeLimit=1-00:00:00 "
    "StartTime={start} Deadline=N/A PreemptTime=None Partition=work NodeList={nodes} BatchHost=n1 "
    "Command=/runs/JobState=FAILED Comment=NodeList=no MinMemoryNode=1000M Power="
)


def _shown(state: str = "RUNNING", reason: str = "None", code: str = "0:0", start: str = "Unknown") -> str:
    return SHOWN.format(state=state, reason=reason, code=code, start=start, nodes="n[1-2]")


def test_a_line_of_scontrol_is_read_and_a_later_value_changes_nothing() -> None:
    view = parse_job(_shown("PENDING", "Priority", "75:0", "2026-11-21T12:00:00"))
    assert view == JobView("PENDING", "Priority", 75, 0, 2, "n[1-2]", "2026-11-21T12:00:00")
    assert (view.waits, view.runs, view.has_ended) == (True, False, False)


@pytest.mark.parametrize(("code", "expected"), [("0:9", (0, 9)), ("6:0", (6, 0)), ("0:0", (0, 0))])
def test_exit_code_and_signal_are_told_apart(code: str, expected: tuple[int, int]) -> None:
    view = parse_job(_shown(code=code))
    assert (view.exit_code, view.signal) == expected


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "waiting: no node with the requested resources is free (Resources)"),
        ("ReqNodeNotAvail,_UnavailableNodes:n1", "waiting: the nodes it may run on are down, drained or reserved"),
        ("SomethingNew", "waiting: SomethingNew"),
        ("None", "waiting in the queue"),
    ],
)
def test_a_reason_to_wait_is_put_in_words(reason: str, words: str) -> None:
    assert describe_wait(JobView("PENDING", reason)).startswith(words)


def test_an_expected_start_is_reported() -> None:
    assert describe_wait(JobView("PENDING", "Priority", starts="2026-11-21T12:00:00")).endswith(
        ", expected to start 2026-11-21 12:00:00"
    )


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("TIMEOUT", "T633"),
        ("DEADLINE", "T633"),
        ("OUT_OF_MEMORY", "T634"),
        ("NODE_FAIL", "T635"),
        ("BOOT_FAIL", "T635"),
        ("CANCELLED", "T636"),
        ("PREEMPTED", "T636"),
    ],
)
def test_each_bad_end_has_a_code_a_reason_and_a_way_out(state: str, code: str) -> None:
    error = ended_badly(JobView(state, nodes="n1"), Path("/runs/r/run.log"))
    (finding,) = error.findings
    assert (finding.code, error.exit_code) == (code, 6)
    assert f"SLURM says {state}, on n1" in (finding.why or "")
    assert "/runs/r/run.log" in (finding.why or "")
    assert finding.fix


def test_a_refusal_keeps_slurms_words() -> None:
    words = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    (finding,) = submission_refused(words, Path("job.sbatch")).findings
    assert (finding.code, finding.why) == ("T631", words)
    assert "--slurm" in (finding.fix or "")


@pytest.fixture
def launch_request(tmp_path: Path) -> LaunchRequest:
    recipe = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}
    return LaunchRequest(Recipe.model_validate(recipe), RunDirectory(tmp_path))


def test_without_slurm_the_script_can_be_copied_elsewhere(
    launch_request: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nosuch")
    with pytest.raises(RunError, match=r"T630[\s\S]*copy .*job.sbatch to it"):
        LAUNCHER.start(launch_request)
    assert Path(LAUNCHER.command(launch_request)[-1]).read_text(encoding="utf-8").startswith("#!/bin/bash")


def test_a_cluster_that_adds_its_name_to_the_number(
    launch_request: LaunchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_ins(tmp_path, monkeypatch, sbatch="echo '17;big'", scontrol=f"echo '{_shown('COMPLETED')}'")
    assert LAUNCHER.start(launch_request).poll() == 0


def test_a_job_follows_no_process_of_the_machine_that_submits_it(
    launch_request: LaunchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_RECIPE_PARENT", "1")
    monkeypatch.setenv("DPO_RECIPE_OTHER", "2")
    _stand_ins(tmp_path, monkeypatch, sbatch=f"env >{tmp_path}/passed; echo 17", scontrol="exit 1")
    LAUNCHER.start(launch_request)
    passed = (tmp_path / "passed").read_text()
    assert "DPO_RECIPE_PARENT" not in passed
    assert "DPO_RECIPE_OTHER=2" in passed


def test_a_job_that_is_in_the_queue_is_not_submitted_again(
    launch_request: LaunchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = f"{tmp_path}/launch/job.sbatch"
    shown = _shown("PENDING", "Priority").replace("/runs/JobState=FAILED", mine)
    noted = {name: f'echo {name} "$@" >>{tmp_path}/called' for name in ("sbatch", "scancel")}
    noted["sbatch"] += "; echo 17"
    _stand_ins(tmp_path, monkeypatch, **noted, scontrol=f"echo '{shown}'")
    said: list[str] = []
    first = replace(launch_request, on_message=said.append)
    LAUNCHER.start(first)
    LAUNCHER.start(first)
    assert said == [f"SLURM job 17 from {mine}", "SLURM job 17 is already in the queue"]
    LAUNCHER.start(replace(first, num_processes=2))
    removed = "SLURM job 17, which had other settings, was removed from the queue"
    assert said[2:] == [removed, f"SLURM job 17 from {mine}"]
    assert [line.split()[0] for line in (tmp_path / "called").read_text().splitlines()] == [
        "sbatch",
        "scancel",
        "sbatch",
    ]
    _stand_ins(tmp_path, monkeypatch, **noted, scontrol=f"echo '{shown.replace('PENDING', 'RUNNING')}'")
    assert is_executed(launch_request.run)
    _stand_ins(tmp_path, monkeypatch, **noted, scontrol=f"echo '{_shown('RUNNING')}'")
    assert not is_executed(launch_request.run), "a number that is another job's by now"
    _stand_ins(tmp_path, monkeypatch, **noted, scontrol="echo 'Unable to contact slurm controller' >&2; exit 1")
    for ask in (lambda: is_executed(launch_request.run), lambda: LAUNCHER.start(first)):
        with pytest.raises(RunError, match="T631"):
            ask()
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    _stand_ins(tmp_path, monkeypatch, **noted, scontrol=gone)
    assert not is_executed(launch_request.run)


def _stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Puts shell lines in the place of SLURM's commands."""
    for name, text in {"scancel": ":", **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
