"""A file with steps: how each step's recipe is put together, and how the references between steps are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from chains import CHAIN, DATA
from minimal import MINIMAL
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.errors import EXIT_RECIPE, Finding, RecipeError
from dpo_recipes.jobs.chain_directory import plain_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file, validate_recipe
from dpo_recipes.jobs.chain_schema import job_json_schema
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.load import load_text
from dpo_recipes.recipe.schema import Recipe

Check = Callable[..., ValidatedChain]
BASE = f"model: {{path: owner/model}}, {DATA}"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def validated(text: str, *overrides: str) -> ValidatedChain:
        path = tmp_path / "chain.yaml"
        path.write_text(text, encoding="utf-8")
        found = validate_file(path, overrides)
        assert isinstance(found, ValidatedChain)
        return found

    return validated


def _chain(**steps: str) -> str:
    return "schema: 1\nname: job\nsteps:\n" + "".join(f"  {name}: {{{step}}}\n" for name, step in steps.items())


def _recipe(chain: ValidatedChain, name: str) -> Recipe:
    return next(step.checked.settings for step in chain.steps if step.name == name)


def _findings(check: Check, text: str, *overrides: str) -> list[Finding]:
    with pytest.raises(RecipeError) as caught:
        check(text, *overrides)
    return [finding for finding in caught.value.findings if finding.severity == "error"]


def _finding(check: Check, text: str, *overrides: str) -> Finding:
    (finding,) = _findings(check, text, *overrides)
    return finding


def _place(finding: Finding) -> tuple[int, int]:
    assert finding.where is not None
    assert finding.where.file.endswith("chain.yaml")
    return finding.where.line, finding.where.column


# --- how a step is put together ------------------------------------------------------------------


def test_steps_are_recipes_in_the_order_of_need(check: Check) -> None:
    text = _chain(dpo=f"model: {{path: step:sft}}, {DATA}", sft=f"{BASE}, objective: {{kind: sft}}")
    sft, dpo = check(text).steps
    assert [sft.name, dpo.name] == ["sft", "dpo"]
    assert [sft.product.kind, dpo.product.kind] == ["model", "model"]
    assert [(need.at, need.step) for need in dpo.needs] == [(("model", "path"), sft)]
    assert sft.checked.settings.name == "job-sft"
    assert sft.checked.settings.objective.kind == "sft"


def test_a_step_begins_with_a_recipe_and_changes_it(check: Check, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL + "output_dir: elsewhere\n", encoding="utf-8")
    step = "recipe: base.yaml, training: {num_epochs: 2, seed: 3}, set: {training.seed: 5, model.adapter.r: 4}"
    recipe = _recipe(check(_chain(one=step)), "one")
    assert (recipe.training.learning_rate, recipe.training.num_epochs, recipe.training.seed) == (5e-6, 2, 5)
    assert recipe.model.adapter is not None
    assert recipe.model.adapter.r == 4
    assert (recipe.name, recipe.output_dir) == ("job-one", "runs")
    assert (recipe.tracking.project, recipe.tracking.group) == ("job", "job")


def test_set_on_the_command_line_comes_last(check: Check) -> None:
    step = f"{BASE}, set: {{training.seed: 5}}"
    chain = check(
        _chain(one=step, two=step), "steps.one.training.seed=7", "name=other", "steps.two.data.train[0].limit=3"
    )
    assert _recipe(chain, "one").training.seed == 7
    assert _recipe(chain, "two").training.seed == 5
    assert _recipe(chain, "two").data.train[0].limit == 3
    assert (chain.chain.name, _recipe(chain, "one").name) == ("other", "other-one")


def test_a_wrong_override_of_a_step_points_into_its_text(check: Check) -> None:
    finding = _finding(check, _chain(one=BASE), "steps.one.training.sed=7")
    assert finding.code == "R203"
    assert finding.where is not None
    assert (finding.where.file, finding.where.column) == ("--set", 1)
    assert finding.fix == "did you mean `seed`?"


def test_an_override_of_a_section_is_for_all_steps(check: Check) -> None:
    chain = check(_chain(one=BASE, two=BASE), "hardware.fit=true", "steps.two.training.seed=3", "training.seed=4")
    assert [_recipe(chain, name).hardware.fit for name in ("one", "two")] == [True, True]
    assert [_recipe(chain, name).training.seed for name in ("one", "two")] == [4, 4]
    finding = _finding(check, _chain(one=BASE, two=BASE), "trainning.seed=3")
    assert (finding.code, finding.what) == ("R203", "unknown key `trainning` at the top of the chain")


def test_an_override_below_a_field_is_for_steps_whose_field_has_values_below(check: Check) -> None:
    """`data` of an evaluation is a text, so that `data.limit` can only be for the step that trains."""
    text = _chain(one=BASE, judge="kind: evaluate, models: ['step:one']")
    chain = check(text, "data.limit=7", "generate.max_new_tokens=9", "models[1]=owner/other")
    one, judge = (step.checked.settings for step in chain.steps)
    assert one.data.limit == 7
    assert (judge.data, judge.generate.max_new_tokens, judge.models) == (None, 9, ["step:one", "owner/other"])


def test_marks_of_another_base_are_left_out(check: Check, tmp_path: Path) -> None:
    base = MINIMAL.replace("path: owner/model", "path: owner/model\n  revision: main")
    (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
    steps = {"one": BASE, "two": "recipe: base.yaml, set: {model.path: step:one}", "three": "recipe: base.yaml"}
    chain = check(_chain(**steps))
    assert _recipe(chain, "two").model.revision is None
    assert _recipe(chain, "three").model.revision == "main"


def test_a_chain_can_extend_another(check: Check, tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(CHAIN, encoding="utf-8")
    chain = check("extends: parent.yaml\nsteps: {dpo: {training: {seed: 9}}}\n")
    assert _recipe(chain, "dpo").training.seed == 9
    assert _recipe(chain, "dpo").training.learning_rate == 1e-5


def test_the_dumped_chain_is_the_same_chain(check: Check) -> None:
    chain = check(CHAIN)
    again = check(dump_plain(plain_chain(chain)))
    assert plain_chain(again) == plain_chain(chain)


# --- what is refused -----------------------------------------------------------------------------


def test_all_findings_of_all_steps_come_at_once(check: Check) -> None:
    text = _chain(
        one=f"{BASE}, trainning: {{}}", two=f"model: {{path: step:oen}}, {DATA}", three="model: {path: owner/model}"
    )
    findings = _findings(check, text)
    assert [(finding.code, _place(finding)[0]) for finding in findings] == [("R203", 4), ("R371", 5), ("R202", 6)]
    assert findings[0].what == "unknown key `trainning` at the top of the step"
    assert findings[0].why is not None
    assert findings[0].why.startswith("a step takes kind, recipe, set, once, summary, model")
    assert findings[1].fix == "did you mean `step:one`?"
    assert _place(findings[2]) == (6, 3)  # the name of the step


def test_an_error_in_the_recipe_of_a_step_points_into_that_file(check: Check, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL.replace("learning_rate", "lerning_rate"), encoding="utf-8")
    text = _chain(one="recipe: base.yaml", two="recipe: base.yaml")
    finding = _finding(check, text)  # once, although two steps begin with it
    assert finding.code == "R203"
    assert str(finding.where).endswith("base.yaml:12:3")
    assert str(finding.why).endswith("; in the steps `one` and `two`")
    finding = _finding(check, _chain(one="recipe: base.yaml", two=BASE))
    assert str(finding.why).endswith("; in step `one`")


def test_a_missing_recipe_is_named_at_its_reference(check: Check) -> None:
    finding = _finding(check, _chain(one="recipe: nowhere.yaml"))
    assert (finding.code, _place(finding)) == ("R111", (4, 17))


def test_steps_that_need_each_other(check: Check) -> None:
    text = _chain(
        a=f"model: {{path: step:c}}, {DATA}",
        b=f"model: {{path: step:a}}, {DATA}",
        c=f"model: {{path: step:b}}, {DATA}",
        d=f"model: {{path: step:c}}, {DATA}",
        e=f"model: {{path: step:e}}, {DATA}",
    )
    first, second = _findings(check, text)
    assert (first.code, first.what, first.why) == (
        "R372",
        "the steps a and b and c need each other",
        "a → c → b → a: none of them can be the first",
    )
    assert _place(first) == (4, 21)
    assert (second.code, second.what) == ("R372", "step `e` needs itself")


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (
            "model: {path: owner/model}, data: {train: [{path: step:sft}], eval: {fraction: 0.1}}",
            "step `sft` makes a model, which `data.train[0].path` cannot be",
        ),
        (f"model: {{path: step:reward}}, {DATA}", "step `reward` makes a reward model, which `model.path` cannot be"),
        (f"{BASE}, tracking: {{project: step:sft}}", "`tracking.project` cannot be what a step makes"),
        (
            f"model: {{path: owner/model, adapter: {{kind: lora, path: step:sft}}}}, {DATA}",
            "step `sft` saves a whole model, not an adapter",
        ),
    ],
)
def test_a_reference_to_a_step_that_makes_something_else(check: Check, step: str, what: str) -> None:
    text = _chain(sft=f"{BASE}, objective: {{kind: sft}}", reward=f"{BASE}, objective: {{kind: reward}}", last=step)
    finding = _finding(check, text)
    assert (finding.code, finding.what) == ("R373", what)
    assert _place(finding)[0] == 6


def test_a_reward_model_can_be_trained_further_as_one(check: Check) -> None:
    step = f"model: {{path: step:one}}, {DATA}, objective: {{kind: reward}}"
    assert len(check(_chain(one=f"{BASE}, objective: {{kind: reward}}", two=step)).steps) == 2


def test_a_reward_model_is_a_source_of_rewards(check: Check) -> None:
    step = f"{BASE}, objective: {{kind: rloo, rewards: [{{rule: length, max: 9}}, {{model: step:NAME}}]}}"
    steps = {"sft": f"{BASE}, objective: {{kind: sft}}", "reward": f"{BASE}, objective: {{kind: reward}}"}
    chain = check(_chain(**steps, rl=step.replace("NAME", "reward")))
    assert [(need.at, need.step.name) for need in chain.steps[2].needs] == [
        (("objective", "rewards", 1, "model"), "reward")
    ]
    finding = _finding(check, _chain(**steps, rl=step.replace("NAME", "sft")))
    assert finding.what == "step `sft` makes a model, which `objective.rewards[1].model` cannot be"
    assert finding.fix == "refer to a step that makes a reward model"


ADAPTER = f"model: {{path: owner/model, adapter: {{kind: lora}}}}, {DATA}"


def test_an_adapter_is_not_the_base_of_the_next_step(check: Check) -> None:
    finding = _finding(check, _chain(one=ADAPTER, two=f"model: {{path: step:one}}, {DATA}"))
    assert (finding.code, _place(finding)) == ("R374", (5, 23))
    assert finding.fix is not None
    assert "`model.adapter.save_as: merged` in step `one`" in finding.fix
    assert "`model.path: owner/model` and `model.adapter: {kind: lora, path: step:one}`" in finding.fix
    merged = ADAPTER.replace("kind: lora", "kind: lora, save_as: merged")
    check(_chain(one=merged, two=f"model: {{path: step:one}}, {DATA}"))


def test_an_adapter_is_continued_on_its_own_base(check: Check) -> None:
    step = f"model: {{path: BASE, adapter: {{kind: lora, path: step:one}}}}, {DATA}"
    check(_chain(one=ADAPTER, two=step.replace("BASE", "owner/model")))
    finding = _finding(check, _chain(one=ADAPTER, two=step.replace("BASE", "owner/other")))
    assert (finding.code, finding.fix) == ("R374", "write `model.path: owner/model` in this step")


def test_another_template_than_that_of_the_step_before_is_a_warning(check: Check) -> None:
    one = f"{BASE}, chat_template: chatml"
    two = f"model: {{path: step:one}}, {DATA}"
    assert check(_chain(one=one, two=two)).warnings == ()  # the saved tokenizer brings chatml
    assert check(_chain(one=one, two=f"{two}, chat_template: chatml")).warnings == ()
    three = f"model: {{path: step:two}}, {DATA}, chat_template: zephyr"
    (warning,) = check(_chain(one=one, two=two, three=three)).warnings
    assert (warning.code, warning.what) == (
        "R399",
        "step `three` renders messages with `zephyr`, and step `two` with `chatml`",
    )


def test_an_adapter_brings_no_template(check: Check) -> None:
    one = f"{ADAPTER}, chat_template: chatml"
    two = f"model: {{path: owner/model, adapter: {{kind: lora, path: step:one}}}}, {DATA}"
    (warning,) = check(_chain(one=one, two=two)).warnings
    assert (warning.code, warning.fix) == ("R399", "write `chat_template: chatml` here")
    assert check(_chain(one=one, two=f"{two}, chat_template: chatml")).warnings == ()


@pytest.mark.parametrize(
    "extra", ["sweep: {seeds: 2}", "name: mine", "output_dir: mine", "schema: 1", "set: {extends: base.yaml}"]
)
def test_keys_that_only_a_whole_file_has(check: Check, extra: str) -> None:
    finding = _finding(check, _chain(one=f"{BASE}, {extra}"))
    assert finding.code == ("R113" if "extends" in extra else "R375")
    assert _place(finding)[0] == 4


def test_a_step_is_neither_a_sweep_nor_a_chain_of_another_file(check: Check, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(MINIMAL + "sweep: {seeds: 2}\n", encoding="utf-8")
    (tmp_path / "inner.yaml").write_text(CHAIN, encoding="utf-8")
    assert _finding(check, _chain(one="recipe: sweep.yaml")).code == "R375"
    assert _finding(check, _chain(one="recipe: inner.yaml")).what == "a step cannot be a chain"


def test_an_unknown_kind_of_step(check: Check) -> None:
    finding = _finding(check, _chain(one=f"{BASE}, kind: trian"))
    assert (finding.code, finding.fix) == ("R204", "did you mean `train`?")


@pytest.mark.parametrize(
    ("section", "code", "what"),
    [
        ("kind: evaluate, models: ['step:one'], data: ./missing.jsonl", "R304", "missing.jsonl does not exist"),
        ("kind: sample, models: ['step:one'], data: ./missing.csv", "R304", "missing.csv does not exist"),
        ("kind: evaluate, models: ['step:one'], data: missing.yaml", "R101", "missing.yaml"),
        (
            "kind: sample, data: owner/pairs, models: ['step:one', ./runs/missing]",
            "R301",
            "runs/missing does not exist",
        ),
        ("kind: evaluate, models: ['step:one'], against: ./missing.gguf", "R301", "missing.gguf does not exist"),
    ],
)
def test_what_an_answering_step_reads_exists(check: Check, section: str, code: str, what: str) -> None:
    finding = _finding(check, _chain(one=BASE, judge=f"{section}, rewards: [{{rule: length, max: 3}}]"))
    assert finding.code == code
    assert what in finding.what


def test_several_nodes_that_no_launcher_starts(check: Check) -> None:
    assert _finding(check, _chain(one=f"{BASE}, launch: {{num_nodes: 2, num_processes: 2}}")).code == "R368"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("schema: 1\nname: job\nsteps: {}\n", "R207"),
        ("schema: 1\nname: job\nsteps: [1]\n", "R205"),
        ("schema: 1\nname: job\nsteps: {one: null}\n", "R205"),
        ("schema: 1\nname: job\nsteps: {'a b': {}}\n", "R207"),
        (_chain(one=BASE) + "parallel: 0\n", "R205"),
        (_chain(one=BASE) + "stepz: {}\n", "R203"),
        (_chain(one=BASE) + "model: {path: a}\n", "R203"),
        (_chain(one=BASE).replace("name: job\n", ""), "R202"),
        (_chain(one=BASE).replace("schema: 1", "schema: 2"), "R201"),
    ],
)
def test_the_file_itself(check: Check, text: str, code: str) -> None:
    assert _finding(check, text).code == code


def test_a_recipe_that_is_no_step_refers_to_none(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("owner/pairs", "step:samples"), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        validate_file(path)
    (finding,) = caught.value.findings
    assert (finding.code, finding.where and (finding.where.line, finding.where.column)) == ("R376", (8, 13))


def test_commands_for_one_recipe_refuse_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN, encoding="utf-8")
    with pytest.raises(RecipeError, match="U408"):
        validate_recipe(path, None, "launch")


# --- what is shown -------------------------------------------------------------------------------


def test_show_draws_the_graph_and_prints_the_values(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN, encoding="utf-8")
    text = CliRunner().invoke(app, ["show", str(path)]).stdout
    assert text.startswith(
        "chain job: 2 steps\n"
        "  sft  train: SFT            makes a model\n"
        "  dpo  train: DPO (sigmoid)  makes a model\n"
        "       └─ model.path ← sft\n"
        "\nstep sft\n"
    )
    assert f"# {path}:11:16" in next(
        line for line in text.splitlines() if "training.learning_rate" in line and "1e-05" in line
    )
    plain = json.loads(CliRunner().invoke(app, ["show", str(path), "--json"]).stdout)
    assert [step["needs"] for step in plain["steps"]] == [{}, {"model.path": "sft"}]
    assert plain["steps"][1]["settings"]["training"]["learning_rate"] == 1e-5


def test_validate_reports_chains_like_recipes(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN, encoding="utf-8")
    report = json.loads(CliRunner().invoke(app, ["validate", str(path), "--json"]).stdout)
    assert report == [{"file": str(path), "valid": True, "name": "job", "findings": []}]
    path.write_text(CHAIN.replace("step:sft", "step:stf"), encoding="utf-8")
    ended = CliRunner().invoke(app, ["validate", str(path)])
    assert ended.exit_code == EXIT_RECIPE
    assert "did you mean `step:sft`?" in ended.output


def test_the_editor_schema_knows_steps() -> None:
    schema = job_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = load_text(CHAIN, "chain.yaml").data
    jsonschema.validate(data, schema)
    data["steps"]["dpo"]["trainning"] = {}
    with pytest.raises(jsonschema.ValidationError, match="trainning"):
        jsonschema.validate(data, schema)
