"""Chains with `rounds`: which steps they have, what references mean in each round, what is refused and done again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from chains import DATA, FakeSteps, write_model

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.jobs.chain_directory import plain_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.chain_schema import job_json_schema
from dpo_recipes.jobs.steps.base import Step
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.load import load_text
from dpo_recipes.recipe.schema.sample import Sample

Check = Callable[..., ValidatedChain]
ROUNDS = f"""\
schema: 1
name: job
rounds: 3
start: {{dpo: owner/model}}
steps:
  reward:
    once: true
    model: {{path: owner/model, adapter: {{kind: lora}}}}
    {DATA}
    objective: {{kind: reward}}
    evaluation: {{num_samples: 0}}
  sample:
    kind: sample
    models: [previous:dpo]
    data: owner/prompts
    limit: 64
    rewards: [{{model: step:reward}}]
  dpo:
    model: {{path: previous:dpo, adapter: {{kind: lora, save_as: merged}}}}
    data: {{train: [{{path: step:sample}}], eval: {{fraction: 0.1}}}}
  compare:
    once: true
    kind: evaluate
    models: [step:dpo-1, step:dpo]
"""
CONTINUED = f"""\
schema: 1
name: job
rounds: 3
start: {{dpo: owner/model}}
steps:
  dpo:
    model: {{path: previous:dpo}}
    {DATA}
