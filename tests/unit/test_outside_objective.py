"""An objective and a guard of another package get what our own get: checks with lines, hints, schema and reference."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from minimal import MINIMAL
from outside import installed

from dpo_recipes import registry
from dpo_recipes.errors import RecipeError
from dpo_recipes.fit.advice.rules import advise
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.guards import guard_classes
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.load import load_text
from dpo_recipes.recipe.schema import Recipe, recipe_json_schema
from dpo_recipes.recipe.schema.guards import guards_of
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.resume import identity

REPOSITORY = Path(__file__).resolve().parents[2]
Command = Callable[..., Any]
Check = Callable[[str], Validated]


@pytest.fixture(autouse=True)
def package(tmp_path: Path) -> Iterator[Path]:
    with installed(tmp_path / "site") as folder:
        yield folder


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Validates a recipe with an `objective` section."""

    def run(objective: str) -> Validated:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"{MINIMAL}objective: {objective}\n", encoding="utf-8")
        return validate(path)

    return run


def finding_of(check: Check, objective: str) -> Any:
    with pytest.raises(RecipeError) as caught:
        check(objective)
    (finding,) = caught.value.findings
    return finding


def test_its_parameters_are_validated_and_have_defaults(check: Check) -> None:
    params: Any = check("{kind: slic, per_token: true}").recipe.objective
    assert type(params).__name__ == "SlicParams"
    assert (params.kind, params.delta, params.per_token) == ("slic", 1.0, True)
    assert finding_of(check, "{kind: slic, delta: -1}").code == "R206"


def test_its_advice_keeps_its_code(check: Check) -> None:
    (advice,) = [
        found for found in advise(JobFacts(check("{kind: slic, delta: 200.0}").recipe)) if found.code == "F901"
    ]
    assert (advice.severity, advice.at, advice.fix) == ("warning", ("objective", "delta"), "start from `delta: 1.0`")
    assert advice.why == "the paper uses 1.0"


def test_an_unknown_key_is_answered_with_its_own_keys(check: Check) -> None:
    finding = finding_of(check, "{kind: slic, dleta: 2.0}")
    assert (finding.code, finding.fix) == ("R203", "did you mean `delta`?")
    assert finding.why == "`objective` takes kind, delta, per_token"
    assert finding.where.text[finding.where.column - 1 :].startswith("dleta")


def test_a_key_of_another_kind_is_recognized_in_both_directions(check: Check) -> None:
    assert finding_of(check, "{kind: dpo, per_token: true}").fix == "`per_token` belongs to `kind: slic`"
    assert "`kind: dpo`" in finding_of(check, "{kind: slic, loss_weights: [1.0]}").fix


def test_a_misspelt_kind_is_answered_with_all_kinds(check: Check) -> None:
    finding = finding_of(check, "{kind: silc}")
    assert (finding.code, finding.fix) == ("R204", "did you mean `slic`?")
    assert all(kind in finding.why for kind in registry.names("objectives"))


def test_its_own_finding_has_a_line_and_an_explanation(check: Check, command: Command) -> None:
    finding = finding_of(check, "{kind: slic, delta: 9.0, per_token: true}")
    assert finding.code == "R901"
    assert finding.where.text[finding.where.column - 1 :].startswith("9.0")
    done = command("explain", "R901")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "R901: a delta that no pair reaches")


def test_schema_and_reference_have_it() -> None:
    schema = recipe_json_schema()
    kinds = schema["properties"]["objective"]["oneOf"]
    assert [kind["properties"]["kind"]["const"] for kind in kinds] == registry.names("objectives")
    jsonschema.validate(load_text(f"{MINIMAL}objective: {{kind: slic, delta: 2.0}}\n", "recipe.yaml").data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(load_text(f"{MINIMAL}objective: {{kind: slic, beta: 2.0}}\n", "recipe.yaml").data, schema)
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))["make_reference"]()
    assert "## `objective` with `kind: slic`" in page
    assert "| `delta` | number | `1.0` | The difference of log-probabilities" in page


