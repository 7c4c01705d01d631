"""Every rule of advice on both sides of its threshold."""

from __future__ import annotations

import re
from typing import Any

import pytest
from advice_jobs import FULL_TUNING, codes, make_facts, only

from dpo_recipes.fit.advice.learning_rates import format_rate, usual_rates
from dpo_recipes.fit.advice.rules import RULES, advise
from dpo_recipes.objectives.rates import PREFERENCE_RATES

BIG = 7_000_000_000

RATE = pytest.mark.parametrize(
    ("rate", "sections", "parameters", "warns"),
    [
        (2.5e-5, FULL_TUNING, BIG, False),
        (2.6e-5, FULL_TUNING, BIG, True),
        (1e-5, FULL_TUNING, BIG, False),  # Llama 3
        (1e-3, FULL_TUNING, BIG, True),
        (2e-8, FULL_TUNING, BIG, False),
        (1.9e-8, FULL_TUNING, BIG, True),
        (1e-4, FULL_TUNING, 124_000_000, False),
        (1.1e-4, FULL_TUNING, 124_000_000, True),
        (1e-4, FULL_TUNING, None, False),
        (1e-3, FULL_TUNING, None, True),
        (1e-3, {}, None, False),
        (1.1e-3, {}, None, True),
        (1e-6, {}, None, False),
        (9e-7, {}, None, True),
        (5e-7, {}, 8_000_000, True),  # Zephyr's rate for every weight, with an adapter
        (3e-4, {"training": {"optimizer": "lion_8bit"}}, None, False),
        (4e-4, {"training": {"optimizer": "paged_lion_32bit"}}, None, True),
        (1e-7, {"training": {"optimizer": "lion_32bit"}}, None, False),
        (9.9e-3, {"training": {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"}}, None, False),
        (1.1e-2, {"training": {"optimizer": "schedule_free_radam", "lr_scheduler": "constant"}}, None, True),
        (1e-6, {"training": {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"}}, None, False),
        (9e-7, {"training": {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"}}, None, True),
        (1e-2, {"training": {"optimizer": "adafactor"}}, None, True),
        (0.5, {"training": {"optimizer": "sgd"}}, None, False),
        (1e-2, {"training": {"optimizer": "adagrad"}}, None, False),
        (1e-2, {"objective": {"loss_type": "sft"}}, None, False),
        (1e-2, {"objective": {"loss_type": ["sigmoid", "sft"]}}, None, True),
        (1e-2, {"objective": {"loss_type": "ipo"}}, None, True),
    ],
)


@RATE
def test_learning_rates(rate: float, sections: dict[str, Any], parameters: int | None, warns: bool) -> None:
    """Five times beyond 1e-7 to 5e-6 (every weight) and 5e-6 to 2e-4 (LoRA) are 2e-8, 2.5e-5, 1e-6 and 1e-3."""
    training = {**sections.get("training", {}), "learning_rate": rate}
    facts = make_facts({"trainable_parameters": parameters}, **{**sections, "training": training})
    assert codes(facts) == (["F790"] if warns else [])


def test_the_suggested_rate_causes_no_warning() -> None:
    for optimizer in ("adamw_torch", "lion_8bit", "schedule_free_adamw", "rmsprop"):
        for is_full in (True, False):
            usual = usual_rates(PREFERENCE_RATES, optimizer, is_full=is_full, num_parameters=BIG)
            assert usual is not None
            assert usual.low < usual.start < usual.high


@pytest.mark.parametrize(
    ("rate", "text"), [(5e-6, "5e-6"), (6.7e-5, "6.7e-5"), (0.01, "1e-2"), (1.0, "1e0"), (2.5e-5, "2.5e-5")]
)
def test_rates_are_written_as_in_recipes(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(("pairs", "warns"), [(1, True), (299, True), (300, False), (None, False)])
def test_few_training_pairs(pairs: int | None, warns: bool) -> None:
    facts = make_facts({"num_train_rows": pairs}, training={"gradient_accumulation_steps": 4, "max_steps": 20})
    assert ("F791" in codes(facts)) == warns


@pytest.mark.parametrize(
    ("training", "pairs", "warns"),
    [
        ({"num_epochs": 3.0}, 5000, False),
        ({"num_epochs": 3.1}, 5000, True),
        ({"num_epochs": 3.1}, None, True),
        ({"num_epochs": 1.0, "max_steps": 75}, 400, False),  # 400 / 16 = 25 steps a pass
        ({"num_epochs": 1.0, "max_steps": 76}, 400, True),
        ({"num_epochs": 9.0, "max_steps": 75}, 400, False),
        ({"max_steps": 100_000}, None, False),
    ],
)
def test_many_passes(training: dict[str, Any], pairs: int | None, warns: bool) -> None:
    assert codes(make_facts({"num_train_rows": pairs}, training=training)) == (["F792"] if warns else [])


def test_too_many_steps_get_a_suggested_number() -> None:
    finding = only(make_facts({"num_train_rows": 400, "trainable_parameters": 8_000_000}, training={"max_steps": 250}))
    assert finding.what == "in 10 passes the model will memorize the training pairs"
    assert (finding.why or "").startswith(
        "each pair is seen 10 times, and there are 20,000 trained parameters per pair; "
    )
    assert finding.fix == "lower `max_steps`: 75 steps are three passes"


@pytest.mark.parametrize(
    ("cut", "dropped", "warns"),
    [(0.05, 0.0, False), (0.0, 0.05, False), (0.051, None, True), (None, 0.051, True), (0.03, 0.03, True)],
)
def test_many_pairs_cut(cut: float | None, dropped: float | None, warns: bool) -> None:
    facts = make_facts({"truncated_share": cut, "dropped_overlong_share": dropped})
    assert codes(facts) == (["F793"] if warns else [])


@pytest.mark.parametrize(
    ("overlong", "lost"),
    [("truncate_prompt_start", "the beginning of the prompt"), ("truncate_completion_end", "the end of an answer")],
)
def test_the_truncated_part_is_named(overlong: str, lost: str) -> None:
    finding = only(make_facts({"truncated_share": 0.123}, data={"overlong": overlong}))
    assert finding.what == "1024 tokens are too few for 12.3 % of the training pairs"
    assert f"12.3 % of the training pairs lose {lost}" in (finding.why or "")


@pytest.mark.parametrize(("kind", "noun"), [("kto", "answer"), ("sft", "completion")])
def test_a_row_has_the_word_of_its_objective(kind: str, noun: str) -> None:
    """Reasons may speak of pairs where a source does, but not of the pairs of a job that has none."""
    known = {
        "num_train_rows": 20,
        "num_eval_rows": 85,
        "num_test_rows": 85,
        "truncated_share": 0.2,
        "dropped_overlong_share": 0.2,
        "trainable_parameters": 1_000_000,
    }
    training = {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 9.0, "learning_rate": 1.0}
    one_step = make_facts(known, objective={"kind": kind}, training={**training, "gradient_accumulation_steps": 2})
    facts = make_facts(known, objective={"kind": kind}, training=training)
    few = make_facts({**known, "num_train_rows": 4}, objective={"kind": kind}, training={"num_epochs": 1.0})
    remarks = [remark for job in (facts, one_step, few) for rule in RULES for remark in rule.look(job)]
    texts = [text for remark in remarks for text in (remark.what, remark.number, remark.fix)]
    assert not [text for text in texts if re.search(r"\bpairs?\b", text)]
    whole = "\n".join(texts)
    for expected in (
        f"20 training {noun}s will teach the model little",
        f"each {noun} is seen 9 times, and there are 50,000 trained parameters per {noun}",
        f"40 % of the training {noun}s",
        f"each optimizer step uses a single {noun}",
        f"85 held-out {noun}s cannot distinguish two good models",
        f"hold out 381 {noun}s or more in `data.test`",
        f"train on more {noun}s, or on fewer in each step",
    ):
        assert expected in whole


@pytest.mark.parametrize(
    ("micro", "accumulation", "processes", "warns"), [(1, 1, 1, True), (1, 1, 2, False), (1, 2, 1, False)]
)
def test_a_batch_of_one(micro: int, accumulation: int, processes: int, warns: bool) -> None:
    training = {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
    assert codes(make_facts({"num_processes": processes}, training=training)) == (["F794"] if warns else [])


@pytest.mark.parametrize(
    ("held_out", "test", "warnings"),
    [(380, None, 1), (381, None, 0), (None, 380, 1), (380, 380, 2), (0, 0, 0), (None, None, 0), (500, 381, 0)],
)
def test_few_held_out_pairs(held_out: int | None, test: int | None, warnings: int) -> None:
    """± 5 points at 50 % take (1.96 / 0.1)² − 1.96² = 380.3 pairs."""
    assert codes(make_facts({"num_eval_rows": held_out, "num_test_rows": test})) == ["F795"] * warnings


def test_the_smallest_difference_that_held_out_pairs_show() -> None:
    """Of 85 pairs: 1.96 / (2 √(85 + 3.84)) = 10.4 points; unpaired 2.8016 √(0.5 / 85) = 21.5 points."""
    finding = only(make_facts({"num_eval_rows": 85}))
    assert finding.what == "85 held-out pairs cannot distinguish two good models"
    for number in ("± 10.4 points", "13.4 points", "21.5 points"):
        assert number in (finding.why or "")
    assert "rank one pair in five" not in (only(make_facts({"num_eval_rows": 12})).why or "")
    assert only(make_facts({"num_eval_rows": 1})).what.startswith("1 held-out pair cannot")


@pytest.mark.parametrize(
    ("beta", "loss", "warns"),
    [
        (0.001, "sigmoid", False),
        (0.00099, "sigmoid", True),
        (10.0, "sigmoid", False),
        (10.1, "sigmoid", True),
        (10.1, ["sigmoid", "sft"], True),
        (50.0, "ipo", False),
        (50.0, "sigmoid_norm", False),
    ],
)
def test_beta(beta: float, loss: str | list[str], warns: bool) -> None:
    assert codes(make_facts(objective={"beta": beta, "loss_type": loss})) == (["F796"] if warns else [])


@pytest.mark.parametrize(
    ("training", "warns"),
    [
        ({"warmup_ratio": 0.5, "max_steps": 100}, False),
        ({"warmup_ratio": 0.51, "max_steps": 100}, True),
        ({"warmup_ratio": 0.9, "max_steps": 100, "lr_scheduler": "constant"}, False),
        ({"warmup_ratio": 0.9, "max_steps": 100, "lr_scheduler": "constant_with_warmup"}, True),
        ({"warmup_ratio": 0.1, "max_steps": 2}, False),
        ({"warmup_ratio": 0.1, "max_steps": 1}, True),
        ({"warmup_ratio": 0.0, "max_steps": 1}, False),
        ({"warmup_steps": 50, "max_steps": 100}, False),
        ({"warmup_steps": 51, "max_steps": 100}, True),
        ({"warmup_steps": 0, "warmup_ratio": 0.9, "max_steps": 100}, False),
    ],
)
def test_warm_up(training: dict[str, Any], warns: bool) -> None:
    assert ("F797" in codes(make_facts(training=training))) == warns


def test_the_only_step_of_a_run_with_a_warm_up_has_half_of_the_rate() -> None:
    """transformers rounds the warm-up's share of the steps up: ceil(0.1 · 1) = 1, of which step 1 has 1 / 2."""
    warm_up = next(finding for finding in advise(make_facts(training={"max_steps": 1})) if finding.code == "F797")
    assert (warm_up.why or "").startswith("the only step has 1 / 2 of the learning rate")


def test_advice_on_a_number_of_warm_up_steps_names_it() -> None:
    training = {"max_steps": 100, "warmup_steps": 500}
    warm_up = next(finding for finding in advise(make_facts(training=training)) if finding.code == "F797")
    assert warm_up.at == ("training", "warmup_steps")
    assert warm_up.what == "the warm-up takes the whole run"
    assert (warm_up.fix or "").startswith("write `warmup_steps: 10`")


@pytest.mark.parametrize(
    ("eval_steps", "steps", "warns"),
    [(10, 10, True), (11, 10, True), (9, 10, False), ("epoch", 10, True), ("epoch", 1_000_000, False), (1, 1, True)],
)
def test_keep_best_with_no_evaluation_before_the_last_step(eval_steps: int | str, steps: int, warns: bool) -> None:
    facts = make_facts(training={"max_steps": steps, "eval_steps": eval_steps}, checkpoints={"keep_best": True})
    found = [finding for finding in advise(facts) if finding.code == "F799"]
    assert len(found) == warns
    if found:
        assert f"the run has {steps}" in (found[0].why or "")
    without = make_facts(training={"max_steps": steps, "eval_steps": eval_steps})
    assert not [finding for finding in advise(without) if finding.code == "F799"]


@pytest.mark.parametrize(
    ("training", "pairs", "evaluations", "warns"),
    [
        ({"eval_steps": 10}, 641, 4, False),  # 41 steps
        ({"eval_steps": 10}, 640, 3, True),  # the evaluation after step 40 is one after the last step
        ({"eval_steps": 10}, None, None, False),
        ({"eval_steps": "epoch", "max_steps": 81}, 320, 4, False),
        ({"eval_steps": "epoch", "max_steps": 80}, 320, 3, True),
        ({"eval_steps": 10, "max_steps": 30}, 640, 2, False),  # R397
        ({"eval_steps": "epoch", "num_epochs": 3.0}, 640, 2, False),  # R397
    ],
)
def test_early_stopping_within_the_run(
    training: dict[str, Any], pairs: int | None, evaluations: int | None, warns: bool
) -> None:
    facts = make_facts({"num_train_rows": pairs}, training={**training, "early_stopping": {"patience": 3}})
    assert facts.num_evaluations == evaluations
    assert ("F781" in codes(facts)) == warns
    assert "F781" not in codes(make_facts({"num_train_rows": pairs, "num_eval_rows": 0}, training=training))


@pytest.mark.parametrize(
    ("training", "pairs", "processes", "warns"),
    [
        ({"max_steps": 19}, 5000, 1, True),
        ({"max_steps": 20}, 5000, 1, False),
        ({}, 305, 1, False),  # 153 micro-batches of 2, of which 8 are a step: 19.1, and the rest is a step too
        ({}, 304, 1, True),
        ({}, 1217, 4, False),
        ({}, 1216, 4, True),
        ({"num_epochs": 2.0}, 304, 1, False),
        ({}, None, 1, False),
    ],
)
def test_few_steps(training: dict[str, Any], pairs: int | None, processes: int, warns: bool) -> None:
    known = {"num_train_rows": pairs, "num_processes": processes}
    assert codes(make_facts(known, training=training)) == (["F798"] if warns else [])