"""
"""Rounds of training alone, for tests that execute them."""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def validated(text: str, *overrides: str) -> ValidatedChain:
        path = tmp_path / "chain.yaml"
        path.write_text(text, encoding="utf-8")
        found = validate_file(path, overrides)
        assert isinstance(found, ValidatedChain)
        return found

    return validated


def _step(chain: ValidatedChain, name: str) -> Step:
    return next(step for step in chain.steps if step.name == name)


def _needs(step: Step) -> list[str]:
    return [need.step.name for need in step.needs]


def _finding(check: Check, text: str, *overrides: str) -> Finding:
    """The only error."""
    with pytest.raises(RecipeError) as caught:
        check(text, *overrides)
    (finding,) = [finding for finding in caught.value.findings if finding.severity == "error"]
    return finding


def _text_at(finding: Finding) -> str:
    """The text in the file that a finding points at."""
    assert finding.where is not None
    assert finding.where.text is not None
    start = finding.where.column - 1
    return finding.where.text[start : start + finding.where.length]


# --- the steps of a chain with rounds --------------------------------------------------------------


def test_each_round_uses_what_the_one_before_made(check: Check) -> None:
    chain = check(ROUNDS)
    assert [step.name for step in chain.steps] == [
        "reward", "sample-1", "dpo-1", "sample-2", "dpo-2", "sample-3", "dpo-3", "compare",
    ]  # fmt: skip
    assert _step(chain, "sample-1").checked.settings.models == ["owner/model"]
    assert _step(chain, "dpo-1").checked.settings.model.path == "owner/model"
    assert _needs(_step(chain, "sample-1")) == ["reward"]
    assert _needs(_step(chain, "dpo-1")) == ["sample-1"]
    assert _needs(_step(chain, "sample-3")) == ["dpo-2", "reward"]
    assert _needs(_step(chain, "dpo-3")) == ["dpo-2", "sample-3"]
    assert _needs(_step(chain, "compare")) == ["dpo-1", "dpo-3"]
    assert _step(chain, "dpo-2").checked.settings.name == "job-dpo-2"
    assert chain.warnings == ()


def test_a_round_begins_with_what_a_step_before_the_rounds_made(check: Check) -> None:
    text = ROUNDS.replace("owner/model}\nsteps", "step:sft}\nsteps").replace(
        "steps:\n", f"steps:\n  sft: {{once: true, model: {{path: owner/model}}, {DATA}, objective: {{kind: sft}}}}\n"
    )
    chain = check(text)
    assert _needs(_step(chain, "sample-1")) == ["sft", "reward"]
    assert _needs(_step(chain, "dpo-1")) == ["sft", "sample-1"]


def test_the_start_is_relative_to_the_file_and_named_there(check: Check, tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    chain = check(ROUNDS.replace("{dpo: owner/model}", "{dpo: ./base}"))
    assert _step(chain, "sample-1").checked.settings.models == [str(tmp_path / "base")]
    assert _step(chain, "dpo-1").checked.settings.model.path == str(tmp_path / "base")
    finding = _finding(check, CONTINUED.replace("{dpo: owner/model}", "{dpo: ./no_model}"))
    assert (finding.code, _text_at(finding)) == ("R301", "./no_model")


def test_checksum_and_revision_of_a_recipe_stay_with_the_base_that_they_are_for(check: Check, tmp_path: Path) -> None:
    base = f"schema: 1\nname: base\nmodel: {{path: owner/model, revision: main}}\n{DATA}\n"
    (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
    text = "schema: 1\nname: job\nrounds: 2\nstart: {dpo: owner/model}\nsteps:\n"
    text += "  dpo: {recipe: base.yaml, set: {model.path: previous:dpo}}\n"
    revisions = [step.checked.settings.model.revision for step in check(text).steps]
    assert revisions == ["main", None]
    revisions = [step.checked.settings.model.revision for step in check(text, "start.dpo=owner/other").steps]
    assert revisions == [None, None]


def test_values_differ_by_round_where_they_are_written_for_it(check: Check) -> None:
    text = CONTINUED.replace("steps:", "steps:\n  dpo-2: {training: {learning_rate: 2e-5}, set: {training.seed: 5}}")
    text += "    set: {training.learning_rate: 1e-5}\n"
    chain = check(
        text, "steps.dpo.training.num_epochs=2", "steps.dpo-3.data.train[0].limit=7", "training.max_grad_norm=9"
    )
    one, two, three = (_step(chain, f"dpo-{number}").checked.settings for number in (1, 2, 3))
    # What is written for a round comes after the `set` of all rounds.
    assert [each.training.learning_rate for each in (one, two, three)] == [1e-5, 2e-5, 1e-5]
    assert [each.training.seed for each in (one, two, three)] == [42, 5, 42]
    assert [each.training.num_epochs for each in (one, two, three)] == [2, 2, 2]
    assert [each.training.max_grad_norm for each in (one, two, three)] == [9, 9, 9]
    assert [each.data.train[0].limit for each in (one, two, three)] == [100, 100, 7]


def test_the_first_round_can_begin_without_an_adapter(check: Check) -> None:
    text = ROUNDS.replace("path: previous:dpo, adapter: {kind: lora, save_as: merged}", "path: owner/model, adapter: A")
    text = text.replace("adapter: A", "adapter: {kind: lora, path: previous:dpo}")
    text += "  dpo-1: {set: {model.adapter: {kind: lora, r: 8}}}\n"
    chain = check(text)
    assert _step(chain, "dpo-1").checked.settings.model.adapter.path is None
    assert _needs(_step(chain, "dpo-2")) == ["dpo-1", "sample-2"]
    assert _step(chain, "dpo-2").checked.settings.model.adapter.path == "step:dpo-1"


def test_each_round_has_its_own_random_numbers_and_its_own_prompts_if_asked(check: Check) -> None:
    chain = check(ROUNDS, "steps.sample.generate.seed=5", "steps.sample.prompts=next")
    samples: list[Sample] = [_step(chain, f"sample-{number}").checked.settings for number in (1, 2, 3)]
    assert [each.round for each in samples] == [1, 2, 3]
    assert len({each.generation.seed for each in samples}) == 3
    assert samples[0].generation.seed == 5
    rows = list(range(200))
    assert [(rows[each.rows][0], rows[each.rows][-1]) for each in samples] == [(0, 63), (64, 127), (128, 191)]
    assert [rows[each.model_copy(update={"prompts": "same"}).rows] for each in samples] == [rows[:64]] * 3


def test_without_rounds_names_are_as_they_were(check: Check) -> None:
    text = f"schema: 1\nname: job\nsteps:\n  one: {{model: {{path: owner/model}}, {DATA}}}\n"
    text += f"  one-2: {{model: {{path: step:one}}, {DATA}}}\n"
    assert [step.name for step in check(text).steps] == ["one", "one-2"]


def test_the_dumped_chain_has_the_steps_of_all_rounds_and_is_the_same(check: Check) -> None:
    chain = check(ROUNDS)
    plain = plain_chain(chain)
    assert "rounds" not in plain
    assert plain_chain(check(dump_plain(plain))) == plain


def test_the_editor_knows_rounds() -> None:
    schema = job_json_schema()
    text = ROUNDS + "  dpo-2: {training: {learning_rate: 2e-5}}\n  sample-2: {limit: 5}\n"
    jsonschema.validate(load_text(text, "chain.yaml").data, schema)
    for wrong in ("  dpo-2: {trainning: {}}\n", "  sample-2: {limit: 0}\n", "  sample-x: {limit: 5}\n"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(load_text(ROUNDS + wrong, "chain.yaml").data, schema)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "code", "text", "what"),
    [
        ("rounds: 3", "rounds: 0", "R206", "0", "`rounds` is 0, but must be at least 1"),
        ("rounds: 3", "rounds: 101", "R206", "101", "`rounds` is 101, but must be at most 100"),
        ("rounds: 3", "rounds: many", "R205", "many", "`rounds` must be a whole number, not the text `many`"),
        ("{dpo: owner/model}", "{dpo: 5}", "R205", "5", "`start.dpo` must be text, not `5`"),
        ("{dpo: owner/model}", "{dop: a/b, dpo: c/d}", "R371", "dop", "there is no step `dop`"),
        ("{dpo: owner/model}", "{reward: a/b, dpo: c/d}", "R379", "reward", "`start.reward` has no meaning"),
        ("{dpo: owner/model}", "{dpo: step:sfft}", "R371", "step:sfft", "there is no step `sfft`"),
        (
            "{dpo: owner/model}", "{dpo: step:reward}", "R373", "step:reward",
            "step `reward` makes a reward model, which `models[0]` cannot be",
        ),
        (
            "models: [previous:dpo]", "models: [pypi:a==1/a.gguf]", "R303", "pypi:a==1/a.gguf",
            "`models[0]` cannot be a model inside a wheel",
        ),
        ("models: [previous:dpo]", "models: [previous:dop]", "R371", "previous:dop", "there is no step `dop`"),
        ("models: [previous:dpo]", "models: [step:dop]", "R371", "step:dop", "there is no step `dop`"),
        ("models: [previous:dpo]", "models: [step:dpo-4]", "R371", "step:dpo-4", "there is no step `dpo-4`"),
        (
            "models: [previous:dpo]", "models: [previous:reward]", "R378", "previous:reward",
            "`previous:reward` means nothing here",
        ),
        (
            "models: [step:dpo-1, step:dpo]", "models: [previous:dpo]", "R378", "previous:dpo",
            "`previous:dpo` means nothing here",
        ),
        (
            "models: [previous:dpo]", "models: [step:dpo]", "R372", "step:dpo",
            "the steps dpo and sample need each other",
        ),
        ("model: step:reward", "model: previous:dpo", "R373", "previous:dpo",
         "step `dpo` makes a model, which `rewards[0].model` cannot be"),
        ("path: step:sample}", "path: previous:dpo}", "R373", "previous:dpo",
         "step `dpo` makes a model, which `data.train[0].path` cannot be"),
        (", save_as: merged", "", "R374", "previous:dpo", "step `dpo` saves an adapter, not a base model"),
        ("    limit: 64", "    prompts: next", "R379", "prompts", "`prompts: next` needs a `limit`"),
        ("  compare:", "  dpo-4: {}\n  compare:", "R379", "dpo-4", "step `dpo` has no round 4"),
        ("  compare:", "  dpo-2: {kind: train}\n  compare:", "R375", "kind",
         "a round of step `dpo` cannot have `kind`"),
        ("  compare:", "  dpo-2: {once: true}\n  compare:", "R375", "once",
         "a round of step `dpo` cannot have `once`"),
        ("  compare:", "  dpo-2: {trainning: {}}\n  compare:", "R203", "trainning",
         "unknown key `trainning` at the top of the step"),
        ("  dpo:\n", "  dpo:\n    trainning: {}\n", "R203", "trainning",
         "unknown key `trainning` at the top of the step"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once_and_where_it_stands(
    check: Check, old: str, new: str, code: str, text: str, what: str
) -> None:
    assert old in ROUNDS
    with pytest.raises(RecipeError) as caught:
        check(ROUNDS.replace(old, new, 1))
    first = caught.value.findings[0]
    assert (first.code, _text_at(first), first.what) == (code, text, what)
    errors = [finding for finding in caught.value.findings if finding.severity == "error"]
    # What stands in `start` is used in two places.
    assert len(errors) == (2 if text == "step:reward" else 1)


def test_a_cycle_within_a_round_names_the_way_out(check: Check) -> None:
    finding = _finding(check, ROUNDS.replace("models: [previous:dpo]", "models: [step:dpo]"))
    assert finding.why == "sample → dpo → sample: none of them can be the first"
    assert finding.fix == "write `previous:dpo` where it should be what the round before made, or give a path"
    finding = _finding(check, ROUNDS.replace("{dpo: owner/model}", "{dpo: step:dpo}"))
    assert (finding.code, _text_at(finding)) == ("R378", "step:dpo")


def test_what_the_first_round_begins_with_must_be_said(check: Check) -> None:
    with pytest.raises(RecipeError) as caught:
        check(ROUNDS.replace("start: {dpo: owner/model}\n", ""))
    assert [(finding.code, _text_at(finding)) for finding in caught.value.findings] == [("R378", "previous:dpo")] * 2
    fix = "write `start: {dpo: PATH}` at the top of the file, or another `models[0]` in step `sample-1`"
    assert caught.value.findings[0].fix == fix
    assert len(check(ROUNDS.replace("start: {dpo: owner/model}\n", ""), "start.dpo=owner/model").steps) == 8


def test_the_round_before_has_no_meaning_without_rounds(check: Check, tmp_path: Path) -> None:
    text = CONTINUED.replace("rounds: 3\n", "")
    with pytest.raises(RecipeError) as caught:
        check(text)
    assert [finding.code for finding in caught.value.findings] == ["R379"]
    assert _finding(check, text.replace("start: {dpo: owner/model}\n", "")).code == "R378"
    path = tmp_path / "single.yaml"
    path.write_text(f"schema: 1\nname: a\nmodel: {{path: previous:dpo}}\n{DATA}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="R376"):
        validate_file(path)


def test_names_and_starts_that_cannot_be(check: Check) -> None:
    long = "a" * 39
    finding = _finding(check, CONTINUED.replace("dpo", long))
    assert (finding.code, finding.what) == ("R379", f"the name of step `{long}` is too long for rounds")
    finding = _finding(check, ROUNDS.replace("{dpo: owner/model}", "{sample: previous:dpo, dpo: a/b}"))
    assert (finding.code, _text_at(finding)) == ("R378", "previous:dpo")
    once = CONTINUED.replace("  dpo:\n", "  dpo:\n    once: true\n").replace("previous:dpo", "owner/model")
    finding = _finding(check, once.replace("start: {dpo: owner/model}\n", ""))
    assert (finding.code, finding.what) == ("R379", "no step is done in rounds")


def test_overrides_of_rounds_that_there_are_not(check: Check) -> None:
    for override, what in (
        ("steps.dpo-4.training.seed=1", "step `dpo` has no round 4"),
        ("steps.reward-2.training.seed=1", "step `reward` has no rounds"),
    ):
        finding = _finding(check, ROUNDS, override)
        assert (finding.code, finding.what, _text_at(finding)) == ("R379", what, override.partition("=")[0])


def test_rounds_of_the_command_line_are_overridden_there_too(check: Check) -> None:
    text = CONTINUED.replace("rounds: 3\n", "")
    chain = check(text, "rounds = 2", "steps.dpo-2.training.seed=5")
    assert [step.checked.settings.training.seed for step in chain.steps] == [42, 5]


def test_an_override_that_no_step_takes_is_an_error_beside_rounds_of_another_kind(check: Check) -> None:
    """A key such as `sample-2` has no kind: it is that of `sample`, and no run of a recipe."""
    text = "schema: 1\nname: job\nrounds: 2\nsteps:\n  sample: {kind: sample, models: [a/b], data: a/c, rewards: [R]}\n"
    text = text.replace("R]", "{rule: length, max: 9}]") + "  sample-2: {limit: 5}\n"
    assert len(check(text).steps) == 2
    finding = _finding(check, text, "training.seed=1")
    assert (finding.code, finding.what) == ("R203", "unknown key `training` at the top of the chain")


def test_without_rounds_a_number_in_a_name_means_nothing(check: Check) -> None:
    text = "schema: 1\nname: job\nsteps:\n  a: {kind: sample, models: [a/b], data: a/c, rewards: [{rule: json}]}\n"
    chain = check(f"{text}  a-2: {{model: {{path: owner/model}}, {DATA}}}\n", "training.seed=1")
    assert _step(chain, "a-2").checked.settings.training.seed == 1


def test_a_step_that_does_the_same_in_each_round_is_a_warning(check: Check) -> None:
    text = ROUNDS.replace("    once: true\n    model", "    model")
    (warning,) = check(text).warnings
    assert (warning.code, _text_at(warning), warning.severity) == ("R382", "reward", "warning")
    assert check(text, "rounds=1").warnings == ()
    # A second one that uses only this one does the same too.
    text = CONTINUED.replace("previous:dpo", "step:sft").replace("start: {dpo: owner/model}\n", "")
    text += f"  sft: {{model: {{path: owner/model}}, {DATA}}}\n"
    assert [_text_at(warning) for warning in check(text).warnings] == ["dpo", "sft"]
    assert check(text + "  sft-2: {training: {seed: 5}}\n").warnings == ()


def test_a_hundred_rounds_are_checked_in_seconds_of_the_processor(check: Check) -> None:
    """Twice as many rounds take about twice as long, and not four times."""
    taken = []
    for rounds in (25, 100):
        began = time.process_time()
        assert len(check(ROUNDS, f"rounds={rounds}").steps) == 2 * rounds + 2
        taken.append(time.process_time() - began)
    assert taken[1] < 10 * taken[0]


# --- what is done --------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> FakeSteps:
    """Steps whose model depends on their settings and on what they begin with."""

    def made(recipe: object) -> str:
        base = Path(recipe.model.path) / "model.safetensors"  # type: ignore[attr-defined]
        before = base.read_text(encoding="utf-8") if base.exists() else "base"
        return f"{before} {recipe.training.seed} {recipe.training.learning_rate}"  # type: ignore[attr-defined]

    return FakeSteps(tmp_path, made)


def test_rounds_run_one_after_the_other(fake: FakeSteps) -> None:
    finished = fake.run(CONTINUED)
    assert fake.executed == ["job-dpo-1", "job-dpo-2", "job-dpo-3"]
    assert [step.needs for step in finished.result.steps] == [{}, {"model.path": "dpo-1"}, {"model.path": "dpo-2"}]
    assert fake.recipes["job-dpo-3"].model.path == str(finished.directory.path / str(finished.result.steps[1].product))
    page = finished.directory.report.read_text(encoding="utf-8")
    assert '<code>model.path</code> is what <a href="#dpo-1">dpo-1</a> made' in page
    assert "<caption>dpo in each round</caption>" in page
    assert re.findall(r'<th scope="row">(\d)</th><td>(.+?)</td>', page) == [
        ("1", "0.500"),
        ("2", "0.500"),
        ("3", "0.500"),
    ]
    steps = finished.result.steps
    assert [(step.title, step.round) for step in steps] == [("dpo", 1), ("dpo", 2), ("dpo", 3)]


def test_steps_that_are_done_once_have_no_table_of_rounds(fake: FakeSteps) -> None:
    finished = fake.run(CONTINUED, "rounds=1")
    assert "in each round" not in finished.directory.report.read_text(encoding="utf-8")


def test_only_new_and_changed_rounds_are_done(fake: FakeSteps) -> None:
    fake.run(CONTINUED, "rounds=2")
    fake.run(CONTINUED, "rounds=3")
    assert fake.executed == ["job-dpo-3"]
    fake.run(CONTINUED, "rounds=2")
    assert fake.executed == []
    fake.run(CONTINUED, "steps.dpo-2.training.seed=5")
    assert fake.executed == ["job-dpo-2", "job-dpo-3"]
    fake.run(CONTINUED + "  dpo-3: {training: {seed: 6}}\n")
    assert fake.executed == ["job-dpo-3"]
    fake.run(CONTINUED, "steps.dpo.training.seed=7")
    assert fake.executed == ["job-dpo-1", "job-dpo-2", "job-dpo-3"]
    assert len(fake.folders) == 1
