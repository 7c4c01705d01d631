"""The script of a SLURM job: what it asks for, and that no name or path can do more than be named."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.errors import RecipeError
from dpo_recipes.launch.batch import count_processes
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm_script import batch_script, gpus_of_node, gpus_per_node, seconds_of
from dpo_recipes.launch.slurm_settings import SlurmSettings, read_slurm_settings
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

PLAIN = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}


def _order(path: Path = Path("/runs/r/1"), **sections: Any) -> LaunchRequest:
    recipe = Recipe.model_validate({**PLAIN, **sections})
    return LaunchRequest(recipe, RunDirectory(path), *count_processes(recipe, gpus_of_node(recipe)))


def _options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_resources_come_from_the_recipe() -> None:
    slurm = {"time_limit": "1-12", "memory": "64G", "cpus_per_task": 8}
    script = batch_script(_order(launch={"num_processes": 8, "num_nodes": 2, "slurm": slurm}), SlurmSettings())
    assert _options(script) == {
        "job-name": "r",
        "output": "/dev/null",
        "nodes": "2",
        "ntasks-per-node": "4",
        "requeue": "",
        "signal": "B:USR1@120",
        "time": "1-12",
        "mem": "64G",
        "cpus-per-task": "8",
        "gpus-per-node": "4",
    }
    assert "srun --ntasks=8 --ntasks-per-node=4 " in script


def test_a_recipe_that_says_nothing_asks_for_one_process_and_its_gpu() -> None:
    options = _options(batch_script(_order(), SlurmSettings()))
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("1", "1", "1")
    assert not {"time", "mem", "cpus-per-task", "partition", "array"} & set(options)


@pytest.mark.parametrize("hardware", [{"device": "cpu"}, {"profile": "cpu-amx"}])
def test_a_job_for_a_cpu_asks_for_no_gpu(hardware: dict[str, str]) -> None:
    script = batch_script(_order(hardware=hardware), SlurmSettings())
    assert "gpus" not in script
    assert 'MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"' in script  # what a CPU's worker gets everywhere


def test_processes_that_are_left_open_follow_the_gpus() -> None:
    launch = {"num_nodes": 2, "slurm": {"gpus_per_node": 4}}
    assert _order(launch=launch).num_processes == 8
    assert gpus_per_node(_order(launch=launch)) == 4
    assert _order(launch={"num_nodes": 3}).num_processes == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-1:30", 91800), ("1-1:1:1", 90061), ("0", 0)],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    # `man sbatch`, --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, ...
    assert seconds_of(text) == seconds


def test_a_short_job_is_warned_at_its_half() -> None:
    def warning(**slurm: object) -> str:
        return _options(batch_script(_order(launch={"slurm": slurm}), SlurmSettings()))["signal"]

    assert warning(time_limit="2", checkpoint_seconds=120) == "B:USR1@60"
    assert warning(time_limit="2:00:00", checkpoint_seconds=300) == "B:USR1@300"
    assert warning(time_limit="0") == "B:USR1@120"


def test_a_job_that_shall_not_be_requeued_never_requeues_itself() -> None:
    script = batch_script(_order(launch={"slurm": {"requeue": False}}), SlurmSettings())
    assert "#SBATCH --no-requeue" in script
    assert "scontrol requeue" not in script


def test_the_site_adds_its_own() -> None:
    slurm_settings = SlurmSettings({"partition": "gpu", "exclusive": None, "gres": "gpu:a100:1"}, "module load cuda\n")
    script = batch_script(_order(), slurm_settings)
    options = _options(script)
    assert (options["partition"], options["exclusive"], options["gres"]) == ("gpu", "", "gpu:a100:1")
    assert "gpus-per-node" not in options  # the site has said which GPUs
    assert script.index("module load cuda") < script.index("srun ")


@pytest.mark.parametrize(("strategy", "count"), [("auto", 0), ("ddp", 0), ("fsdp", 1), ("deepspeed-zero2", 1)])
def test_one_process_joins_a_group_where_its_strategy_wants_one(strategy: str, count: int) -> None:
    assert batch_script(_order(launch={"strategy": strategy}), SlurmSettings()).count("export RANK=") == count


NASTY = [
    "with blank",
    "quote'and\"quote",
    "$(touch pwned)`touch pwned`",
    "; touch pwned #",
    "line\nbreak\n#SBATCH --partition=other\ntouch pwned",
    "{braces} %j \\x00 $HOME ~",
    "*?[a]&|<>!",
]


def _run(script: str, tmp: Path) -> dict[str, str]:
    """What the script's variables are when bash has read its first part."""
    head = script.partition('[ -d "$run/launch" ]')[0]
    tail = '\nprintf "%s\\0" "$run" "$WANDB_PROJECT" "${command[@]}"'
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", head + tail], capture_output=True, text=True, cwd=tmp, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    run, project, *command, _ = done.stdout.split("\0")
    return {"run": run, "project": project, "command": shlex.join(command)}


