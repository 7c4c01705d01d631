"""Configurations of other tools become recipes with the same numbers, and each of their keys is accounted for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign_files import FILES

from dpo_recipes import registry
from dpo_recipes.errors import SharingError
from dpo_recipes.recipe.validate import validate
from dpo_recipes.share.foreign.importer import Imported, import_file, make_draft

REAL = Path("/work/shared/data/foreign")
REAL_FILES = sorted(path for path in REAL.glob("*/*") if path.is_file())
VALUES = ("true", "1", "0.5", "steps", "bfloat16", "{name: lora}", "[{path: a/b}]")
"""Values of which each key takes at least one."""
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz01234567"
MINIMAL = {
    "axolotl": "base_model: gpt2\nrl: dpo\nlearning_rate: 1e-6\ndatasets:\n  - {path: org/pairs}\n",
    "trl": "model_name_or_path: gpt2\ndataset_name: org/pairs\nbeta: 0.1\n",
    "handbook": "model_name_or_path: gpt2\nbeta: 0.1\ndataset_mixer: {org/pairs: 1.0}\n",
    "llama-factory": "model_name_or_path: gpt2\nstage: dpo\ndataset: ultrafeedback\n",
    "llama-factory-v1": "model: gpt2\ntrain_dataset: org/dpo\npeft_config: {name: lora}\n",
    "ms-swift": "model: gpt2\nrlhf_type: dpo\ndataset: [org/pairs]\n",
    "oumi": "model: {model_name: gpt2}\ndata: {train: {datasets: [{dataset_name: org/pairs}]}}\n"
    "training: {trainer_type: TRL_DPO}\n",
}


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imported]:
    """Imports a text, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(text: str, name: str = "dpo.yaml", **options: Any) -> Imported:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return import_file(path, **options)

    return make


def fails(imports: Callable[..., Imported], code: str, text: str, name: str = "dpo.yaml", **options: Any) -> str:
    """The message of an import that must fail with this code."""
    with pytest.raises(SharingError) as raised:
        imports(text, name, **options)
    assert raised.value.findings[0].code == code, str(raised.value)
    assert raised.value.exit_code == 7
    return str(raised.value)


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_has_the_numbers_of_the_tool(imports: Callable[..., Imported], name: str, tmp_path: Path) -> None:
    tool, text, fields = FILES[name]
    (tmp_path / "local.jsonl").write_text('{"messages": [], "rejected_response": "x"}\n', encoding="utf-8")
    imported = imports(text, name)
    assert imported.tool.name == tool
    assert {to: imported.draft.value(to, "absent") for to in fields} == fields
    to = tmp_path / "out.yaml"
    to.write_text(imported.text, encoding="utf-8")
    validate(to)
    assert TOKEN not in imported.text


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_accounted_for(imports: Callable[..., Imported], name: str) -> None:
    imported = imports(FILES[name][1], name)
    plain = imported.to_json()
    assert plain["mapped"] + plain["derived"] + plain["listed"] == plain["keys"] == len(plain["entries"]) > 0
    assert not [entry for entry in plain["entries"] if "not known as a key" in entry["note"]]
    assert all(entry["to"] for entry in plain["entries"] if entry["outcome"] == "mapped")
    assert all(entry["note"] and entry["line"] for entry in plain["entries"] if entry["outcome"] == "listed")
    assert TOKEN not in json.dumps(plain)


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_configurations_are_imported_with_every_key_known(path: Path, tmp_path: Path) -> None:
    imported = import_file(path, to=tmp_path / "out.yaml")
    assert imported.is_valid, [finding.render() for finding in imported.findings]
    plain = imported.to_json()
    assert plain["mapped"] + plain["derived"] + plain["listed"] == plain["keys"]
    assert not [entry for entry in plain["entries"] if "not known as a key" in entry["note"]]


def test_the_keys_of_a_file_are_those_that_have_values(imports: Callable[..., Imported]) -> None:
    """datasets[0].path, datasets[0].type and trl.beta are keys; datasets and trl are not."""
    text = "base_model: gpt2\nrl: dpo\nlearning_rate: 1\ndatasets:\n  - {path: a/b, type: chatml.intel}\n"
    keys = imports(text + "trl: {beta: 0.2}\n").config.keys
    assert {".".join(map(str, path)) for path in keys} == {
        "base_model", "rl", "learning_rate", "datasets.0.path", "datasets.0.type", "trl.beta",
    }  # fmt: skip


