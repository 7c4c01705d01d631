"""A step of a chain that evaluates what other steps made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.cli.chain_text import describe_chain
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.evaluate.result import EvaluationResult, SampleResult
from dpo_recipes.finished_run import open_run
from dpo_recipes.jobs.chain import run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.steps import evaluate, sample, train
from dpo_recipes.recipe.schema.data import Data, Source
from dpo_recipes.recipe.schema.sample import Sample

STEPS = """\
schema: 1
name: tiny
steps:
  dpo: {recipe: base.yaml}
  judge:
    recipe: base.yaml
    objective: {kind: reward}
    set: {evaluation.num_samples: 0}
  compare:
    kind: evaluate
    models: ["step:dpo"]
    against: base
    rewards: [{model: "step:judge", name: judge}]
    generate: {max_new_tokens: 8}
    kl_prompts: 2
"""
ROUNDS = """\
schema: 1
name: rounds
steps:
  samples:
    kind: sample
    models: [{base}]
    data: base.yaml
    answers: 3
    generate: {{temperature: 1.0, max_new_tokens: 12}}
    rewards: [{{rule: regex, pattern: "[aeiou]", count: 20}}]
    cut_off: keep
  again:
    recipe: base.yaml
    set: {{data.train: [{{path: "step:samples"}}]}}
