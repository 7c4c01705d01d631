"""Validation returns a frozen recipe, or raises one error with all findings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from minimal import MINIMAL
from pydantic import ValidationError

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe.validate import Validated, validate

Write = Callable[[str, str], Path]
Check = Callable[..., Validated]


@pytest.fixture
def check(write: Write) -> Check:
    """Validates the minimal recipe with overrides."""
    path = write("r.yaml", MINIMAL)
    return lambda *overrides: validate(path, list(overrides))


def _findings(check: Check, *overrides: str) -> tuple[Finding, ...]:
    with pytest.raises(RecipeError) as caught:
        check(*overrides)
    return caught.value.findings


def _finding(check: Check, *overrides: str) -> Finding:
    (finding,) = _findings(check, *overrides)
    return finding


# --- valid recipes -------------------------------------------------------------------------------


def test_the_minimal_recipe_passes_without_a_warning(check: Check) -> None:
    validated = check()
    assert validated.warnings == ()
    assert validated.recipe.training.learning_rate == 5e-6
    assert validated.recipe.training.seed == 42


def test_a_recipe_cannot_be_changed_afterwards(check: Check) -> None:
    with pytest.raises(ValidationError):
        check().recipe.name = "other"


def test_the_objective_may_be_left_out_and_is_dpo(check: Check) -> None:
    assert check().recipe.objective.kind == "dpo"


def test_a_doubtful_recipe_passes_with_a_warning(check: Check) -> None:
    (warning,) = check("data.eval={}").warnings
    assert (warning.code, warning.severity) == ("R390", "warning")


@pytest.mark.parametrize(("kind", "noun"), [("dpo", "pair"), ("kto", "answer"), ("sft", "completion")])
def test_findings_have_the_word_of_the_objective_for_a_row(check: Check, kind: str, noun: str) -> None:
    unheld = _findings(check, f"objective.kind={kind}", "data.eval={}", "training.eval_steps=5")
    texts = {finding.code: f"{finding.what}; {finding.why}" for finding in unheld}
    assert f"there are no held-out {noun}s" in texts["R309"]
    assert f"without held-out {noun}s, learning" in texts["R390"]


# --- strictness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected", "hint"),
    [
        ("training.seed='3'", "a whole number, not the text `3`", "without quotes"),
        ("training.seed=3.0", "a whole number, not `3.0`", "correct"),
        ("training.seed=true", "a whole number, not `true`", "correct"),
        ("training.num_epochs=a", "a number, not the text `a`", "write a number"),
        ("training.num_epochs=", "a number, not empty", "remove the key"),
        ("training.gradient_checkpointing=yes", "true or false, not the text `yes`", "write `true` or `false`"),
        ("training.gradient_checkpointing=1", "true or false, not `1`", "correct"),
        ("data.train[0].columns=[a]", "a mapping, not a list", "correct"),
        ("summary=3", "text, not `3`", 'quote it: "3"'),
        ("data.train=x.jsonl", "a list, not the text `x.jsonl`", "start each item with"),
        ("model=owner/model", "a mapping, not the text `owner/model`", "indented lines"),
        ("model.adapter.target_modules=3", "text or a list, not `3`", "write one of these"),
        ("objective={kind: dpo, loss_type: {a: 1}}", "or a list, not a mapping", "write one of these"),
    ],
)
def test_types_are_not_converted(check: Check, override: str, expected: str, hint: str) -> None:
    finding = _finding(check, override)
    assert finding.code == "R205"
    assert finding.what.endswith(expected)
    assert hint in str(finding.fix)


def test_a_whole_number_is_accepted_as_a_number(check: Check) -> None:
    assert check("training.num_epochs=2").recipe.training.num_epochs == 2.0


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("training.learning_rate=0", "R206", "more than 0"),
        ("training.learning_rate=2", "R206", "at most 1"),
        ("training.seed=4294967296", "R206", "less than 4294967296"),
        ("data.train[0].limit=0", "R206", "at least 1"),
        ("training.weight_decay=.inf", "R207", "`inf`"),
        ("training.weight_decay=.nan", "R207", "`nan`"),
        ("name=a b", "R207", "the text `a b`"),
        ("name=..", "R207", "the text `..`"),
        ("name=" + "a" * 101, "R207", "`aaa"),
        ("data.train=[]", "R207", "an empty list"),
        ("model.path=''", "R207", "an empty text"),
        ("model.sha256=" + "A" * 64, "R207", "the text"),
    ],
)
def test_values_out_of_range_or_form_are_refused(check: Check, override: str, code: str, words: str) -> None:
    finding = _finding(check, override)
    assert finding.code == code
    assert words in finding.what


# --- unions, choices and hints -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "place", "hint"),
    [
        ("objective={kind: dpo, loss_type: sigmod}", "`objective.loss_type`", "did you mean `sigmoid`?"),
        ("objective={kind: dpo, loss_type: [sft, hing]}", "`objective.loss_type[1]`", "did you mean `hinge`?"),
        ("objective={kind: dop}", "`objective.kind`", "did you mean `dpo`?"),
        ("data.overlong=dorp", "`data.overlong`", "did you mean `drop`?"),
        ("tracking.report_to=[wandbb]", "`tracking.report_to[0]`", "did you mean `wandb`?"),
    ],
)
def test_an_unknown_choice_is_one_finding_with_the_most_similar_one(
    check: Check, override: str, place: str, hint: str
) -> None:
    finding = _finding(check, override)
    assert finding.code == "R204"
    assert place in finding.what
    assert finding.fix == hint


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.learning_rat=1e-5", "did you mean `learning_rate`?"),
        ("training.lr=1e-5", "here it is `training.learning_rate`"),
        ("lora_r=8", "here it is `model.adapter.r`"),
        ("cutoff_len=8", "here it is `data.max_length`"),
        ("beta=0.1", "`beta` belongs at `objective.beta`"),
        ("limit=3", "`limit` belongs at `data.train[].limit`"),
        ("micro_batch_siz=2", "did you mean `training.micro_batch_size`?"),
        ("xyzzy=1", "remove it"),
        ("model.adapter.alpa=3", "did you mean `alpha`?"),
    ],
)
def test_an_unknown_key_has_a_hint_where_it_belongs(check: Check, override: str, hint: str) -> None:
    finding = _finding(check, override)
    assert (finding.code, finding.fix) == ("R203", hint)


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("model.adapter={r: 8}", "`model.adapter.kind` is missing", "add `kind: lora`"),
        ("objective={beta: 0.1}", "`objective.kind` is missing", "add `kind: dpo`"),
        ("data.train=[{limit: 3}]", "`data.train[0].path` is missing", "add `path: ...`"),
    ],
)
def test_a_missing_key_says_what_to_add(check: Check, override: str, what: str, hint: str) -> None:
    finding = _finding(check, override)
    assert (finding.code, finding.what, finding.fix) == ("R202", what, hint)


@pytest.mark.parametrize("version", ["2", "'1'", "1.5", "null"])
def test_another_schema_version_ends_the_check(check: Check, version: str) -> None:
    assert _finding(check, f"schema={version}", "xyzzy=1").code == "R201"


# --- several findings ----------------------------------------------------------------------------


def _positions(findings: tuple[Finding, ...]) -> list[tuple[str, int]]:
    return [(finding.code, finding.where.line if finding.where else -1) for finding in findings]


def _raised(path: Path) -> tuple[Finding, ...]:
    with pytest.raises(RecipeError) as caught:
        validate(path)
    return caught.value.findings


def test_all_schema_findings_come_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = MINIMAL.replace("5e-6", "fast\n  sead: 1").replace("path: owner/model", "path: 3").replace("0.1", "1.5")
    found = _positions(_raised(write("r.yaml", text)))
    assert found == [("R205", 4), ("R206", 10), ("R205", 12), ("R203", 13)]


def test_a_token_budget_does_not_fill_micro_batches_that_the_loss_depends_on(check: Check) -> None:
    budget = "training.max_tokens_per_pass=2048"
    assert check(budget).warnings == ()
    for loss in ("aot", "[sigmoid, sft]"):
        (warning,) = check(budget, f"objective={{kind: dpo, loss_type: {loss}}}").warnings
        assert (warning.code, warning.severity) == ("R394", "warning")
        assert warning.what.startswith("micro-batches have 2 pairs each")
        assert warning.where is not None
        assert warning.where.text == budget


def test_findings_of_all_rules_come_together_and_warnings_come_last(write: Write) -> None:
    text = MINIMAL.replace("owner/pairs", "none.jsonl").replace("  eval: {fraction: 0.1}\n", "")
    text = "chat_template: nosuch\n" + text
    assert _positions(_raised(write("r.yaml", text))) == [("R310", 1), ("R304", 9), ("R390", 7)]


def test_a_fault_in_a_parent_points_into_the_parent(write: Write) -> None:
    write("base.yaml", MINIMAL + "  sead: 1\n")
    (finding,) = _raised(write("own.yaml", "extends: base.yaml\n"))
    assert finding.where is not None
    assert (Path(finding.where.file).name, finding.where.line) == ("base.yaml", 13)


@pytest.mark.parametrize(
    ("overrides", "codes"),
    [
        (["objective={kind: dpo, loss_type: exo_pair}"], ["R312"]),
        (["objective={kind: dpo, loss_type: apo_zero, f_divergence_type: forward_kl}"], ["R356"]),
        (["objective={kind: dpo, loss_type: aot, use_weighting: true}"], ["R356"]),
        (["objective={kind: dpo, loss_type: [sigmoid, sft, hinge], use_weighting: true}"], ["R356", "R356"]),
        (["objective={kind: dpo, use_weighting: true}", "data.train[0].columns={weight: votes}"], []),
        (["objective={kind: dpo, loss_type: [sigmoid, sft]}", "data.train[0].columns={weight: votes}"], []),
        (["objective={kind: dpo, discopop_tau: 0.1}"], ["R356"]),
        (["objective={kind: dpo, ref_model_mixup_alpha: 0.9, ref_model_sync_steps: 9}"], ["R356", "R356"]),
        (["objective={kind: dpo, sync_ref_model: true, ref_model_mixup_alpha: 0.9, ref_model_sync_steps: 9}"], []),
        (["objective={kind: dpo, sync_ref_model: true}", "training.max_steps=512"], ["R356"]),
        (["objective={kind: dpo, sync_ref_model: true}", "training.max_steps=513"], []),
        (["objective={kind: dpo, sync_ref_model: true}", "launch.strategy=fsdp", "hardware.device=cuda"], ["R358"]),
        (["objective={kind: dpo, sync_ref_model: true}", "launch.strategy=ddp"], []),
        (
            ["objective={kind: dpo, sync_ref_model: true}", "checkpoints.keep_best=true", "training.eval_steps=5"],
            ["R358"],
        ),
        (
            [
                "objective={kind: dpo, sync_ref_model: true}",
                "training.early_stopping={}",
                "training.eval_steps=5",
                "data.eval={fraction: 0.1}",
            ],
            ["R358"],
        ),
        (["objective={kind: dpo, sync_ref_model: true, ref_model_mixup_alpha: 0}"], ["R206"]),
        (["objective={kind: dpo, f_alpha_divergence_coef: 0.1}"], ["R356"]),
        (["objective={kind: dpo, f_divergence_type: alpha_divergence, f_alpha_divergence_coef: 0.1}"], []),
        (["objective={kind: dpo, ld_alpha: 1.5}"], ["R206"]),
        (["objective={kind: dpo, loss_type: exo_pair, label_smoothing: 1e-3}"], []),
        (["objective={kind: dpo, loss_type: hinge, label_smoothing: 0.1}"], ["R313"]),
        (["objective={kind: dpo, label_smoothing: 0.1}"], ["R313"]),
        (["objective={kind: dpo, loss_type: aot, label_smoothing: 0.1}"], []),
        (["objective={kind: dpo, loss_type: [hinge, robust], label_smoothing: 0.1}"], []),
        (["objective={kind: dpo, loss_type: [sft, ipo], loss_weights: [1.0]}"], ["R311"]),
        (["objective={kind: dpo, loss_type: [sft, ipo], loss_weights: [1, 0.5]}"], []),
        (["model.dtype=float16", "hardware.device=cpu"], ["R314"]),
        (["model.dtype=float16", "hardware.device=cuda"], []),
        (["model.dtype=float16"], []),
        (["model.attn_implementation=flash_attention_2", "model.dtype=float32"], ["R314"]),
        (["model.attn_implementation=flash_attention_2", "model.dtype=bfloat16"], []),
        (["data.eval.sources=[{path: owner/pairs}]"], ["R307", "R308"]),
        (["data.eval={sources: [{path: owner/pairs, split: test}]}"], []),
        (["data.eval={fraction: 0.1}", "training.eval_steps=5"], []),
        (["data.train[0].split=test"], []),
        (["chat_template=plain"], []),
    ],
)
def test_settings_that_exclude_each_other(check: Check, overrides: list[str], codes: list[str]) -> None:
    found: Any = []
    try:
        check(*overrides)
    except RecipeError as error:
        found = sorted(finding.code for finding in error.findings)
    assert found == codes


def test_an_old_gpu_gets_a_warning_about_the_torch_build(check: Check) -> None:
    (finding,) = check("hardware.profile=v100-16gb", "model.dtype=float16").warnings
    assert finding.code == "R393"
    assert "CUDA 13" in (finding.why or "")


@pytest.mark.parametrize(
    ("high", "low", "codes"),
    [
        (None, None, ["R393"]),
        ("1.0", "0.9", []),
        ("0.0", None, ["R393"]),
        ("1.0", None, ["R314"]),
        ("1", "2", ["R314"]),
    ],
)
def test_the_memory_limits_of_a_mac_are_checked(
    check: Check, monkeypatch: pytest.MonkeyPatch, high: str | None, low: str | None, codes: list[str]
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    for name, value in (("HIGH", high), ("LOW", low)):
        monkeypatch.delenv(f"PYTORCH_MPS_{name}_WATERMARK_RATIO", raising=False)
        if value is not None:
            monkeypatch.setenv(f"PYTORCH_MPS_{name}_WATERMARK_RATIO", value)
    if codes == ["R314"]:
        assert _finding(check, "hardware.device=mps").code == "R314"
    else:
        assert [finding.code for finding in check("hardware.device=mps").warnings] == codes


@pytest.mark.parametrize(
    ("overrides", "what", "fix"),
    [
        (["training.max_steps=40", "training.eval_steps=10"], "evaluated 3 times", "write `patience: 2` or less"),
        (["training.max_steps=41", "training.eval_steps=10"], None, None),
        (["training.num_epochs=4", "training.eval_steps=epoch"], "evaluated 3 times", "write `patience: 2` or less"),
        (["training.num_epochs=4.1", "training.eval_steps=epoch"], None, None),
        (["training.max_steps=20", "training.eval_steps=10"], "evaluated once", "lower `training.eval_steps`"),
        (["training.eval_steps=epoch"], "not evaluated", "write a number of steps as `training.eval_steps`"),
        (["training.eval_steps=10"], None, None),  # depends on the rows
    ],
)
def test_early_stopping_that_can_never_end_the_run(
    write: Write, overrides: list[str], what: str | None, fix: str | None
) -> None:
    assert MINIMAL.splitlines()[-2] == "training:"
    path = write("r.yaml", f"{MINIMAL}  early_stopping:\n    patience: 3\n")
    warnings = validate(path, ["data.eval={fraction: 0.1}", *overrides]).warnings
    assert [warning.code for warning in warnings] == (["R397"] if what else [])
    if what and fix:
        (warning,) = warnings
        assert f"`patience` is 3, and the model is {what} before the last step" in warning.what
        assert "evaluation 4 is the first" in (warning.why or "")
        assert (warning.fix or "").startswith(fix)
        assert warning.where
        assert (warning.where.line, warning.where.column) == (len(MINIMAL.splitlines()) + 2, 15)


# --- rows that the objective does not use --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "override", "what"),
    [
        ("dpo", "data.train_on_turns=last", "`train_on_turns`"),
        ("dpo", "data.train[0].columns={margin: gap}", "`margin`"),
        ("orpo", "data.train[0].columns={margin: gap}", "`margin`"),
        ("sft", "data.train[0].columns={subset: category}", "`subset`"),
    ],
)
def test_what_the_objective_does_not_use_is_an_error(check: Check, kind: str, override: str, what: str) -> None:
    found = _finding(check, f"objective={{kind: {kind}}}", override)
    assert (found.code, found.what) == ("R327", f"{what} has no effect here")
    assert found.where is not None


@pytest.mark.parametrize("kind", ["orpo", "dpo"])
def test_losses_have_weights(check: Check, kind: str) -> None:
    assert check(f"objective={{kind: {kind}}}", "data.train[0].columns={weight: votes}").warnings == ()


@pytest.mark.parametrize(
    "source",
    ["data.train[0].columns={weight: votes}", "data.eval={sources: [{path: other, columns: {weight: votes}}]}"],
)
def test_losses_that_sort_rewards_have_no_weights(check: Check, source: str) -> None:
    found = _finding(check, "objective={kind: dpo, loss_type: [sigmoid, aot]}", source)
    assert (found.code, found.what) == ("R356", "a weight of each pair cannot be combined with aot")
    assert found.where is not None
    assert found.where.text == source


def test_objectives_on_single_answers_may_train_on_the_last_turn(check: Check) -> None:
    assert check("objective={kind: sft}", "data.train_on_turns=last").warnings == ()


@pytest.mark.parametrize(
    ("kind", "data_format", "fix"),
    [("dpo", "unpaired", "{kind: kto}"), ("dpo", "messages", "{kind: sft}"), ("kto", "alpaca_sft", "{kind: sft}")],
)
def test_a_format_whose_rows_the_objective_cannot_use_is_an_error(
    check: Check, kind: str, data_format: str, fix: str
) -> None:
    found = _finding(check, f"objective={{kind: {kind}}}", f"data.train[0].format={data_format}")
    assert (found.code, fix in (found.fix or "")) == ("R357", True)
    assert check("objective={kind: kto}", "data.train[0].format=alpaca").warnings == ()