@pytest.mark.parametrize("tool", MINIMAL)
def test_all_keys_that_a_table_names_are_known(
    imports: Callable[..., Imported], tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key of the tables has a value with which the importer uses it."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    importer = registry.load("foreign_tools", tool)
    names = {name for key in (*importer.mapped, *importer.derived) for name in key.split(", ")}
    used = imports(MINIMAL[tool], tool=tool).config.data
    flat = sorted(name for name in names if re.fullmatch(r"[a-z]\w+", name) and name not in used)
    assert len(flat) > 10 or tool == "oumi"
    path = tmp_path / "dpo.yaml"

    def is_known(name: str, value: str) -> bool:
        path.write_text(f"{MINIMAL[tool]}{name}: {value}\n", encoding="utf-8")
        try:
            draft, _ = make_draft(path, tool=tool, kind="", to=tmp_path / "recipe.yaml")
        except SharingError:
            return False
        return not any("not known as" in outcome.note for at, outcome in draft.outcomes.items() if at[0] == name)

    assert [name for name in flat if not any(is_known(name, value) for value in VALUES)] == []


@pytest.mark.parametrize("tool", MINIMAL)
def test_the_tool_is_found_by_its_keys(imports: Callable[..., Imported], tool: str) -> None:
    assert imports(MINIMAL[tool]).tool.name == tool


def test_defaults_are_those_of_the_tool_and_say_so(imports: Callable[..., Imported]) -> None:
    rates = {tool: imports(text).draft.value("training.learning_rate") for tool, text in MINIMAL.items()}
    assert rates == {
        "axolotl": 1e-6, "trl": 1e-6, "handbook": 1e-6, "llama-factory": 5e-5, "llama-factory-v1": 1e-4,
        "ms-swift": 1e-4, "oumi": 5e-5,
    }  # fmt: skip
    imported = imports(MINIMAL["ms-swift"])
    assert "gradient_accumulation_steps: 16  # default of ms-swift 4.6" in imported.text
    assert imported.defaults["training.weight_decay"] == 0.1
    assert imported.draft.value("training.learning_rate") == 1e-4
    full = imports(MINIMAL["ms-swift"] + "tuner_type: full\n")
    assert full.draft.value("training.learning_rate") == 1e-5


def test_comments_stay_beside_their_values(imports: Callable[..., Imported]) -> None:
    text = FILES["axolotl_dpo.yml"][1]
    assert "micro_batch_size: 2  # fits 24 GB" in imports(text).text


def test_secrets_are_not_copied_and_not_shown(imports: Callable[..., Imported]) -> None:
    text = (
        MINIMAL["axolotl"] + f"hub_token: {TOKEN}\nwandb_project: {TOKEN}\nwandb_name: x  # {TOKEN}\nmode_x: {TOKEN}\n"
    )
    imported = imports(text)
    shown = imported.text + json.dumps(imported.to_json())
    assert TOKEN not in shown
    assert "a secret is not copied" in json.dumps(imported.to_json())
    message = fails(imports, "S503", text + f"hub_token: {TOKEN}\n")
    assert TOKEN not in message
    message = fails(imports, "S504", f"{MINIMAL['axolotl']}micro_batch_size: many  # {TOKEN}\n")
    assert TOKEN not in message
    script = f"swift rlhf --model gpt2 --dataset a/b --hub_token {TOKEN} --per_device_train_batch_size x\n"
    assert TOKEN not in fails(imports, "S504", script, "x.sh")


def test_unknown_keys_get_a_hint(imports: Callable[..., Imported]) -> None:
    entry = imports(MINIMAL["axolotl"] + "lora_alphas: 3\n").to_json()["entries"][-1]
    assert entry["differs"]
    assert "did you mean `lora_alpha`?" in entry["note"]


def test_keys_twice_are_refused_with_both_lines(imports: Callable[..., Imported]) -> None:
    message = fails(imports, "S503", MINIMAL["trl"] + "beta: 0.2\n")
    assert "first set on line 3" in message
    assert "dpo.yaml:4:1" in message
    message = fails(imports, "S503", "swift rlhf --model gpt2 --beta 1 \\\n  --beta 2 --dataset a/b\n", "x.sh")
    assert "x.sh:2:3" in message


@pytest.mark.parametrize(
    ("code", "text", "name"),
    [
        ("S502", "- a\n- b\n", "x.yaml"),
        ("S502", "", "x.yaml"),
        ("S502", "just text", "x.yaml"),
        ("S502", "a: !!python/object:os.system x", "x.yaml"),
        ("S502", "a: [", "x.yaml"),
        ("S502", '{"a": 1', "x.json"),
        ("S502", "a: &x [*x]", "x.yaml"),
        ("S502", "swift rlhf --model 'gpt2\n", "x.sh"),
        ("S506", "echo hello\n", "x.sh"),
        ("S506", "foo: 1\n", "x.yaml"),
        ("S506", "schema: 1\nmodel: {path: gpt2}\n", "x.yaml"),
        ("S501", "trl dpo --config missing.yaml\n", "x.sh"),
    ],
)
def test_files_that_are_no_configurations(imports: Callable[..., Imported], code: str, text: str, name: str) -> None:
    fails(imports, code, text, name)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, Path("x\0y")):
        with pytest.raises(SharingError, match="S501"):
            import_file(path)
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SharingError, match="0xff"):
        import_file(tmp_path / "x.yaml")
    (tmp_path / "big.yaml").write_text("#" * 1_000_001, encoding="utf-8")
    with pytest.raises(SharingError, match="1 MB"):
        import_file(tmp_path / "big.yaml")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (MINIMAL["axolotl"].replace("rl: dpo", "rl: grpo"), "docs/rl.md"),
        (MINIMAL["axolotl"].replace("rl: dpo", "rl: ebft"), "ebft"),
        (MINIMAL["axolotl"] + "process_reward_model: true\n", "process reward model"),
        (
            MINIMAL["axolotl"].replace("rl: dpo\n", "").replace("{path: org/pairs}", "{path: a/b, type: completion}"),
            "text",
        ),
        (MINIMAL["llama-factory"].replace("stage: dpo", "stage: ppo"), "docs/rl.md"),
        (MINIMAL["llama-factory"].replace("stage: dpo", "stage: pt"), "plain text"),
        (MINIMAL["ms-swift"].replace("dpo", "gkd"), "gkd"),
        (MINIMAL["oumi"].replace("TRL_DPO", "VERL_GRPO"), "rewards"),
    ],
)
def test_other_jobs_are_refused_by_name(imports: Callable[..., Imported], text: str, word: str) -> None:
    assert word in fails(imports, "S507", text, "x.yaml")


