"""Locks: what they fix, what they refuse with which text, and what may change without breaking them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import recipe_text, write_pairs

from dpo_recipes.errors import SharingError
from dpo_recipes.jobs.chain_file import validate_file
from dpo_recipes.share import check as check_module
from dpo_recipes.share import lock as lock_module
from dpo_recipes.share.check import Scope
from dpo_recipes.share.lock_file import Lock, digest_of, lock_path, read_lock
from dpo_recipes.share.locked_job import check_lock, update_lock, with_lock

Say = Callable[[str, str], None]
SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def _quiet(name: str, detail: str) -> None:
    pass


def _model(folder: Path) -> Path:
    """A folder as `save_pretrained` writes it. A lock reads no weights, so their content is any."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("not loaded")
    for shard in SHARDS.values():
        (folder / shard).write_bytes(shard.encode())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": SHARDS}))
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    _model(tmp_path / "model")
    write_pairs(tmp_path / "pairs.jsonl")
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_text("model", "pairs.jsonl"), encoding="utf-8")
    return path


def _lock(path: Path, *overrides: str) -> Lock:
    return update_lock(path, validate_file(path, list(overrides)), _quiet)


def _differences(path: Path, *overrides: str, packages: bool = True) -> list[str]:
    """The findings as lines `severity[code]: what; why`."""
    scope = Scope(may_download=False, packages=packages)
    found = check_lock(path, validate_file(path, list(overrides)), scope, _quiet)
    return [f"{one.severity}[{one.code}]: {one.what}; {one.why}" for one in found]


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SharingError) as caught:
        with_lock(path, list(overrides), validate_file(path, list(overrides)), "strict", _quiet)
    assert caught.value.exit_code == 7
    return str(caught.value)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a lock as a person with an editor and a calculator of digests would."""
    place = lock_path(path)
    plain = yaml.safe_load(place.read_text(encoding="utf-8"))
    change(plain)
    del plain["sha256"]
    place.write_text(yaml.safe_dump({**plain, "sha256": digest_of(plain)}), encoding="utf-8")


def test_a_lock_has_what_is_loaded_and_nothing_else(recipe: Path) -> None:
    lock = _lock(recipe)
    job = lock.jobs[""]
    assert set(job.inputs["model.path"].files) == {
        "config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS.values()
    }  # fmt: skip
    assert set(job.inputs) == {"model.path", "data.train[0].path"}
    assert {name: rows.rows for name, rows in job.rows.items()} == {"train": 18, "eval": 6}
    assert {"torch", "trl", "dpo-recipe"} <= set(lock.packages)
    assert read_lock(lock_path(recipe)) == lock.model_copy(update={"sha256": read_lock(lock_path(recipe)).sha256})
    assert str(recipe.parent) not in lock_path(recipe).read_text(), "a lock travels without paths of this machine"


def test_the_same_job_has_the_same_lock(recipe: Path, tmp_path: Path) -> None:
    _lock(recipe)
    first = lock_path(recipe).read_bytes()
    _lock(recipe)
    assert lock_path(recipe).read_bytes() == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("model", "pairs.jsonl", "mine.yaml"):
        (tmp_path / name).rename(elsewhere / name)
    _lock(elsewhere / "mine.yaml")
    assert lock_path(elsewhere / "mine.yaml").read_bytes() == first


def test_what_does_not_change_the_result_may_differ(recipe: Path) -> None:
    _lock(recipe)
    free = ["summary=another", "output_dir=elsewhere", "checkpoints.save_total_limit=1", "tracking.project=x"]
    assert _differences(recipe, *free, "launch.watchdog_minutes=7") == []


def test_a_value_of_a_parent_is_locked(recipe: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\n")
    _lock(child)
    recipe.write_text(recipe.read_text().replace("learning_rate: 1e-2", "learning_rate: 2e-2"))
    refusal = _refusal(child)
    assert "error[S106]: `training.learning_rate` differs from the lock" in refusal
    assert "mine.yaml:8:" in refusal, "the place is that of the parent"
    assert "locked is 0.01, found is 0.02" in refusal


def test_an_override_is_refused_with_its_ways_out(recipe: Path) -> None:
    _lock(recipe)
    refusal = _refusal(recipe, "training.seed=7")
    assert "error[S106]: `training.seed` differs from the lock" in refusal
    assert "--set:1:" in refusal
    assert "locked is 42, found is 7" in refusal
    ways = "leave `--set` out, try the value without the lock (`run --lock off`), or lock it (`run --update-lock`)"
    assert ways in refusal
    _lock(recipe, "training.seed=7")
    assert _differences(recipe, "training.seed=7") == []


def test_many_changed_values_are_counted(recipe: Path) -> None:
    _lock(recipe)
    changes = {"r": 8, "alpha": 8, "dropout": 0.1, "use_rslora": "true", "use_dora": "true", "init": "gaussian"}
    found = _differences(recipe, *(f"model.adapter.{name}={value}" for name, value in changes.items()))
    assert len(found) == 6
    assert found[-1] == "error[S106]: 1 more values differ from the lock; `model.adapter.init`"


def test_a_lock_of_another_recipe(recipe: Path) -> None:
    _lock(recipe)
    recipe.write_text(recipe.read_text().replace("name: tiny", "name: other"))
    refusal = _refusal(recipe)
    assert "error[S105]: the lock is that of another recipe" in refusal
    assert "it locks tiny, and the recipe is other" in refusal
    assert "mine.yaml:2:1" in refusal


def test_a_changed_tokenizer_file(recipe: Path) -> None:
    _lock(recipe)
    (recipe.parent / "model" / "tokenizer.json").write_text('{"added": 1}')
    refusal = _refusal(recipe)
    assert "error[S107]: tokenizer.json of `model.path` has changed" in refusal
    assert re.search(r"locked is [0-9a-f]{12}… of 2 bytes, found is [0-9a-f]{12}… of 12 bytes", refusal)
    assert "mine.yaml:3:15" in refusal


def test_files_that_are_new_or_missing(recipe: Path) -> None:
    _lock(recipe)
    (recipe.parent / "model" / "special_tokens_map.json").write_text("{}")
    (recipe.parent / "model" / "tokenizer.json").unlink()
    found = " ".join(_differences(recipe))
    assert "special_tokens_map.json of `model.path` is new; locked is no file" in found
    assert "tokenizer.json of `model.path` is missing" in found


def test_a_file_that_is_not_loaded_may_change(recipe: Path) -> None:
    _lock(recipe)
    (recipe.parent / "model" / "README.md").write_text("other")
    assert _differences(recipe) == []


def test_a_missing_shard(recipe: Path) -> None:
    (recipe.parent / "model" / SHARDS["b"]).unlink()
    with pytest.raises(SharingError, match=rf"lacks {SHARDS['b']}") as caught:
        _lock(recipe)
    assert caught.value.findings[0].code == "S109"
    assert "names 2 files, of which 1 is missing" in str(caught.value)
    assert not lock_path(recipe).exists()


def test_a_shard_that_was_lost_after_locking(recipe: Path) -> None:
    _lock(recipe)
    (recipe.parent / "model" / SHARDS["b"]).unlink()
    refusal = _refusal(recipe)
    assert "error[S109]" in refusal
    assert "mine.yaml:3:" in refusal
    assert "S108" not in refusal, "rows are not read when files are missing"


def test_a_folder_without_weights(recipe: Path) -> None:
    for shard in (*SHARDS.values(), "model.safetensors.index.json"):
        (recipe.parent / "model" / shard).unlink()
    (recipe.parent / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(SharingError, match="lacks weights") as caught:
        _lock(recipe)
    assert "set `model.allow_pickle: true`" in str(caught.value)
    lock = _lock(recipe, "model.allow_pickle=true")
    assert "pytorch_model.bin" in lock.jobs[""].inputs["model.path"].files


def test_a_dataset_that_has_grown(recipe: Path) -> None:
    _lock(recipe)
    write_pairs(recipe.parent / "pairs.jsonl", 30)
    found = _differences(recipe)
    assert [one[:11] for one in found] == ["error[S107]", "error[S108]", "error[S108]"]
    assert "pairs.jsonl of `data.train[0].path` has changed" in found[0]
    assert re.search(r"the rows of the split `train` .*; locked are 18 \(.*\), found are 2\d \(", found[1])


def test_equal_rows_on_other_lines_are_another_file_but_the_same_rows(recipe: Path) -> None:
    _lock(recipe)
    path = recipe.parent / "pairs.jsonl"
    path.write_text("\n" + path.read_text())
    assert [one[:11] for one in _differences(recipe)] == ["error[S107]"]


def test_other_versions_of_packages(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _lock(recipe)
    real = lock_module.version
    monkeypatch.setattr(lock_module, "version", lambda name: "9.9.9" if name == "trl" else real(name))
    refusal = _refusal(recipe)
    assert "error[S114]: a package has another version than in the lock" in refusal
    assert f"trl: locked is {real('trl')}, found is 9.9.9" in refusal
    assert f"pip install trl=={real('trl')}" in refusal
    assert _differences(recipe, packages=False)[0].startswith("warning[S114]")
    locked = with_lock(recipe, [], validate_file(recipe), "inputs", _quiet)
    assert [warning.code for warning in locked.warnings] == ["S114"]


def test_builds_of_one_version_are_equal(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "version", lambda name: "1.0+cpu")
    _lock(recipe)
    monkeypatch.setattr(lock_module, "version", lambda name: "1.0+cu130")
    assert _differences(recipe) == []


def test_another_device_is_a_warning(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text(recipe.read_text().replace("hardware: {device: cpu}\n", ""))
    _lock(recipe)
    monkeypatch.setattr(lock_module.machine, "gpu_names", lambda: ["NVIDIA H100, 81559 MiB"])
    found = _differences(recipe)
    assert len(found) == 1
    assert found[0].startswith("warning[S115]: the lock was made for cpu, and this machine has cuda")
    with_lock(recipe, [], validate_file(recipe), "strict", _quiet)


@pytest.mark.parametrize(
    ("damage", "code", "text"),
    [
        (lambda text: text[:400], "S101", "the lock mine.lock.yaml is damaged"),
        (lambda text: "", "S101", "why: it is empty"),
        (lambda text: "\x00" + text, "S101", "this is not YAML"),
        (lambda text: text.replace("lock: 1\n", "lock: 1\nlock: 1\n"), "S101", "the key `lock` is set twice"),
        (lambda text: "<<<<<<< HEAD\n" + text, "S101", "this is not valid YAML"),
        (lambda text: text.replace("name: tiny", "name: !!python/name:os.system"), "S101", "is damaged"),
        (lambda text: text.replace("sha256: ", "sha1: ", 3), "S101", "is damaged"),
        (lambda text: text.replace("pairs.jsonl:", "../../pairs.jsonl:"), "S101", "is damaged"),
        (lambda text: text.replace("tokenizer.json:", "/etc/passwd:"), "S101", "is damaged"),
        (lambda text: text.replace("source: local", "source: local\n      commit: x", 1), "S101", "path.commit"),
        (lambda text: text.replace("lock: 1", "lock: 2"), "S102", "mine.lock.yaml is a lock of version 2"),
        (lambda text: text.replace("rows: 18", "rows: 17"), "S103", "mine.lock.yaml was changed after it was made"),
        (lambda text: text.replace("beta: 0.1", "beta: 0.2"), "S103", "was changed after it was made"),
    ],
)  # fmt: skip
def test_a_lock_that_cannot_be_used(recipe: Path, damage: Callable[[str], str], code: str, text: str) -> None:
    _lock(recipe)
    place = lock_path(recipe)
    before = place.read_text(encoding="utf-8")
    place.write_text(damage(before), encoding="utf-8")
    refusal = _refusal(recipe)
    assert refusal.startswith(f"error[{code}]")
    assert text in refusal
    assert "dpo-recipe lock" in refusal


def test_a_lock_of_both_kinds(recipe: Path) -> None:
    _lock(recipe)
    _rewrite(recipe, lambda plain: plain.update(steps={"one": plain["recipe"]}))
    assert "it has neither one `recipe` nor `steps`" in _refusal(recipe)


def test_values_that_do_not_have_their_digest(recipe: Path) -> None:
    _lock(recipe)
    _rewrite(recipe, lambda plain: plain["recipe"]["values"]["objective"].update(beta=0.2))
    assert "error[S103]" in _refusal(recipe)


def test_no_lock_to_check(recipe: Path) -> None:
    with pytest.raises(SharingError, match="has no lock") as caught:
        _differences(recipe)
    assert caught.value.findings[0].code == "S116"


def test_a_chat_template_is_locked_by_its_text(recipe: Path) -> None:
    template = recipe.parent / "mine.jinja"
    template.write_text("{{ messages }}")
    recipe.write_text(recipe.read_text() + "chat_template: ./mine.jinja\n")
    _lock(recipe)
    template.write_text("{{ messages }}!")
    found = _differences(recipe)
    assert len(found) == 1
    assert "mine.jinja of `chat_template` has changed" in found[0]


def test_an_input_of_very_many_files_has_one_digest(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.share.content.MAX_FILES", 2)
    folder = recipe.parent / "rows"
    folder.mkdir()
    for number in range(3):
        write_pairs(folder / f"{number}.jsonl", 8)
    text = recipe.read_text().replace("pairs.jsonl", "./rows")
    recipe.write_text(text)
    assert set(_lock(recipe).jobs[""].inputs["data.train[0].path"].files) == {"(3 files)"}
    (folder / "3.jsonl").write_text((folder / "2.jsonl").read_text())
    assert "(3 files) of `data.train[0].path` is missing" in " ".join(_differences(recipe))


CHAIN = """schema: 1
name: pair
steps:
  sft:
    recipe: sft.yaml
  dpo:
    recipe: dpo.yaml
    set: {model.path: step:sft}