@pytest.mark.parametrize("text", NASTY)
def test_a_path_and_a_project_are_text_and_nothing_else(text: str, tmp_path: Path) -> None:
    request = _order(tmp_path / text / "run", tracking={"project": text})
    script = batch_script(request, SlurmSettings())
    values = _run(script, tmp_path)
    assert values["run"] == str(request.run.path)
    assert values["project"] == text
    assert shlex.split(values["command"])[-1] == str(request.run.path)
    assert list(tmp_path.iterdir()) == []
    # SLURM reads options up to the first line that is none of them nor a comment.
    before = script.split("\n\n")[0]
    assert "partition" not in before
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0


@pytest.mark.parametrize("name", ["a b", "x;y", "$(x)", "a\nb", "a\n", "--wrap"])
def test_a_recipe_cannot_bear_a_name_that_would_mean_something(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        _order(name=name)


@pytest.mark.parametrize("field", ["time_limit", "memory"])
@pytest.mark.parametrize("value", ["1 --partition=x", "1\n#SBATCH --wrap=x", "1G\n", "$(x)", "٣", ""])
def test_resources_are_only_what_slurm_means_by_them(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        _order(launch={"slurm": {field: value}})


def test_flags_go_before_the_environment_and_bare_ones_have_no_value(tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("module load cuda\n", encoding="utf-8")
    environment = {"DPO_RECIPE_SLURM": "partition=cpu account=lab", "DPO_RECIPE_SLURM_SETUP": str(setup)}
    slurm_settings = read_slurm_settings(["partition=gpu", "--exclusive", "mail_type=END"], None, environment)
    assert slurm_settings.arguments() == ["--partition=gpu", "--account=lab", "--exclusive", "--mail-type=END"]
    assert slurm_settings.setup == "module load cuda\n"
    assert read_slurm_settings([], None, {}) == SlurmSettings()


@pytest.mark.parametrize(
    "text",
    ["partition=a b", "partition=x\ny", 'comment="x"', "constraint=a#b", "=x", "-p", "Partition=x", "partition="],
)
def test_an_option_that_slurm_would_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="U420") as caught:
        read_slurm_settings([text], None, {})
    assert caught.value.exit_code == 2


def test_what_follows_from_the_recipe_is_not_set_beside_it() -> None:
    with pytest.raises(RecipeError, match=r"launch.slurm.time_limit"):
        read_slurm_settings(["time=1:00"], None, {})
    with pytest.raises(RecipeError, match=r"each process must see all GPUs of its node"):
        read_slurm_settings(["gpus-per-task=1"], None, {})


def test_a_setup_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"U421.*nosuch"):
        read_slurm_settings([], tmp_path / "nosuch", {})
    with pytest.raises(RecipeError, match="U420"):
        read_slurm_settings([], None, {"DPO_RECIPE_SLURM": "comment='open"})
