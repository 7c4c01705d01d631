"""Each warning has a reason, a source and a fix; the page and the recipes agree with the rules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from advice_jobs import codes, make_facts, make_recipe, only
from shipped_files import recipes_in

from dpo_recipes.error_codes import CODES
from dpo_recipes.fit.advice.checks import DISAGREEMENT, FEW_STEPS, FEW_TRAIN_ROWS
from dpo_recipes.fit.advice.learning_rates import format_rate
from dpo_recipes.fit.advice.rules import RULES, AdviceRule, advise
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.objectives.rates import PREFERENCE_RATES
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths
from dpo_recipes.significance import interval_half_width, smallest_difference

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "advice.md").read_text(encoding="utf-8")
DISAPPOINTING = {
    "F780": make_facts({"num_desirable": 400, "num_undesirable": 1600}, objective={"kind": "kto"}),
    "F781": make_facts(training={"eval_steps": 100, "early_stopping": {"patience": 3}}),
    "F790": make_facts(training={"learning_rate": 0.1}),
    "F791": make_facts({"num_train_rows": 299}, training={"gradient_accumulation_steps": 4}),
    "F792": make_facts({"trainable_parameters": 10_000_000}, training={"num_epochs": 9.0}),
    "F793": make_facts({"truncated_share": 0.2, "dropped_overlong_share": 0.1}),
    "F794": make_facts(training={"micro_batch_size": 1, "gradient_accumulation_steps": 1}),
    "F795": make_facts({"num_eval_rows": 85}),
    "F796": make_facts(objective={"beta": 40.0}),
    "F797": make_facts(training={"warmup_ratio": 0.8}),
    "F798": make_facts(training={"max_steps": 5}),
    "F799": make_facts(training={"max_steps": 50, "eval_steps": 50}, checkpoints={"keep_best": True}),
}


def rule_row(rule: AdviceRule) -> str:
    """The line of docs/advice.md that describes a rule."""
    sources = ", ".join(f"[{source.name}]({source.url})" for source in rule.sources)
    return f"| {rule.code} | {rule.name} | {rule.threshold} | {rule.reason} | {sources} |"


def test_a_sensible_job_and_a_job_without_known_facts_get_no_advice() -> None:
    assert codes(make_facts()) == []
    assert codes(JobFacts(make_recipe())) == []


@pytest.mark.parametrize(("code", "facts"), DISAPPOINTING.items(), ids=DISAPPOINTING)
def test_each_warning_has_a_reason_a_source_and_a_fix(code: str, facts: JobFacts) -> None:
    finding = only(facts)
    assert finding.code == code
    assert finding.severity == "warning"
    assert finding.where is None
    assert re.search(r"\d", finding.what + (finding.why or ""))
    assert re.search(r"\(.+, https://\S+\)$", finding.why or "")
    assert finding.fix
    for text in (finding.what, finding.fix, finding.why or ""):
        assert not re.search(r"  |None|nan|inf\b|\{|\}|\.$", text), text
        assert text[0].islower() or text[0].isdigit()


def test_every_rule_can_be_broken_and_is_explained_and_documented() -> None:
    assert [rule.code for rule in RULES] == list(DISAPPOINTING)
    assert {code for code in CODES if code.startswith(("F78", "F79"))} == set(DISAPPOINTING)
    for rule in RULES:
        assert CODES[rule.code].title.startswith("warning: ")
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
        assert rule.sources
        assert all(re.fullmatch(r"https://\S+", source.url) for source in rule.sources)
        assert not rule.reason.endswith(".")


def test_the_page_lists_exactly_the_rules() -> None:
    expected = [rule_row(rule) for rule in RULES]
    assert re.findall(r"^\| F\d{3} \|.*\|$", PAGE, re.MULTILINE) == expected, "docs/advice.md:\n" + "\n".join(expected)


def test_the_page_has_the_rates_of_the_table() -> None:
    for tuning, usual in (("every weight", PREFERENCE_RATES.full), ("LoRA", PREFERENCE_RATES.lora)):
        assert (
            f"| {tuning} | {format_rate(usual.low)} to {format_rate(usual.high)} | {format_rate(usual.start)} |" in PAGE
        )


@pytest.mark.parametrize("pairs", [50, 100, 200, 381, 1000, 2000])
def test_the_page_says_what_held_out_pairs_can_show(pairs: int) -> None:
    width, paired = interval_half_width(pairs), smallest_difference(pairs, disagreement=DISAGREEMENT)
    numbers = f"± {100 * width:.1f} | {100 * paired:.1f} | {100 * smallest_difference(pairs):.1f}"
    assert f"| {pairs:,} | {numbers} |" in PAGE


@pytest.mark.parametrize("name", recipe_paths())
def test_shipped_recipes_get_no_advice_on_rate_batch_passes_beta_or_warm_up(name: str) -> None:
    plausible = {"num_train_rows": {"quickstart": 362, "gpt2_mps_sweep": 9_500}.get(name, 1800)}
    for recipe in recipes_in(recipe_paths()[name]).values():
        trainable = 124_000_000 if not recipe.model.adapter else None
        assert codes(JobFacts(recipe, **plausible, trainable_parameters=trainable)) == []


def test_a_warning_has_a_place_in_the_recipe(tmp_path: Path) -> None:
    text = (
        "schema: 1\nname: job\nmodel: {path: owner/model}\ndata:\n  train: [{path: owner/pairs}]\n"
        "  eval: {fraction: 0.1}\nobjective: {kind: dpo, beta: 90.0}\n"
        "training:\n  learning_rate: 1e-2\n  max_steps: 3\n"
    )
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    checked = validate(path, ["data.limit=20"])
    facts = JobFacts(checked.recipe, 20, 10, 5)
    lines = {
        (f.code, f.where.line if f.where else 0, f.where.file if f.where else "")
        for f in (finding.located(checked.composed.where) for finding in advise(facts))
    }
    at = str(path)
    assert {("F790", 9, at), ("F791", 1, "--set"), ("F795", 6, at), ("F795", 4, at), ("F796", 7, at)} <= lines
    assert ("F798", 10, at) in lines


def test_the_explanations_name_the_thresholds() -> None:
    assert str(FEW_TRAIN_ROWS) in CODES["F791"].text
    assert str(FEW_STEPS) in CODES["F798"].text
    assert "381" in CODES["F795"].text


def test_advice_imports_no_large_library() -> None:
    """Advice is given while a job is planned, before a worker imports torch."""
    code = (
        "import sys, dpo_recipes.fit.advice; "
        "print(sorted({'torch', 'transformers', 'datasets', 'trl', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