"""


@pytest.fixture
def chain(tiny_model: Path, tmp_path: Path, steps_here: None) -> Path:
    """The file of a chain whose steps are executed in this process."""
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"))
    (tmp_path / "base.yaml").write_text(text, encoding="utf-8")
    path = tmp_path / "chain.yaml"
    path.write_text(STEPS, encoding="utf-8")
    return path


def _validate(path: Path, *overrides: str) -> ValidatedChain:
    validated = validate_file(path, [f"output_dir={path.parent / 'runs'}", *overrides])
    assert isinstance(validated, ValidatedChain)
    return validated


def test_models_of_steps_are_judged_by_the_reward_model_of_another_step(chain: Path) -> None:
    finished = run_chain(_validate(chain), lambda event: None)
    step = next(step for step in finished.result.steps if step.name == "compare")
    assert (step.state, step.makes, step.work) == ("finished", "scores", "1 model, against base")
    assert step.needs == {"models[0]": "dpo", "rewards[0].model": "judge"}
    result = EvaluationResult.read(finished.directory.path / str(step.directory) / "result.json")
    assert [model.name for model in result.models] == ["dpo", "base"]
    assert set(result.comparisons[0].win_rates) == {"judge"}
    (figure,) = step.figures
    assert figure.label == "Mean reward (judge)"
    assert figure.base_value == result.models[1].metrics["reward/judge"].value
    page = finished.directory.report.read_text(encoding="utf-8")
    verdict = "Mean reward (judge) of dpo and base: "
    for text in (
        verdict,
        "Values on the same prompts",
        "Win-rate over base",
        "Implicit reward accuracy",
        "dpo on the held-out",
    ):
        assert text in page
    shown = "\n".join(describe_chain(finished.result, finished.directory))
    assert "compare: values on the same prompts" in shown
    assert verdict in shown


def test_only_an_evaluation_whose_inputs_have_changed_is_done_again(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_chain(_validate(chain), lambda event: None)
    directories = {step.name: step.directory for step in first.result.steps}
    monkeypatch.setattr(train, "run_recipe", lambda *arguments, **options: pytest.fail("it is trained again"))
    batch = "steps.compare.generate={max_new_tokens: 8, batch_size: 2}"
    same = run_chain(_validate(chain, batch), lambda event: None)
    assert {step.name: step.directory for step in same.result.steps} == directories
    other = run_chain(_validate(chain, "steps.compare.limit=3"), lambda event: None)
    changed = {step.name for step in other.result.steps if step.directory != directories[step.name]}
    assert changed == {"compare"}


@pytest.mark.parametrize(
    ("override", "code", "text"),
    [
        ("steps.compare.models=[step:judge]", "R373", "models[0]"),
        ("steps.compare.against=step:nobody", "R371", "nobody"),
        ("steps.compare.modles=[a]", "R203", "did you mean `models`"),
        ("steps.compare.generate={top_p: 2}", "R206", "top_p"),
        ("steps.compare.rewards=[{rule: regex, pattern: '('}]", "R388", "("),
    ],
)
def test_what_is_wrong_with_a_step_is_found_before_anything_starts(
    chain: Path, override: str, code: str, text: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        _validate(chain, override)
    assert caught.value.findings[0].code == code
    assert caught.value.findings[0].where is not None
    assert text in str(caught.value)


def test_answers_are_ranked_by_their_rewards_and_trained_on(chain: Path, tiny_model: Path) -> None:
    """Each row has the best and the worst of three answers with their scores, and the next step learns from them."""
    chain.write_text(ROUNDS.format(base=tiny_model), encoding="utf-8")
    finished = run_chain(_validate(chain), lambda event: None)
    samples, again = finished.result.steps
    assert (samples.makes, samples.work) == ("data", "3 answers of a model to each prompt")
    result = SampleResult.read(finished.directory.path / str(samples.directory) / "result.json")
    rows = _lines(finished.directory.path / str(samples.product))
    assert len(rows) == result.num_rows == result.num_prompts - sum(result.left_out.values())
    assert result.num_prompts == 18
    for row in rows:
        for name in ("chosen", "rejected"):
            vowels = sum(letter in "aeiou" for letter in row[name][0]["content"])
            assert row[f"score_{name}"] == pytest.approx(min(20, vowels) / 20)
            assert row[f"model_{name}"] == "model"
        assert row["score_chosen"] > row["score_rejected"]
        assert "pairs.jsonl:" in row["where"]
    answers = _lines(finished.directory.path / str(samples.directory) / "answers.jsonl")
    _check_summary(result, answers)
    report = (finished.directory.path / str(samples.directory) / "report.html").read_text(encoding="utf-8")
    assert f"54 answers to 18 prompts of {chain.parent / 'base.yaml'}" in report
    assert report.count("<article") == min(12, len(rows))
    assert "The best and the worst answer of each row" in finished.directory.report.read_text(encoding="utf-8")
    trained = open_run(finished.directory.path / str(again.directory))
    assert trained.recipe.data.train[0].path == str(finished.directory.path / str(samples.product))
    report = json.loads(trained.run.data_report.read_text(encoding="utf-8"))["splits"]
    assert report["train"]["rows_kept"] + report["eval"]["rows_kept"] == len(rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _check_summary(result: SampleResult, answers: list[dict[str, Any]]) -> None:
    """The numbers of a result are those of the answers that were written."""
    assert result.num_answers == sum(len(line["answers"]) for line in answers) == 54
    (model,) = result.models
    every = [one for line in answers for one in line["answers"]]
    rewards = [one["rewards"]["regex"] for one in every]
    assert model.rewards["regex"].value == pytest.approx(sum(rewards) / len(rewards))
    assert model.tokens is not None
    assert model.tokens.value == pytest.approx(sum(one["tokens"] for one in every) / len(every))
    kept = [[one for one in line["answers"] if one["rank"]] for line in answers if line["left_out"] is None]
    assert len(kept) == result.num_rows
    best = [min(line, key=lambda one: one["rank"]) for line in kept]
    worst = [max(line, key=lambda one: one["rank"]) for line in kept]
    for end, found, others in ((result.best, best, worst), (result.worst, worst, best)):
        assert end is not None
        assert end.rewards["regex"].value == pytest.approx(sum(one["rewards"]["regex"] for one in found) / len(found))
        longer = [one["tokens"] > other["tokens"] for one, other in zip(found, others, strict=True)]
        assert end.longer is not None
        assert end.longer.value == pytest.approx(sum(longer) / len(longer))


def test_all_answers_of_several_models_are_written_with_ranks(chain: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Near ties share the first rank, and prompts whose answers all tie are left out."""
    section = Sample.model_validate(
        {
            "models": [str(tiny_model)],
            "data": str(write_pairs(tmp_path / "more.jsonl", 6)),
            "answers": 4,
            "generate": {"temperature": 1.0, "max_new_tokens": 12},
            "rewards": [{"rule": "regex", "pattern": "[aeiou]", "count": 20}],
            "keep": "all",
            "min_difference": 0.06,
            "cut_off": "keep",
        }
    )
    result = sample.KIND.compute(section, tmp_path / "samples", lambda event: None, trust_remote_code=False)
    data = Data(train=[Source(path=str(tmp_path / "samples" / "samples.jsonl"))])
    rows = [json.loads(line) for line in Path(data.train[0].path).read_text().splitlines()]
    assert len(rows) == result.num_rows
    for row in rows:
        scores = [answer["score"] for answer in row["answers"]]
        assert scores == sorted(scores, reverse=True)
        ranks = [answer["rank"] for answer in row["answers"]]
        assert ranks == [1 if scores[0] - score <= 0.06 else place + 1 for place, score in enumerate(scores)]
        assert scores[0] - scores[-1] > 0.06
    pairs = load_rows(data, 0).train
    assert len(pairs) == sum(answer["rank"] > 1 for row in rows for answer in row["answers"])


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("steps.samples.generate.temperature=0", "all equal"),
        ("steps.samples.answers=1", "one answer to each prompt"),
    ],
)
def test_answers_that_cannot_be_ranked_are_found_before_anything_starts(
    chain: Path, tiny_model: Path, override: str, text: str
) -> None:
    chain.write_text(ROUNDS.format(base=tiny_model), encoding="utf-8")
    with pytest.raises(RecipeError, match=text) as caught:
        _validate(chain, override)
    assert caught.value.findings[0].code == "R377"