"""


@pytest.fixture
def chain(recipe: Path) -> Path:
    text = recipe.read_text()
    sft = text.replace("training:", "objective: {kind: sft}\ntraining:").replace("r: 4", "r: 4, save_as: merged")
    (recipe.parent / "sft.yaml").write_text(sft)
    (recipe.parent / "dpo.yaml").write_text(text)
    path = recipe.parent / "chain.yaml"
    path.write_text(CHAIN)
    return path


def test_each_step_of_a_chain_is_locked(chain: Path) -> None:
    lock = _lock(chain)
    assert set(lock.jobs) == {"sft", "dpo"}
    assert set(lock.jobs["sft"].inputs) == {"model.path", "data.train[0].path"}
    assert set(lock.jobs["dpo"].inputs) == {"data.train[0].path"}, "its base is made by the other step"
    assert lock.jobs["dpo"].values["model"]["path"] == "step:sft"
    assert _differences(chain) == []
    refusal = _refusal(chain, "steps.dpo.training.seed=3")
    assert "`training.seed` differs from the lock in step `dpo`" in refusal
    assert "step `sft`" not in refusal


def test_a_step_that_evaluates_is_locked_by_its_models_and_data(chain: Path) -> None:
    models = "{kind: evaluate, models: [step:dpo, ./model], data: ./pairs.jsonl, overlap: false}"
    chain.write_text(f"{CHAIN}  compare: {models}\n")
    lock = _lock(chain)
    assert set(lock.jobs["compare"].inputs) == {"models[1]", "data"}
    assert lock.jobs["compare"].rows == {}
    (chain.parent / "model" / "config.json").write_text('{"model_type": "llama", "other": 1}')
    found = _differences(chain)
    assert [one.partition("; ")[0] for one in found] == [
        "error[S107]: config.json of `model.path` has changed in step `sft`",
        "error[S107]: config.json of `models[1]` has changed in step `compare`",
    ]


def test_a_chain_with_another_step(chain: Path) -> None:
    _lock(chain)
    chain.write_text(CHAIN + "  more:\n    recipe: dpo.yaml\n")
    refusal = _refusal(chain)
    assert "error[S105]" in refusal
    assert "it has the steps sft, dpo" in refusal


def test_a_sweep_is_locked_by_its_settings_and_base(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "sweep: {grid: {training.seed: [1, 2]}, parallel: 1}\n")
    _lock(recipe)
    assert _differences(recipe, "sweep.parallel=2", "sweep.keep=best") == []
    assert "`sweep.grid.training.seed[1]` differs" in _refusal(recipe, "sweep.grid={training.seed: [1, 3]}")


def test_a_place_in_the_values_is_a_place_in_the_recipe() -> None:
    assert check_module._data_path("data.train[0].path") == ("data", "train", 0, "path")
