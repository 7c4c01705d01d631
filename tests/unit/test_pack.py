"""Packing: everything a recipe consists of, the same bytes for the same files, and nothing of this machine."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hostile import PAIRS, TEMPLATE
from synthetic_runs import make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes.artifacts import store
from dpo_recipes.artifacts.artifact import Artifact
from dpo_recipes.artifacts.pack import PackOptions, pack
from dpo_recipes.artifacts.references import find
from dpo_recipes.artifacts.run_files import RunToPack
from dpo_recipes.cli import app
from dpo_recipes.errors import DpoRecipeError, RecipeError, SharingError
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file

CHILD = """extends: ../base/base.yaml
name: child
data: {train: [{path: ../data/pairs.jsonl}]}
chat_template: templates/chat.jinja
"""
BASE = """schema: 1
name: base
model: {path: owner/model, adapter: {kind: lora}}
"""
WITH_DATA = PackOptions(data_licence="CC0-1.0")


def write_recipe(folder: Path) -> Path:
    """A recipe with a parent, data and a template in other folders."""
    files = {
        "mine/child.yaml": CHILD.encode(),
        "base/base.yaml": BASE.encode(),
        "data/pairs.jsonl": PAIRS * 3,
        "mine/templates/chat.jinja": TEMPLATE.encode(),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "mine" / "child.yaml"


def _pack(recipe: Path, target: Path, options: PackOptions = WITH_DATA) -> Artifact:
    return pack(recipe, target, options)


def test_the_same_files_give_the_same_bytes_in_any_folder_and_with_any_umask(tmp_path: Path) -> None:
    first = _pack(write_recipe(tmp_path / "one" / "deep"), tmp_path / "one.recipe.tar")
    before = os.umask(0o077)
    try:
        recipe = write_recipe(tmp_path / "two")
        for number, path in enumerate(sorted((tmp_path / "two").rglob("*"), reverse=True)):
            os.utime(path, (number, number))
        second = _pack(recipe, tmp_path / "two.recipe.tar")
    finally:
        os.umask(before)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest
    assert second.path.stat().st_mode & 0o777 == 0o600


def test_a_packed_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    artifact = _pack(recipe, tmp_path / "child.recipe.tar")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "data")
    validated = validate_file(find(str(artifact.path)).path)
    assert not isinstance(validated, ValidatedChain)
    assert validated.recipe.name == "child"
    assert validated.recipe.model.path == "owner/model"
    assert Path(validated.recipe.data.train[0].path).read_bytes() == PAIRS * 3
    assert Path(validated.recipe.chat_template).read_text() == TEMPLATE
    assert artifact.manifest.data_licence == "CC0-1.0"


def test_any_tar_reads_it(tmp_path: Path) -> None:
    artifact = _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar")
    with tarfile.open(artifact.path) as archive:
        assert archive.getnames() == ["manifest.json", *artifact.members]
        assert {(member.uid, member.mtime, member.mode) for member in archive} == {(0, 0, 0o644)}


def test_data_that_are_not_packed_are_named(tmp_path: Path) -> None:
    artifact = _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar", PackOptions())
    (need,) = artifact.manifest.needs
    assert (need.path, need.kind, need.bytes) == ("recipe/data/pairs.jsonl", "data", len(PAIRS) * 3)
    with pytest.raises(RecipeError, match="R304"):
        validate_file(find(str(artifact.path)).path)


def test_a_lock_beside_the_recipe_is_packed(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    recipe.with_name("child.lock.yaml").write_text("schema: 1\nmodel: {commit: " + "0" * 40 + "}\n")
    artifact = _pack(recipe, tmp_path / "child.recipe.tar")
    assert artifact.manifest.with_role("lock") == ["recipe/mine/child.lock.yaml"]


def test_a_chain_is_packed_with_the_recipes_of_its_steps(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    chain = tmp_path / "chain.yaml"
    chain.write_text(
        "schema: 1\nname: chain\nsteps:\n"
        "  sft: {recipe: mine/child.yaml, set: {objective.kind: sft, model.adapter.save_as: merged}}\n"
        "  dpo: {recipe: mine/child.yaml, model: {path: 'step:sft'}, chat_template: tokenizer}\n"
    )
    artifact = _pack(chain, tmp_path / "chain.recipe.tar")
    assert set(artifact.manifest.with_role("recipe")) == {
        "recipe/chain.yaml", "recipe/mine/child.yaml", "recipe/base/base.yaml",
    }  # fmt: skip
    assert isinstance(validate_file(find(str(artifact.path)).path), ValidatedChain)


def test_what_the_first_round_of_a_chain_begins_with_is_named(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    chain, model = tmp_path / "chain.yaml", tmp_path / "start"
    model.mkdir()
    (model / "config.json").write_text("{}")
    chain.write_text(
        "schema: 1\nname: chain\nrounds: 2\nstart: {dpo: start}\nsteps:\n"
        "  dpo: {recipe: mine/child.yaml, set: {model.path: 'previous:dpo', model.adapter.save_as: merged}}\n"
    )
    artifact = _pack(chain, tmp_path / "chain.recipe.tar", PackOptions())
    assert {(need.path, need.kind) for need in artifact.manifest.needs} == {
        ("recipe/start", "model"), ("recipe/data/pairs.jsonl", "data"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (("../data/pairs.jsonl", "{folder}/data/pairs.jsonl"), "S312", "an absolute path"),
        (("name: child", "name: child\noutput_dir: ~/runs"), "S312", "`output_dir`"),
        (("name: child", "name: child\nsummary: hf_" + "a" * 34), "S311", "has a secret"),
    ],
)
def test_what_means_nothing_elsewhere_is_refused_with_its_line(
    change: tuple[str, str], code: str, text: str, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_text(CHILD.replace(change[0], change[1].replace("{folder}", str(tmp_path))))
    with pytest.raises(SharingError, match=code) as raised:
        _pack(recipe, tmp_path / "child.recipe.tar")
    assert text in str(raised.value)
    assert "child.yaml:" in str(raised.value)
    assert not (tmp_path / "child.recipe.tar").exists()


def test_too_much_data_is_refused(tmp_path: Path) -> None:
    options = PackOptions(data_licence="CC0-1.0", data_limit_mb=0.0001)
    with pytest.raises(SharingError, match="S203") as raised:
        _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar", options)
    assert "more than 0.0001 MB" in str(raised.value)


def test_a_recipe_that_is_a_link_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    parent = tmp_path / "base" / "base.yaml"
    parent.rename(tmp_path / "elsewhere.yaml")
    parent.symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(SharingError, match="S201"):
        _pack(recipe, tmp_path / "child.recipe.tar")


def test_a_name_that_windows_cannot_have_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "data" / "pairs.jsonl").rename(tmp_path / "data" / "a:b.jsonl")
    recipe.write_text(CHILD.replace("pairs.jsonl", "a:b.jsonl"))
    with pytest.raises(SharingError, match="S202"):
        _pack(recipe, tmp_path / "child.recipe.tar")


def test_nothing_is_overwritten_by_something_else(tmp_path: Path) -> None:
    recipe, target = write_recipe(tmp_path), tmp_path / "child.recipe.tar"
    _pack(recipe, target)
    _pack(recipe, target)  # the same once more
    (tmp_path / "data" / "pairs.jsonl").write_bytes(PAIRS)
    with pytest.raises(RecipeError, match="U401"):
        _pack(recipe, target)
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def _finished_run(folder: Path, name: str = "child") -> RunToPack:
    run = make_run(folder, make_recipe(name), digits="00aa00", model_dir=str(folder / "model"))
    (run.path / "report.html").write_text(f"<p>{run.path}/model and /home/anna/data/x.jsonl</p>")
    model = run.path / "model"
    model.mkdir()
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
    (model / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    config = {"peft_type": "LORA", "base_model_name_or_path": str(folder / "base")}
    (model / "adapter_config.json").write_text(json.dumps(config))
    return RunToPack(run, name, saves_adapter=True)


def test_results_and_adapter_are_packed_without_paths_of_this_machine(tmp_path: Path) -> None:
    options = PackOptions(run=_finished_run(tmp_path / "runs"), with_adapter=True)
    artifact = _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar", options)
    assert {"results/result.json", "results/report.html", "adapter/adapter_model.safetensors"} <= set(artifact.members)
    assert artifact.read("results/report.html") == b"<p>RUN/model and .../x.jsonl</p>"
    assert json.loads(artifact.read("adapter/adapter_config.json"))["base_model_name_or_path"] == "owner/model"
    assert artifact.manifest.run == options.run.run.path.name if options.run else None


def test_a_real_report_is_packed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", make_recipe("child"), digits="00aa00")
    assert _run("report", str(run.path)).exit_code == 0
    options = PackOptions(run=RunToPack(run, "child", saves_adapter=False))
    artifact = _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar", options)
    assert b"<svg" in artifact.read("results/report.html")
    assert str(tmp_path).encode() not in artifact.read("results/result.json")


def test_a_pickled_adapter_or_a_whole_model_is_not_packed(tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path), _finished_run(tmp_path / "runs")
    whole = PackOptions(run=RunToPack(run.run, run.recipe_name, saves_adapter=False), with_adapter=True)
    for options in (whole, PackOptions(with_adapter=True)):
        with pytest.raises(SharingError, match="S205"):
            _pack(recipe, tmp_path / "child.recipe.tar", options)
    weights = run.run.path / "model" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(SharingError, match="S205"):
        _pack(recipe, tmp_path / "child.recipe.tar", PackOptions(run=run, with_adapter=True))


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    options = PackOptions(run=_finished_run(tmp_path / "runs", "other"))
    with pytest.raises(SharingError, match="S206"):
        _pack(write_recipe(tmp_path), tmp_path / "child.recipe.tar", options)


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_the_commands_pack_verify_and_inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_recipe(tmp_path).parent)
    packed = _run("pack", "child.yaml", "--with-data", "--data-licence", "CC0-1.0")
    assert packed.stdout == "child.recipe.tar\n"
    verified = json.loads(_run("verify", "child.recipe.tar", "--json").stdout)
    assert verified["manifest"]["name"] == "child"
    assert store.is_allowed(verified["digest"].removeprefix("sha256:"))  # whoever packs it may run it
    inspected = _run("inspect", "child.recipe.tar").stdout
    assert "trains    dpo on owner/model, newest revision with lora" in inspected
    assert "network   the hub: model owner/model" in inspected
    assert "licence   of the data in it: CC0-1.0" in inspected
    assert "signer    not signed" in inspected
    assert "asks for  nothing" in inspected
    assert len(inspected.splitlines()) <= 12


def test_inspect_says_what_would_execute_code_and_what_is_missing(tmp_path: Path) -> None:
    recipe = tmp_path / "risky.yaml"
    recipe.write_text(
        "schema: 1\nname: risky\nmodel: {path: owner/model, revision: v1, trust_remote_code: true}\n"
        "data: {train: [{path: https://host.example/x.jsonl}, {path: gone.jsonl}]}\n"
        "objective: {kind: grpo, rewards: [{function: 'scores.py:good'}, {model: owner/judge}]}\n"
        "tracking: {report_to: [wandb]}\n"
    )
    found = json.loads(_run("inspect", str(recipe), "--json").stdout)
    assert found["asks_for"] == ["Python code from the repository of the model", "the reward function scores.py:good"]
    assert found["models"] == ["owner/model at v1, all weights trained", "reward model owner/judge"]
    assert {"the hub: model owner/judge", "https://host.example/x.jsonl", "metrics to wandb"} <= set(found["network"])
    assert any("gone.jsonl" in error and "R304" in error for error in found["errors"])


def test_data_need_a_licence_to_be_packed(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path))
    for options in (["--with-data"], ["--data-licence", "CC0-1.0"]):
        assert _run("pack", recipe, *options, "-o", str(tmp_path / "x.tar")).exit_code == 2


def test_an_unknown_reference_says_what_can_be_written() -> None:
    for reference, code in (("ftp://host/x.recipe.tar", "S401"), ("https://host/x.recipe.tar", "S401")):
        with pytest.raises(DpoRecipeError, match=code):
            find(reference)