def test_prompts_whose_answers_all_tie_are_an_error(chain: Path, tiny_model: Path, tmp_path: Path) -> None:
    section = Sample.model_validate(
        {
            "models": [str(tiny_model)],
            "data": str(write_pairs(tmp_path / "more.jsonl", 2)),
            "answers": 2,
            "generate": {"temperature": 1.0, "max_new_tokens": 4},
            "rewards": [{"rule": "length", "max": 1000}],
            "cut_off": "keep",
        }
    )
    with pytest.raises(RunError, match=r"T686(.|\n)*tie"):
        sample.KIND.compute(section, tmp_path / "samples", lambda event: None, trust_remote_code=False)
    cut = section.model_copy(update={"cut_off": "drop"})
    with pytest.raises(RunError, match=r"T686(.|\n)*max_new_tokens"):
        sample.KIND.compute(cut, tmp_path / "samples", lambda event: None, trust_remote_code=False)


def test_a_missing_library_is_found_before_another_step_trains(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "is_installed", lambda module: module != "rouge_score")
    validated = _validate(chain)
    (warning,) = (finding for finding in validated.warnings if finding.code == "R316")
    assert warning.what == "rouge-score is not installed"
    assert warning.where is not None
    assert warning.where.line == 9  # the step `compare`, which does not write `overlap`
    monkeypatch.setattr(train, "run_recipe", lambda *arguments, **options: pytest.fail("a step has begun"))
    with pytest.raises(RecipeError, match="R316"):
        run_chain(validated, lambda event: None)
    assert not any(finding.code == "R316" for finding in _validate(chain, "steps.compare.overlap=false").warnings)


def test_a_function_of_a_step_must_be_allowed(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def score(prompts, answers):\n    return [0.0] * len(answers)\n")
    validated = _validate(chain, f"steps.compare.rewards=[{{function: '{tmp_path / 'judge.py'}:score'}}]")
    with pytest.raises(RecipeError, match="R386"):
        run_chain(validated, lambda event: None)
