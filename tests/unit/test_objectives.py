"""The objectives' checks and advice, and what the other rooms ask them about."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dpo_recipes.data.mismatched import mismatched_rows
from dpo_recipes.errors import Finding, Where
from dpo_recipes.objectives import cpo, dpo, generation, grpo, kto, orpo, reward, rloo, sft
from dpo_recipes.objectives.base import Advice, Objective, RowCounts
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.recipe.schema import Recipe

VLLM = {"backend": "vllm"}
OBJECTIVES = [
    *(dpo.OBJECTIVE, orpo.OBJECTIVE, cpo.CPO, cpo.SIMPO, kto.OBJECTIVE, sft.OBJECTIVE, reward.OBJECTIVE),
    *(rloo.OBJECTIVE, grpo.OBJECTIVE),
]


def make_recipe(objective: Objective, params: dict[str, Any] | None = None, **sections: Any) -> Any:
    """A recipe of an objective that is not looked up by its kind."""
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "job",
            "model": {"path": "gpt2"},
            "data": {"train": [{"path": "rows.jsonl"}], **sections.pop("data", {})},
            "objective": objective.params.model_validate(
                {"kind": objective.kind, **objective.starting_params, **(params or {})}
            ),
            **sections,
        }
    )


def where(path: tuple[str | int, ...], *, key: bool = False) -> Where:
    return Where(f"{'key ' if key else ''}{'.'.join(map(str, path))}")


def check(objective: Objective, params: dict[str, Any] | None = None, **sections: Any) -> list[Finding]:
    return list(objective.check(make_recipe(objective, params, **sections), where))


def advise(good: int | None, bad: int | None, **params: float) -> list[Advice]:
    return list(kto.OBJECTIVE.advise(make_recipe(kto.OBJECTIVE, params), RowCounts(None, good, bad)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.kind)
def test_an_objective_describes_itself(objective: Objective) -> None:
    params = objective.params.model_validate({"kind": objective.kind, **objective.starting_params})
    keys = [metric.key for metric in objective.metrics]
    assert objective.metrics[0] is LOSS
    assert len(set(keys)) == len(keys)
    assert objective.best_metric in keys
    assert {metric.key: metric.higher_is_better for metric in objective.metrics}[objective.best_metric] is not None
    assert any(metric.is_shown_live for metric in objective.metrics)
    rates = objective.learning_rates(params)
    assert rates is not None
    for rate_range in (rates.full, rates.lora):
        assert rate_range.low < rate_range.start < rate_range.high
    assert check(objective) == []


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.kind)
def test_every_parameter_has_a_default_and_a_description(objective: Objective) -> None:
    for name, field in objective.params.model_fields.items():
        assert name in ("kind", *objective.starting_params) or not field.is_required()
        assert field.description, name


@pytest.mark.parametrize(
    ("objective", "params", "title"),
    [
        (orpo.OBJECTIVE, {}, "ORPO"),
        (cpo.CPO, {"loss_type": "ipo"}, "CPO (ipo)"),
        (cpo.SIMPO, {}, "SimPO (sigmoid)"),
        (cpo.SIMPO, {"cpo_alpha": 1.0}, "CPO-SimPO (sigmoid)"),
        (cpo.SIMPO, {"alpha": 0.25}, "AlphaPO (sigmoid)"),
        (kto.OBJECTIVE, {}, "KTO"),
        (kto.OBJECTIVE, {"loss_type": "apo_zero_unpaired"}, "KTO (APO-zero, unpaired)"),
        (sft.OBJECTIVE, {}, "SFT"),
        (rloo.OBJECTIVE, {}, "RLOO"),
        (grpo.OBJECTIVE, {"loss_type": "dr_grpo"}, "GRPO (dr_grpo)"),
        (reward.OBJECTIVE, {}, "Reward model (Bradley-Terry)"),
    ],
)
def test_the_title_names_the_variant(objective: Objective, params: dict[str, Any], title: str) -> None:
    assert objective.title(make_recipe(objective, params).objective) == title


def test_what_a_row_costs() -> None:
    shapes = {}
    for objective in OBJECTIVES:
        shapes[objective.kind] = objective.batch_shape(make_recipe(objective).objective).num_answers
    assert shapes == {"dpo": 2, "orpo": 2, "cpo": 2, "simpo": 2, "kto": 2, "sft": 1, "reward": 2, "rloo": 4, "grpo": 4}
    unpaired = make_recipe(kto.OBJECTIVE, {"loss_type": "apo_zero_unpaired"}).objective
    assert kto.OBJECTIVE.batch_shape(unpaired).num_answers == 1
    assert orpo.OBJECTIVE.batch_shape(make_recipe(orpo.OBJECTIVE, {"nll_on_prompt": True}).objective).scores_prompt


def test_only_kto_adds_mismatched_answers_and_only_with_a_kl_estimate() -> None:
    adding = [each.kind for each in OBJECTIVES if each.adds_mismatched_answer(make_recipe(each).objective)]
    assert adding == ["kto"]
    unpaired = make_recipe(kto.OBJECTIVE, {"loss_type": "apo_zero_unpaired"}).objective
    assert not kto.OBJECTIVE.adds_mismatched_answer(unpaired)
    assert not kto.OBJECTIVE.couples_batch(unpaired)


def test_a_moving_reference_is_part_of_what_readers_are_told() -> None:
    frozen, live = (make_recipe(dpo.OBJECTIVE, {"sync_ref_model": moves}).objective for moves in (False, True))
    assert (dpo.OBJECTIVE.reference(frozen), dpo.OBJECTIVE.reference(live)) == ("frozen", "live")
    assert dpo.OBJECTIVE.describe_metrics(frozen) == dpo.OBJECTIVE.metrics_note
    assert dpo.OBJECTIVE.describe_metrics(live).endswith("over the last reference and not over the base.")


def test_simpo_averages_tokens_only_with_a_log_likelihood() -> None:
    assert not cpo.SIMPO.averages_tokens(make_recipe(cpo.SIMPO).objective)
    assert cpo.SIMPO.averages_tokens(make_recipe(cpo.SIMPO, {"cpo_alpha": 0.5}).objective)
    assert not cpo.CPO.averages_tokens(make_recipe(cpo.CPO, {"cpo_alpha": 0.0}).objective)


@pytest.mark.parametrize(
    ("objective", "params", "sections", "code", "at"),
    [
        (kto.OBJECTIVE, {}, {"training": {"micro_batch_size": 1}}, "R351", "training.micro_batch_size"),
        (
            kto.OBJECTIVE,
            {"desirable_weight": 0.0, "undesirable_weight": 0.0},
            {},
            "R352",
            "objective.desirable_weight",
        ),
        (cpo.CPO, {"loss_type": "ipo", "label_smoothing": 0.1}, {}, "R313", "key objective.label_smoothing"),
        (cpo.SIMPO, {"loss_type": "hinge", "label_smoothing": 0.1}, {}, "R313", "key objective.label_smoothing"),
        (reward.OBJECTIVE, {}, {"evaluation": {"num_samples": 8}}, "R327", "key evaluation.num_samples"),
        (reward.OBJECTIVE, {}, {"evaluation": {"max_new_tokens": 64}}, "R327", "key evaluation.max_new_tokens"),
        (reward.OBJECTIVE, {}, {"data": {"train_on_turns": "all"}}, "R327", "key data.train_on_turns"),
        (rloo.OBJECTIVE, {"rewards": [{"rule": "json", "weight": 0.0}]}, {}, "R389", "key objective.rewards"),
        (grpo.OBJECTIVE, {"reward_clip_range": [1.0, 1.0]}, {}, "R389", "objective.reward_clip_range"),
        (rloo.OBJECTIVE, {"max_new_tokens": 1020}, {}, "R395", "key objective.max_new_tokens"),
        (grpo.OBJECTIVE, {}, {"data": {"overlong": "truncate_completion_end"}}, "R327", "data.overlong"),
        (rloo.OBJECTIVE, {}, {"data": {"train_on_turns": "last"}}, "R327", "key data.train_on_turns"),
        (rloo.OBJECTIVE, {}, {"launch": {"strategy": "fsdp"}}, "R391", "launch.strategy"),
        (rloo.OBJECTIVE, {}, {"launch": {"strategy": "deepspeed-zero3"}}, "R391", "launch.strategy"),
        (rloo.OBJECTIVE, {"generation": {"sleep": True}}, {}, "R327", "key objective.generation.sleep"),
        (
            rloo.OBJECTIVE,
            {"generation": {**VLLM, "group_port": 5000}},
            {},
            "R327",
            "key objective.generation.group_port",
        ),
        (
            rloo.OBJECTIVE,
            {"generation": {**VLLM, "server": "http://there:8000", "gpu_memory_utilization": 0.5}},
            {},
            "R327",
            "key objective.generation.gpu_memory_utilization",
        ),
        (rloo.OBJECTIVE, {"generation": VLLM}, {"hardware": {"device": "cpu"}}, "R400", "hardware.device"),
        (rloo.OBJECTIVE, {"generation": VLLM}, {"hardware": {"profile": "cpu"}}, "R400", "hardware.profile"),
        (
            grpo.OBJECTIVE,
            {"generation": VLLM},
            {"model": {"path": "gpt2", "quantization": {"bits": 4}}},
            "R400",
            "key model.quantization",
        ),
        (
            grpo.OBJECTIVE,
            {"generation": VLLM},
            {"model": {"path": "pypi:llm==0.1/model.gguf"}},
            "R400",
            "model.path",
        ),
        (
            grpo.OBJECTIVE,
            {"generation": VLLM, "top_p": 0.9},
            {},
            "R400",
            "objective.generation.importance_sampling",
        ),
        (
            rloo.OBJECTIVE,
            {"generation": {**VLLM, "importance_sampling": "token_mask"}},
            {},
            "R400",
            "objective.generation.importance_sampling",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    objective: Objective, params: dict[str, Any], sections: dict[str, Any], code: str, at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(generation, "has_vllm", lambda: True)
    (finding,) = check(objective, params, **sections)
    assert finding.code == code
    assert finding.where == Where(at)
    assert finding.why
    assert finding.fix


def test_settings_that_fit_are_accepted() -> None:
    one_row = {"training": {"micro_batch_size": 1}}
    assert check(kto.OBJECTIVE, {"loss_type": "apo_zero_unpaired"}, **one_row) == []
    assert check(kto.OBJECTIVE, {"undesirable_weight": 0.0}) == []
    assert check(cpo.CPO, {"label_smoothing": 0.1}) == []
    assert check(reward.OBJECTIVE, evaluation={"num_samples": 0, "max_new_tokens": 64}) == []
    assert check(sft.OBJECTIVE, data={"train_on_turns": "all"}, **one_row) == []
    two = {"num_processes": 2, "strategy": "ddp"}
    assert check(grpo.OBJECTIVE, {"num_iterations": 2}, launch=two) == []
    (finding,) = check(grpo.OBJECTIVE, {"generation": {**VLLM, "server": "http://there:8000", "group_port": 5000}})
    assert finding.code == "R316"


@pytest.mark.parametrize(
    ("good", "bad", "weights"),
    [
        (None, None, {}),
        (100, 100, {}),
        (133, 100, {}),
        (100, 400, {"desirable_weight": 4.0}),
        (100, 400, {"desirable_weight": 5.33}),
        (400, 100, {"undesirable_weight": 3.0}),
        (300, 100, {"undesirable_weight": 2.25}),
    ],
)
def test_balanced_weights_get_no_advice(good: int | None, bad: int | None, weights: dict[str, float]) -> None:
    assert advise(good, bad, **weights) == []


@pytest.mark.parametrize(
    ("good", "bad", "key", "fix"),
    [
        (100, 400, "desirable_weight", "write `desirable_weight: 4`, at most 5.33"),
        (400, 100, "undesirable_weight", "write `undesirable_weight: 4`, at least 3"),
        (90, 100, "desirable_weight", "write `desirable_weight: 1.11`, at most 1.48"),
    ],
)
def test_unbalanced_classes_are_reported_with_the_weight_that_balances_them(
    good: int, bad: int, key: str, fix: str
) -> None:
    (advice,) = advise(good, bad)
    assert advice.code == "F780"
    assert advice.at == ("objective", key)
    assert advice.fix == fix
    weight = float(fix.split(": ")[1].split("`", maxsplit=1)[0])
    assert advise(good, bad, **{key: weight}) == []


def test_a_single_class_is_an_error_of_the_data_and_no_advice() -> None:
    assert advise(50, 0) == advise(0, 50) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "prompts",
    [
        ["a", "b"],
        ["a", "a", "b", "b"],
        ["a", "a", "a", "b", "c", "d"],
        [row // 2 for row in range(1001)],
        list(range(7)),
    ],
)
def test_a_mismatched_answer_is_one_to_another_prompt(prompts: list[Any], seed: int) -> None:
    partners = mismatched_rows(prompts, seed)
    assert sorted(partners) == list(range(len(prompts)))
    assert all(prompts[row] != prompts[partner] for row, partner in enumerate(partners))


@pytest.mark.parametrize("prompts", [["a", "a"], ["a"] * 5, ["a"] * 5 + ["b"], ["a"] * 4 + ["b", "c"]])
def test_a_prompt_with_most_rows_is_still_never_paired_with_the_same_row(prompts: list[str]) -> None:
    """As many rows as possible get the answer of another prompt: both those of the others and as many of the first."""
    for seed in range(5):
        partners = mismatched_rows(prompts, seed)
        assert sorted(partners) == list(range(len(prompts)))
        assert all(row != partner for row, partner in enumerate(partners))
        mismatched = sum(prompts[row] != prompts[partner] for row, partner in enumerate(partners))
        assert mismatched == 2 * (len(prompts) - max(Counter(prompts).values()))


def test_the_pairing_depends_on_the_seed_and_needs_two_rows() -> None:
    prompts = list(range(50))
    assert mismatched_rows(prompts, 1) == mismatched_rows(prompts, 1)
    assert mismatched_rows(prompts, 1) != mismatched_rows(prompts, 2)
    with pytest.raises(ValueError, match="at least two rows"):
        mismatched_rows(["a"], 1)