def test_a_job_that_the_file_does_not_name(imports: Callable[..., Imported]) -> None:
    text = "model_name_or_path: gpt2\ndataset_name: org/pairs\n"
    assert "--objective" in fails(imports, "S507", text, "x.yaml")
    assert imports(text, "x.yaml", kind="orpo").draft.value("objective.kind") == "orpo"
    assert imports(text, "config_kto.yaml").draft.value("objective.kind") == "kto"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (MINIMAL["axolotl"].replace("learning_rate: 1e-6\n", ""), "learning_rate"),
        (MINIMAL["trl"].replace("dataset_name: org/pairs\n", ""), "training data"),
        (MINIMAL["oumi"].replace("gpt2", "'${oc.env:MODEL}'"), "oc.env:MODEL"),
        (MINIMAL["oumi"].replace("model_name: gpt2", "torch_dtype_str: bfloat16"), "base model"),
    ],
)
def test_what_a_recipe_needs_must_be_there(imports: Callable[..., Imported], text: str, word: str) -> None:
    assert word in fails(imports, "S505", text)


@pytest.mark.parametrize(
    "line", ["learning_rate: fast", "learning_rate: 3", "per_device_train_batch_size: 0", "num_train_epochs: -1",
             "seed: 1.5", "bf16: maybe", "lora_r: [1, 2]\nuse_peft: true"],
)  # fmt: skip
def test_values_that_are_not_possible(imports: Callable[..., Imported], line: str) -> None:
    message = fails(imports, "S504", f"{MINIMAL['trl']}{line}\n")
    assert "dpo.yaml:4:1" in message


def test_values_as_yaml_1_1_and_command_lines_write_them(imports: Callable[..., Imported]) -> None:
    text = MINIMAL["trl"] + "learning_rate: 5e-6\ngradient_checkpointing: 'no'\nmax_steps: '1_000'\nwarmup_steps: 1.0\n"
    draft = imports(text).draft
    assert draft.value("training.learning_rate") == 5e-6
    assert draft.value("training.gradient_checkpointing") is False
    assert draft.value("training.max_steps") == 1000
    assert draft.value("training.warmup_steps") == 1


def test_anchors_and_merge_keys_are_resolved(imports: Callable[..., Imported]) -> None:
    text = (
        "base_model: gpt2\nrl: dpo\nlearning_rate: 1e-6\ncommon: &c {type: chatml.intel, split: train}\n"
        "datasets:\n  - {<<: *c, path: a/b}\n  - {<<: *c, path: c/d, split: test}\n"
    )
    draft = imports(text).draft
    assert draft.value("data.train[0].format") == draft.value("data.train[1].format") == "chatml.intel"
    assert draft.value("data.train[1].split") == "test"


