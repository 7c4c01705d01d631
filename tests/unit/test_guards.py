"""Each guard fires on synthetic rows that go wrong and not on healthy ones; the page agrees with the guards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from minimal import MINIMAL

from dpo_recipes.error_codes import CODES
from dpo_recipes.errors import RecipeError
from dpo_recipes.guards import guard_classes
from dpo_recipes.guards.base import Guard, History, Job, Row, Sighting
from dpo_recipes.guards.chance import Chance
from dpo_recipes.guards.displacement import Displacement
from dpo_recipes.guards.length import Length
from dpo_recipes.guards.memorizing import Memorizing
from dpo_recipes.guards.non_finite import NonFinite
from dpo_recipes.guards.saturation import Saturation
from dpo_recipes.guards.spikes import Spikes
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.dpo import DpoParams
from dpo_recipes.recipe.validate import validate
from dpo_recipes.registry import OBJECTIVES
from dpo_recipes.resume import identity
from dpo_recipes.section import Section
from dpo_recipes.significance import difference_interval

PAGE = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")
GUARDS = guard_classes()


def job(kind: str = "dpo", **changes: Any) -> Job:
    objective = get_objective(kind)
    facts: dict[str, Any] = {"rows_per_step": 16, "num_eval_rows": 400, "chosen_tokens": 50.0, **changes}
    params = objective.params.model_validate({"kind": kind, **objective.starting_params})
    return Job(objective, params, **facts)


def trained(*losses: float, **values: Any) -> list[Row]:
    return [{"step": step, "loss": loss, "grad_norm": 1.0, **values} for step, loss in enumerate(losses, 1)]


def look(guard: Guard, rows: Iterable[Row], about: Job | None = None) -> tuple[int, Sighting] | None:
    """The step at which a guard fires for the first time, and what it saw."""
    history, about = History(), about or job()
    assert guard.watches(about)
    for row in rows:
        kind = history.add(row)
        if kind in guard.kinds and (seen := guard.look(about, history)) is not None:
            return row["step"], seen
    return None


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_the_page_has_what_the_guard_says(guard: type[Guard]) -> None:
    sources = ", ".join(f"[{source.name}]({source.url})" for source in guard.sources)
    assert f"| `{guard.name}` | {guard.code} | {guard.fires} | {guard.reason} | {sources} |" in PAGE
    assert guard.code in CODES
    assert GUARDS[guard.name] is guard


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_thresholds_named_in_the_page_are_fields(guard: type[Guard]) -> None:
    assert set(re.findall(r"\(`(\w+)`\)", guard.fires)) == set(guard.model_fields) - {"action"}


def test_a_recipe_names_guards_and_their_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + "guards: {spikes: {deviations: 5, action: stop}, non_finite: {action: off}}\n")
    section: Section = validate(path).recipe.guards
    assert section.model_dump()["spikes"] == {"action": "stop", "deviations": 5.0}
    assert section.model_dump()["non_finite"] == {"action": "off"}


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("{spike: {action: off}}", "R203", "did you mean `spikes`?"),
        ("{spikes: {deviation: 5}}", "R203", "did you mean `deviations`?"),
        ("{spikes: {action: halt}}", "R204", "choose one of these"),
        ("{spikes: {deviations: 0}}", "R206", "choose a value in that range"),
        ("{spikes: off}", "R205", "write its fields on indented lines below the key"),
    ],
)
def test_mistakes_in_the_section_have_their_place(tmp_path: Path, text: str, code: str, hint: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + f"guards: {text}\n")
    with pytest.raises(RecipeError) as caught:
        validate(path)
    (finding,) = caught.value.findings
    assert (finding.code, finding.fix) == (code, hint)
    assert finding.where is not None
    assert finding.where.line == len(MINIMAL.splitlines()) + 1


def test_only_guards_that_stop_make_it_another_run(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    plain, off, stop = (
        identity(validate(path, overrides).recipe)
        for overrides in ([], ["guards.spikes.action=off"], ["guards.spikes.action=stop"])
    )
    assert plain == off != stop


def test_rows_are_sorted_by_their_kind() -> None:
    history = History()
    rows = [
        {"step": 0, "eval_loss": 0.7},
        *trained(0.7, 0.6),
        {"step": 2, "eval_loss": 0.6},
        {"step": 2, "test_loss": 0},
    ]
    kinds = [history.add(row) for row in rows]
    assert kinds == ["evaluation", "training", "training", "evaluation", None]
    assert history.base == rows[0]
    assert [row["step"] for row in history.training_since_evaluation()] == [1, 2]


def test_a_gradient_norm_that_is_no_number_is_reported() -> None:
    rows = [*trained(0.7, 0.6), {"step": 3, "loss": 0.6, "grad_norm": None}]
    found = look(NonFinite(), rows)
    assert found is not None
    assert (found[0], found[1].what) == (3, "the gradient norm is not a finite number at step 3")
    assert look(NonFinite(), trained(0.7, 0.6)) is None
    assert look(NonFinite(), [{"step": 1, "loss": 0.7}]) is None  # without clipping there may be no norm


def test_steps_that_float16_leaves_out_are_normal_until_they_do_not_end() -> None:
    broken = [{"step": step, "loss": 0.7, "grad_norm": None} for step in range(1, 9)]
    assert look(NonFinite(), [*broken[:7], *trained(0.7)], job(dtype="float16")) is None
    found = look(NonFinite(), broken, job(dtype="float16"))
    assert found is not None
    assert (found[0], found[1].what) == (8, "the gradient norm is not a finite number at step 1")


def test_a_held_out_loss_that_is_no_number_is_reported() -> None:
    assert look(NonFinite(), [{"step": 0, "eval_loss": 0.7}]) is None
    found = look(NonFinite(), [{"step": 0, "eval_loss": 0.7}, {"step": 9, "eval_loss": None}])
    assert found is not None
    assert found[0] == 9


def noisy(count: int) -> list[Row]:
    """Losses around 0.5 with a deviation of 0.1, gradient norms around 2 with 0.2."""
    signs = [(-1) ** step for step in range(1, count + 1)]
    return [{"step": step, "loss": 0.5 + 0.1 * sign, "grad_norm": 2 + 0.2 * sign} for step, sign in enumerate(signs, 1)]


def test_a_spike_is_seven_deviations_above_the_rows_before() -> None:
    # The deviation of 40 alternating values is 0.1 √(40/39) = 0.1013, so the limit is 0.5 + 7 · 0.1013 = 1.209.
    calm = noisy(40)
    assert look(Spikes(), [*calm, {"step": 41, "loss": 1.20, "grad_norm": 2.0}]) is None
    found = look(Spikes(), [*calm, {"step": 41, "loss": 1.22, "grad_norm": 2.0}])
    assert found is not None
    assert found[0] == 41
    assert found[1].what == (
        "the training loss jumped to 1.22 at step 41; before, it was 0.5 ± 0.1 over 40 logged rows"
    )
    # Gradient norms are heavy-tailed: 19 is 84 deviations above the mean of 2, but less than 10 times that.
    assert look(Spikes(), [*calm, {"step": 41, "loss": 0.5, "grad_norm": 19.0}]) is None
    steep = look(Spikes(), [*calm, {"step": 41, "loss": 0.5, "grad_norm": 21.0}])
    assert steep is not None
    assert "gradient norm jumped to 21 at step 41" in steep[1].what
    assert look(Spikes(deviations=2), [*calm, {"step": 41, "loss": 0.75, "grad_norm": 2.0}]) is not None


def test_few_rows_and_tiny_losses_show_no_spike() -> None:
    assert look(Spikes(), [*noisy(19), {"step": 20, "loss": 9.0, "grad_norm": 99.0}]) is None
    learned = [*trained(0.69), *({"step": step, "loss": 0.001, "grad_norm": 0.01} for step in range(2, 120))]
    assert look(Spikes(), [*learned, {"step": 120, "loss": 0.05, "grad_norm": 0.05}]) is None
    assert look(Spikes(), [*learned, {"step": 120, "loss": 0.10, "grad_norm": 0.05}]) is not None


def test_the_loss_of_a_moving_reference_is_no_spike_and_no_saturation() -> None:
    """The loss returns to log 2 whenever the reference has moved."""
    moving = replace(job(), params=DpoParams(kind="dpo", sync_ref_model=True))
    jump = {"step": 41, "loss": 9.0, "grad_norm": 2.0}
    assert look(Spikes(), [*noisy(40), jump]) is not None
    assert look(Spikes(), [*noisy(40), jump], moving) is None
    assert look(Spikes(), [*noisy(40), {**jump, "grad_norm": 99.0}], moving) is not None
    assert not Saturation().watches(moving)


def evaluated(step: int, loss: float = 0.69, **values: float) -> Row:
    return {"step": step, "eval_loss": loss, **{f"eval_{key}": value for key, value in values.items()}}


def compared(step: int, logps: float, margin: float) -> Row:
    return evaluated(step, **{"logps/chosen": logps, "rewards/margins": margin})


def test_displacement_is_a_fall_per_token_while_the_margin_rises() -> None:
    """50 tokens of an answer, so a fall from -100 to -100.5 is 0.01 nats per token."""
    base = compared(0, -100.0, 0.0)
    assert look(Displacement(), [base, compared(5, -100.49, 0.3)]) is None
    assert look(Displacement(), [base, compared(5, -104.0, -0.1)]) is None  # the margin does not rise
    assert look(Displacement(), [base, compared(5, -96.0, 0.3)]) is None
    found = look(Displacement(), [base, compared(5, -100.2, 0.1), compared(10, -102.0, 0.3)])
    assert found is not None
    assert found[0] == 10
    assert found[1].what == (
        "the held-out log-probability of the chosen answer is 0.040 nats per token below that of the base at step 10, "
        "while the margin rose from 0.000 to 0.300: with 50 tokens, an answer is 0.14 times as likely"  # exp(-2)
    )
    assert look(Displacement(nats_per_token=0.05), [base, compared(10, -102.0, 0.3)]) is None
    assert look(Displacement(), [compared(10, -102.0, 0.3)]) is None  # without an evaluation of the base


def test_displacement_does_not_divide_means_over_tokens_again() -> None:
    rows = [compared(0, -2.0, 0.0), compared(5, -2.02, 0.3)]
    assert look(Displacement(), rows, job("simpo")) is not None
    assert look(Displacement(), rows, job("dpo")) is None


def test_displacement_needs_answers_that_are_compared() -> None:
    assert not Displacement().watches(job("sft"))
    assert not Displacement().watches(job("reward"))
    assert not Displacement().watches(job(chosen_tokens=None))
    assert Displacement().watches(job("kto"))


def saturated(share: float, *held_out: float) -> list[Row]:
    rows: list[Row] = [evaluated(0)]
    for number, loss in enumerate(held_out, 1):
        rows += [{"step": 2 * number, "loss": 0.1, "rewards/saturated": share}, evaluated(2 * number, loss)]
    return rows


def test_saturation_needs_many_saturated_pairs_and_a_rising_loss() -> None:
    assert look(Saturation(), saturated(0.9, 0.6, 0.5)) is None
    assert look(Saturation(), saturated(0.4, 0.5, 0.6)) is None
    found = look(Saturation(), saturated(0.9, 0.5, 0.505, 0.52))
    assert found is not None
    assert found[0] == 6
    assert found[1].what == (
        "90% of the training pairs since the last evaluation have a reward margin above 4 at step 6, and the held-out "
        "loss has risen from 0.500 to 0.520"
    )
    assert look(Saturation(saturated_share=0.95), saturated(0.9, 0.5, 0.52)) is None
    assert look(Saturation(loss_rise=0.1), saturated(0.9, 0.5, 0.52)) is None


def test_saturation_is_a_matter_of_logistic_losses() -> None:
    with_likelihood = Job(
        get_objective("dpo"), get_objective("dpo").params(kind="dpo", loss_type=["sigmoid", "sft"]), 16
    )
    assert not Saturation().watches(with_likelihood)
    watching = [kind for kind in OBJECTIVES if Saturation().watches(job(kind))]
    assert watching == ["dpo", "reward", "simpo"]  # cpo has the likelihood of the chosen answer in its loss


def ranked(train: float, held_out: float) -> list[Row]:
    accuracy = {"rewards/accuracies": train}
    return [
        evaluated(0, **{"rewards/accuracies": 0.0}),
        *({"step": step, "loss": 0.5, **accuracy} for step in (5, 10)),
        evaluated(10, **{"rewards/accuracies": held_out}),
    ]


def test_memorizing_is_a_gap_that_chance_does_not_explain() -> None:
    """10 steps of 16 pairs are 160 training pairs."""
    assert look(Memorizing(), ranked(0.7, 0.65)) is None
    found = look(Memorizing(), ranked(0.95, 0.6))
    assert found is not None
    low, high = difference_interval(0.95, 160, 0.6, 400)
    assert found[1].what == (
        "95% of the training pairs are ranked right and 60% of the held-out ones at step 10: 35 points less "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f})"
    )
    assert look(Memorizing(gap=0.4), ranked(0.95, 0.6)) is None
    assert look(Memorizing(), ranked(0.9, 0.6), job(num_eval_rows=4)) is None  # four pairs show no gap of 30 points


def test_memorizing_weighs_training_rows_by_their_steps() -> None:
    rows: list[Row] = [
        {"step": 1, "loss": 0.5, "rewards/accuracies": 0.0},
        {"step": 10, "loss": 0.5, "rewards/accuracies": 1.0},
        evaluated(10, **{"rewards/accuracies": 0.6}),
    ]
    found = look(Memorizing(), rows)
    assert found is not None
    assert found[1].what.startswith("90% of the training pairs")


def test_an_accuracy_is_compared_with_guessing_after_enough_pairs() -> None:
    def at(step: int, accuracy: float) -> list[Row]:
        return [evaluated(0), evaluated(step, **{"rewards/accuracies": accuracy})]

    assert look(Chance(), at(31, 0.5)) is None  # 496 pairs
    assert look(Chance(), at(32, 0.6)) is None  # of 400 pairs, 0.551 to 0.647
    found = look(Chance(), at(32, 0.54))
    assert found is not None
    assert found[1].what == (
        "54.0% of 400 held-out pairs are ranked right at step 32, after 512 training pairs: the 95 % interval, 49.1% "
        "to 58.8%, does not tell it from guessing (50%)"
    )
    worse = look(Chance(), at(32, 0.3))
    assert worse is not None
    assert "is below guessing" in worse[1].what
    assert look(Chance(after_rows=10), at(1, 0.54)) is not None


def test_ranking_guards_need_pairs_and_held_out_rows() -> None:
    for guard in (Memorizing(), Chance()):
        assert guard.watches(job("reward"))
        assert not guard.watches(job("kto"))
        assert not guard.watches(job("sft"))
        assert not guard.watches(job(num_eval_rows=0))


def correlated(step: int, correlation: float) -> Row:
    return {**evaluated(step), "eval_length_correlation": correlation}


def test_a_margin_that_depends_on_length_is_reported_if_the_data_do_not_teach_it() -> None:
    similar = job(length_ratio=1.2)
    assert look(Length(), [correlated(0, 0.9), correlated(5, 0.6)], similar) is None
    found = look(Length(), [correlated(5, 0.6), correlated(10, 0.75)], similar)
    assert found is not None
    assert found[1].what == (
        "the margin of a held-out pair depends on how much longer the chosen answer is: their correlation is 0.75 at "
        "step 10, although chosen answers have 1.20 times the length of rejected ones on average"
    )
    negative = look(Length(), [correlated(5, -0.75)], similar)
    assert negative is not None
    assert "how much shorter the chosen answer is" in negative[1].what
    assert look(Length(), [correlated(5, -0.95)], job(length_ratio=0.4)) is None  # short answers are the purpose
    assert look(Length(), [correlated(5, 0.95)], job(length_ratio=1.2, num_eval_rows=20)) is None
    assert look(Length(correlation=0.8), [correlated(5, 0.75)], similar) is None


def answered(base: float, tuned: float, prompts: int = 12) -> list[Row]:
    words = {"base": base, "tuned": tuned, "prompts": prompts}
    return [{"step": 20, **{f"answer_words/{name}": value for name, value in words.items()}}]


@pytest.mark.parametrize(
    ("ratio", "base", "tuned", "fires"),
    [
        (1.0, 40.0, 59.0, False),  # 1.475 times
        (1.0, 40.0, 61.0, True),
        (1.2, 40.0, 71.0, False),  # 1.2 · 1.5 = 1.8 times
        (1.2, 40.0, 73.0, True),
        (0.4, 100.0, 30.0, False),  # 0.4 / 1.5 = 0.267
        (0.4, 100.0, 26.0, True),
        (0.4, 100.0, 100.0, False),  # it has not learned to be brief, but no length is wrong
        (0.4, 100.0, 151.0, True),
        (1.0, 0.0, 10.0, False),
    ],
)
def test_answers_may_change_as_the_data_teach(ratio: float, base: float, tuned: float, fires: bool) -> None:
    found = look(Length(), answered(base, tuned), job(length_ratio=ratio))
    assert (found is not None) == fires
    if found is not None:
        assert found[1].what.startswith(f"answers to 12 prompts went from {base:.1f} to {tuned:.1f} words")


def test_few_prompts_show_no_change_of_length() -> None:
    assert look(Length(), answered(40, 100, prompts=7), job(length_ratio=1.0)) is None
    assert not Length().watches(job("sft"))
    assert not Length().watches(job("reward", length_ratio=1.0))
