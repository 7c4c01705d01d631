"""Job files for other systems: valid by their published schemas, and the recipe in them means what it meant here."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from shipped_files import SINGLE
from typer.testing import CliRunner

from dpo_recipes import __version__
from dpo_recipes.cli import app
from dpo_recipes.errors import RecipeError
from dpo_recipes.hardware.profiles import PROFILES
from dpo_recipes.launch import kubernetes, skypilot
from dpo_recipes.launch.manifest import ExportRequest, requirements, travelling_recipe
from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = REPOSITORY / "tests" / "schemas"
WITHOUT_A_RENTED_GPU = ("gpt2_mps", "gpt2_mps_sweep", "qwen2_6gb", "qwen2_6gb_sweep")
Write = Callable[[str, str], Path]


def _order(path: Path, *overrides: str, **fields: Any) -> ExportRequest:
    return ExportRequest(validate(path, list(overrides)), **fields)


def _check_task(text: str) -> dict[str, Any]:
    task = yaml.safe_load(text)
    jsonschema.validate(task, json.loads((SCHEMAS / "skypilot_task.json").read_text()))
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    return task


def _check_manifests(text: str) -> dict[str, dict[str, Any]]:
    schema = json.loads((SCHEMAS / "kubernetes.json").read_text())
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        definition = {"Job": "batch.v1.Job"}.get(document["kind"], f"core.v1.{document['kind']}")
        jsonschema.validate(document, {**schema, "$ref": f"#/$defs/{definition}"})
    return {document["kind"]: document for document in documents}


@pytest.fixture
def recipe(write: Write) -> Path:
    write("pairs.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    write("own.jinja", "{% for message in messages %}{{ message.content }}\n{% endfor %}")
    text = (
        "schema: 1\nname: Mine.v2\nmodel: {path: owner/model}\ndata: {train: [{path: pairs.jsonl}]}\n"
        "chat_template: own.jinja\nhardware: {profile: a100-80gb}\n"
        "launch: {backend: slurm, num_threads: 4, slurm: {memory: 64G}}\n"
    )
    return write("mine.yaml", text)


def _from_hub(recipe: Path, *overrides: str, **fields: Any) -> ExportRequest:
    return _order(recipe, "data.train[0].path=owner/pairs", *overrides, **fields)


@pytest.mark.parametrize("name", SINGLE)
def test_a_shipped_recipe_means_the_same_after_it_has_travelled(name: str, tmp_path: Path) -> None:
    request = _order(recipe_paths()[name])
    text, files = travelling_recipe(request)
    for relative, source in files.items():
        (tmp_path / relative).parent.mkdir(parents=True)
        (tmp_path / relative).symlink_to(source)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    there, here = (
        plain_recipe(validated.recipe) for validated in (validate(tmp_path / "recipe.yaml"), request.validated)
    )
    names = [Path(source["path"]).name for source in here["data"]["train"]]
    assert [Path(source["path"]).name for source in there["data"]["train"]] == names
    assert {k: v for k, v in there.items() if k != "data"} == {k: v for k, v in here.items() if k != "data"}


def test_a_recipe_travels_with_its_files_and_without_the_launcher_of_this_place(recipe: Path) -> None:
    text, files = travelling_recipe(_order(recipe))
    data = yaml.safe_load(text)
    assert files == {"files/0/pairs.jsonl": recipe.with_name("pairs.jsonl")}
    assert data["data"]["train"] == [{"path": "./files/0/pairs.jsonl"}]
    assert "{% for message in messages %}" in data["chat_template"]
    assert data["launch"] == {"num_threads": 4}


@pytest.mark.parametrize("name", [name for name in SINGLE if name not in WITHOUT_A_RENTED_GPU])
def test_shipped_recipes_make_valid_tasks(name: str) -> None:
    overrides = () if validate(recipe_paths()[name]).recipe.hardware.profile else ("hardware.profile=a40-48gb",)
    _check_task(skypilot.export(_order(recipe_paths()[name], *overrides)))


def test_a_task_asks_for_the_recipes_gpu_and_takes_its_files_along(recipe: Path) -> None:
    task = _check_task(skypilot.export(_order(recipe, num_processes=4)))
    assert task["name"] == "mine-v2"
    assert task["resources"] == {"accelerators": "A100-80GB:4"}
    assert task["num_nodes"] == 1
    assert task["file_mounts"] == {"~/dpo-recipe/files/0/pairs.jsonl": str(recipe.with_name("pairs.jsonl"))}
    assert f"pip install dpo-recipe=={__version__}\n" in task["setup"]
    assert task["run"] == "cd ~/dpo-recipe\ndpo-recipe run recipe.yaml --num-processes 4\n"


def test_nodes_of_a_task_meet_at_the_first(recipe: Path) -> None:
    task = _check_task(skypilot.export(_order(recipe, num_processes=8, num_nodes=2)))
    assert (task["num_nodes"], task["resources"]) == (2, {"accelerators": "A100-80GB:4"})
    environment = {"PATH": "/usr/bin:/bin", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    script = task["run"].replace("cd ~/dpo-recipe", 'dpo-recipe() { echo "$@"; }')
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "run recipe.yaml --num-processes 8 --num-nodes 2 --rendezvous 10.0.0.1:29500\n"


def test_the_recipe_arrives_as_it_was_whatever_stands_in_it(recipe: Path, tmp_path: Path) -> None:
    request = _from_hub(recipe, "summary='$(touch pwned) `touch pwned` END_OF_RECIPE'")
    setup = _check_task(skypilot.export(request))["setup"].replace("~", str(tmp_path / "home"))
    subprocess.run(["bash", "-c", "pip() { :; }\n" + setup], check=True, cwd=tmp_path)
    assert (tmp_path / "home/dpo-recipe/recipe.yaml").read_text() == travelling_recipe(request)[0]
    assert not (tmp_path / "pwned").exists()


def test_a_task_for_a_cpu_asks_for_cores_and_memory(recipe: Path) -> None:
    task = _check_task(skypilot.export(_order(recipe, "hardware.profile=cpu-amx")))
    assert task["resources"] == {"cpus": "8+", "memory": "64+"}


@pytest.mark.parametrize("profile", ["null", "rtx2060-6gb", "mps-16gb"])
def test_a_gpu_that_cannot_be_rented_is_refused(recipe: Path, profile: str) -> None:
    with pytest.raises(RecipeError, match="U422"):
        skypilot.export(_from_hub(recipe, f"hardware.profile={profile}"))


def test_only_known_profiles_have_an_accelerator() -> None:
    assert set(skypilot.ACCELERATORS) <= set(PROFILES)


def test_pip_gets_what_the_recipe_uses(recipe: Path) -> None:
    overrides = ("tracking.report_to=[wandb]", "training.optimizer=paged_adamw_8bit")
    assert requirements(_order(recipe, *overrides).recipe) == [f"dpo-recipe[quant,track]=={__version__}"]
    trackers = ("tracking.report_to=[mlflow, codecarbon, kubeflow, dagshub]",)
    assert requirements(_order(recipe, *trackers).recipe) == [f"dpo-recipe[mlflow]=={__version__}", "codecarbon"]
    remote = ("data.train[0].path=https://example.org/pairs.jsonl", "training.optimizer=adamw_torch_8bit")
    assert requirements(_order(recipe, *remote).recipe) == [f"dpo-recipe[remote]=={__version__}", "torchao"]


def test_a_job_on_one_node(recipe: Path) -> None:
    made = _check_manifests(kubernetes.export(_from_hub(recipe, image="local/dpo:1", num_processes=2)))
    assert set(made) == {"ConfigMap", "Job"}
    spec = made["Job"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "local/dpo:1"
    assert container["command"] == ["dpo-recipe", "run", "/recipe/recipe.yaml", "--num-processes", "2"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert pod["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 6
    assert yaml.safe_load(made["ConfigMap"]["data"]["recipe.yaml"])["name"] == "Mine.v2"
    assert "completionMode" not in spec
    assert {"name": "work", "emptyDir": {}} in pod["volumes"]


def test_several_nodes_are_indexed_and_meet_at_the_first_by_its_name(recipe: Path) -> None:
    request = _from_hub(recipe, image="i", num_processes=4, num_nodes=2, claim="runs", secrets=("hub",))
    made = _check_manifests(kubernetes.export(request))
    name = made["Job"]["metadata"]["name"]
    spec = made["Job"]["spec"]
    pod = spec["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert made["Service"]["metadata"]["name"] == pod["subdomain"] == name
    assert made["Service"]["spec"]["clusterIP"] == "None"
    labels = spec["template"]["metadata"]["labels"]
    assert made["Service"]["spec"]["selector"].items() <= labels.items()
    (container,) = pod["containers"]
    assert container["command"][-2:] == ["--rendezvous", f"{name}-0.{name}:29500"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert {"name": "work", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]


def test_a_cpu_job_has_no_gpu(recipe: Path) -> None:
    made = _check_manifests(kubernetes.export(_from_hub(recipe, "hardware.profile=cpu", image="i")))
    assert "resources" not in made["Job"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["simple", "Mine.v2", "a" * 100, "x_1.-._", "mine-v2"])
def test_names_are_what_kubernetes_takes(name: str) -> None:
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#rfc-1035-label-names
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", kubernetes.object_name(name) + "-9999")


def test_different_recipes_keep_different_names() -> None:
    names = [kubernetes.object_name(name) for name in ("mine-v2", "Mine.v2", "mine_v2", "mine.v2")]
    assert len(set(names)) == 4


def test_what_a_pod_cannot_have_is_refused(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="U424"):
        kubernetes.export(_from_hub(recipe))
    with pytest.raises(RecipeError, match=r"U423[\s\S]*pairs.jsonl"):
        kubernetes.export(_order(recipe, image="i"))


def test_the_checks_would_see_a_fault() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {}, "backofLimit": 1}}
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        _check_manifests(yaml.safe_dump(job))
    with pytest.raises(jsonschema.ValidationError, match="accelerator"):
        _check_task("{resources: {accelerator: A40}, setup: '', run: ''}")


def test_the_verb_writes_to_stdout_or_to_a_file(recipe: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["launch", str(recipe), "--export", "skypilot", "--num-nodes", "2"])
    assert _check_task(shown.stdout)["num_nodes"] == 2
    target = tmp_path / "task.yaml"
    written = CliRunner().invoke(app, ["launch", str(recipe), "--export", "skypilot", "--output", str(target)])
    assert written.stdout == f"{target}\n"
    _check_task(target.read_text())


@pytest.mark.parametrize(("processes", "nodes", "code"), [("3", "2", "R341"), ("3", "1", "R340")])
def test_numbers_that_would_be_refused_there_are_refused_here(
    recipe: Path, processes: str, nodes: str, code: str
) -> None:
    flags = ["--export", "skypilot", "--num-processes", processes, "--num-nodes", nodes]
    refused = CliRunner().invoke(app, ["launch", str(recipe), *flags])
    assert isinstance(refused.exception, RecipeError)
    assert refused.exception.findings[0].code == code


def test_an_unknown_system_is_answered_with_the_known_ones(recipe: Path) -> None:
    asked = CliRunner().invoke(app, ["launch", str(recipe), "--export", "nosuch"])
    assert asked.exit_code == 2
    assert "kubernetes, skypilot" in asked.output


COMMANDS = re.findall(r"^dpo-recipe (\w+) (.*)$", (REPOSITORY / "docs" / "clusters.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_commands_of_the_page_take_the_flags_they_are_shown_with(verb: str, rest: str) -> None:
    callback = getattr(import_module(f"dpo_recipes.cli.{verb}"), verb)
    known = {f"--{name.strip('_').replace('_', '-')}" for name in inspect.signature(callback).parameters}
    used = set(re.findall(r"--[a-z-]+", rest))
    assert used
    assert used <= known


def test_the_page_exports_as_it_says(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe.write_text(recipe.read_text().replace("pairs.jsonl", "owner/pairs"))
    recipe.rename("recipe.yaml")
    exports = [shlex.split(rest) for verb, rest in COMMANDS if verb == "launch"]
    assert len(exports) == 2
    for arguments in exports:
        assert CliRunner().invoke(app, ["launch", *arguments]).exit_code == 0
    _check_task(Path("task.yaml").read_text())
    _check_manifests(Path("job.yaml").read_text())