def test_references_to_other_keys_and_to_the_environment(imports: Callable[..., Imported]) -> None:
    text = MINIMAL["oumi"].replace(
        "trainer_type: TRL_DPO",
        "trainer_type: TRL_DPO, seed: '${seed}', "
        "output_dir: 'out/${model.model_name}', run_name: '${oc.env:RUN}', logging_steps: '${oc.env:N,7}'",
    )
    imported = imports(text + "seed: 5\n")
    draft = imported.draft
    assert draft.value("output_dir") == "out/gpt2"
    assert draft.value("training.seed") == 5
    assert draft.value("training.logging_steps") == 7
    assert not draft.has("tracking.run_name")
    entry = next(entry for entry in imported.to_json()["entries"] if entry["key"] == "training.run_name")
    assert "oc.env:RUN" in entry["note"]


def test_json_files_and_scripts_with_a_configuration(imports: Callable[..., Imported], tmp_path: Path) -> None:
    plain = {"model_name_or_path": "gpt2", "dataset_name": "org/pairs", "beta": 0.3, "output_dir": "x"}
    assert imports(json.dumps(plain), "dpo.json").draft.value("objective.beta") == 0.3
    script = "accelerate launch --num_processes 4 -m trl dpo --config dpo.json --beta=0.5\n"
    draft = imports(script, "run.sh").draft
    assert draft.value("objective.beta") == 0.5
    assert draft.value("launch.num_processes") == 4
    assert draft.value("output_dir") == "x"


def test_command_lines(imports: Callable[..., Imported]) -> None:
    script = (
        "#!/bin/bash\nexport MODEL=gpt2; N=2 # comment\n"
        'if [ -z "$N" ]; then echo no; fi\n'
        'swift rlhf --rlhf_type dpo --model "$MODEL" --dataset \'a/b#10\' "c/d" \\\n'
        "   --target_modules q_proj v_proj --gradient_accumulation_steps $((16 / N)) --seed=7 && echo done\n"
    )
    draft = imports(script, "x.sh").draft
    assert draft.value("model.path") == "gpt2"
    assert [draft.value(f"data.train[{n}].path") for n in (0, 1)] == ["a/b", "c/d"]
    assert draft.value("data.train[0].limit") == 10
    assert draft.value("model.adapter.target_modules") == ["q_proj", "v_proj"]
    assert draft.value("training.gradient_accumulation_steps") == 8
    assert draft.value("training.seed") == 7


def test_a_dataset_info_beside_the_file_is_read(imports: Callable[..., Imported], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text("{}\n", encoding="utf-8")
    info = {"mine": {"file_name": "mine.jsonl", "ranking": True, "formatting": "sharegpt",
                     "columns": {"messages": "talk", "chosen": "good", "rejected": "bad"}}}  # fmt: skip
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    draft = imports(MINIMAL["llama-factory"].replace("ultrafeedback", "mine")).draft
    assert draft.value("data.train[0].path") == "data/mine.jsonl"
    assert draft.value("data.train[0].format") == "sharegpt"
    assert draft.value("data.train[0].columns") == {"conversations": "talk", "chosen": "good", "rejected": "bad"}
    imported = imports(MINIMAL["llama-factory"].replace("ultrafeedback", "other"))
    assert any("`other`" in remark for remark in imported.draft.remarks)
    (tmp_path / "data" / "dataset_info.json").write_text("{", encoding="utf-8")
    assert any("cannot be read" in remark for remark in imports(MINIMAL["llama-factory"]).draft.remarks)


def test_what_cannot_be_combined_is_left_out_and_listed(imports: Callable[..., Imported]) -> None:
    """A base in 4 bits cannot be trained without an adapter."""
    imported = imports(MINIMAL["trl"] + "load_in_4bit: true\n")
    assert imported.is_valid
    assert not imported.draft.has("model.quantization.bits")
    entry = next(entry for entry in imported.to_json()["entries"] if entry["key"] == "load_in_4bit")
    assert entry["outcome"] == "listed"
    assert entry["differs"]
    assert "load_in_4bit" in imported.text  # named in the comment at its start


def test_paths_are_relative_to_the_recipe(imports: Callable[..., Imported], tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "recipes").mkdir()
    text = MINIMAL["trl"].replace("org/pairs", "pairs.jsonl")
    imported = imports(text, to=tmp_path / "recipes" / "mine.yaml")
    assert imported.draft.value("data.train[0].path") == "../pairs.jsonl"
    assert imported.draft.value("name") == "mine"


def test_an_unknown_tool_and_a_near_name(imports: Callable[..., Imported]) -> None:
    assert "did you mean `--from axolotl`?" in fails(imports, "S506", MINIMAL["trl"], tool="axolotel")