def test_a_new_recipe_starts_from_its_parameters(command: Command, tmp_path: Path) -> None:
    done = command("init", "mine.yaml", "--objective", "slic", "--model", "owner/model", "--data", "owner/pairs")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert "# Sequence likelihood calibration (SLiC-HF" in text
    assert "  delta: 1.0\n" in text
    assert validate(tmp_path / "mine.yaml").warnings == ()


def test_a_guard_is_active_if_a_recipe_names_it(check: Check) -> None:
    assert [guard.name for guard in guards_of(check("{kind: slic}").recipe)] == list(guard_classes())
    recipe = check("{kind: slic}\nguards: {uncalibrated: {action: stop}, spikes: {action: off}}").recipe
    guard = guards_of(recipe)[-1]
    assert (guard.name, guard.model_dump()) == ("uncalibrated", {"action": "stop", "share": 0.01})
    assert "spikes" not in [guard.name for guard in guards_of(recipe)]
    assert Recipe.model_validate(load_text(dump_recipe(recipe), "resolved.yaml").data) == recipe
    assert identity(recipe)["guards"] == {"uncalibrated": {"action": "stop", "share": 0.01}}


def test_mistakes_in_a_guard_have_their_place_and_its_own_keys(check: Check) -> None:
    finding = finding_of(check, "{kind: slic}\nguards: {uncalibrated: {share: 0.5}, spike: {}}")
    assert (finding.code, finding.fix) == ("R203", "did you mean `spikes`?")
    assert finding.why.endswith("length, drift, uncalibrated")
    finding = finding_of(check, "{kind: slic}\nguards: {uncalibratd: {}}")
    assert (finding.code, finding.fix) == ("R203", "did you mean `uncalibrated`?")
    finding = finding_of(check, "{kind: slic}\nguards: {uncalibrated: {shere: 0.5}}")
    assert (finding.code, finding.why) == ("R203", "`guards.uncalibrated` takes action, share")
    assert finding.where.text[finding.where.column - 1 :].startswith("shere")
    finding = finding_of(check, "{kind: slic}\nguards: {uncalibrated: {share: 2.0}}")
    assert (finding.code, finding.why) == ("R206", "The share of held-out pairs that is too small.")


def test_schema_reference_and_explanations_have_the_guard(command: Command) -> None:
    schema, text = recipe_json_schema(), f"{MINIMAL}guards: {{uncalibrated: {{share: 0.5}}}}\n"
    jsonschema.validate(load_text(text, "recipe.yaml").data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(load_text(text.replace("share", "shere"), "recipe.yaml").data, schema)
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))["make_reference"]()
    assert "| `share` | number | `0.01` | The share of held-out pairs that is too small. |" in page
    done = command("explain", "T901")
    assert done.stdout.startswith("T901: warning: the guard `uncalibrated` of another package\n\nIt fires when less")


def test_an_entry_that_is_no_guard_of_its_name_is_named(check: Check, package: Path) -> None:
    guard = package / "slic_guard.py"
    guard.write_text(guard.read_text().replace('name = "uncalibrated"', 'name = "other"'), encoding="utf-8")
    finding = finding_of(check, "{kind: slic}\nguards: {uncalibrated: {}}")
    assert (finding.code, finding.what) == (
        "R318",
        "the entry `uncalibrated` of another package is not a guard of that name",
    )


@pytest.mark.parametrize(
    ("broken", "says"), [("import nosuch_library\n", "ModuleNotFoundError"), ("OTHER = 1\n", "AttributeError")]
)
def test_a_package_that_cannot_be_imported_is_named(check: Check, package: Path, broken: str, says: str) -> None:
    (package / "slic_objective.py").write_text(broken, encoding="utf-8")
    finding = finding_of(check, "{kind: slic}")
    assert finding.code == "R318"
    assert finding.what == "`slic` of slic-objective cannot be loaded"
    assert says in finding.why
