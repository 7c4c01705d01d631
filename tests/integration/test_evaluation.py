"""Evaluations of runs and other models: exact values, batches, restarts, kinds of models, and bad input."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CHROMIUM, assert_printable, assert_readable
from tiny import make_tokenizer, recipe_text, save_tiny_model, write_pairs

from dpo_recipes import worker
from dpo_recipes.cache import cache_folder
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.evaluate import generation, speak
from dpo_recipes.evaluate.execute import execute_evaluation
from dpo_recipes.evaluate.generation import Prompt, SeededChoice, Speaker, generate
from dpo_recipes.evaluate.logps import Continuation, sum_logps
from dpo_recipes.evaluate.models import ModelFinder, implicit_beta
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.evaluate.rows import read_as, read_rows
from dpo_recipes.evaluation_run import evaluation_directory, run_evaluation
from dpo_recipes.events import EventLog
from dpo_recipes.finished_run import open_run
from dpo_recipes.preparation import prepare_run
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.evaluate import Evaluate, Generate
from dpo_recipes.recipe.validate import validate
from dpo_recipes.report.evaluation_page import render_evaluation
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.rewards.base import RewardContext
from dpo_recipes.rewards.model_reward import load_reward_model
from dpo_recipes.run_dir import RunDirectory, read_json_lines

SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Callable[..., Path]]:
    """Trains a run for a few steps in this process and returns its directory."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = write_pairs(folder / "pairs.jsonl")

    def make(adapter: str = "{kind: lora, r: 4}", *overrides: str, extra: str = "") -> Path:
        path = folder / "recipe.yaml"
        path.write_text(recipe_text(tiny_model, pairs, extra, adapter), encoding="utf-8")
        validated = validate(path, [f"output_dir={folder}", *overrides])
        run = prepare_run(validated)[0].run
        assert worker.main([str(run.path)]) == 0, run.events.read_text()
        return run.path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_RECIPE_CACHE", str(folder / "cache"))
        yield make


@pytest.fixture(scope="module")
def lora_run(make_run: Callable[..., Path]) -> Path:
    return make_run()


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., EvaluationResult]:
    """Evaluates in this process."""

    def run(*models: Path | str, allowed: Sequence[str] = (), **settings: Any) -> EvaluationResult:
        section = Evaluate.model_validate({"models": list(map(str, models)), "generate": SHORT, **settings})
        file = tmp_path / "answers.jsonl"
        with EventLog(tmp_path / "events.jsonl") as events:
            return execute_evaluation(section, file, events, trust_remote_code=False, reward_functions=allowed)

    return run


def test_a_run_against_its_base_has_the_values_of_its_training_and_all_others(
    lora_run: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    """Reward accuracy and margin are those that the training measured at its end on the same rows."""
    result = evaluated(lora_run, against="base")
    tuned, base = result.models
    trained = open_run(lora_run).result.metrics
    assert result.num_prompts == 6
    assert tuned.metrics["rewards/accuracies"].value == trained["eval_rewards/accuracies"]
    assert tuned.metrics["rewards/margins"].value == pytest.approx(trained["eval_rewards/margins"], abs=1e-5)
    assert (tuned.base, tuned.beta, base.name, base.base) == ("base of tiny", 0.1, "base", None)
    common = {
        "likelihood_accuracy", "perplexity/chosen", "bleu", "rouge_l", "length/tokens", "length/words", "cut_off",
        "empty", "distinct_1", "repetition",
    }  # fmt: skip
    assert common <= set(base.metrics)
    only_tuned = {"rewards/accuracies", "rewards/margins", "kl/answer", "kl/token"}
    assert only_tuned | set(base.metrics) >= set(tuned.metrics) >= only_tuned
    (comparison,) = result.comparisons
    assert (comparison.model, comparison.against) == (tuned.name, "base")
    difference = comparison.differences["length/tokens"].value
    assert difference == pytest.approx(tuned.metrics["length/tokens"].value - base.metrics["length/tokens"].value)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [sorted(line["answers"]) for line in lines] == [sorted([tuned.name, "base"])] * 6
    assert lines[0]["reference"].endswith(".")
    stages = read_json_lines(tmp_path / "events.jsonl")
    loaded = [event["detail"] for event in stages if event["event"] == "stage" and event["name"] == "model"]
    assert loaded == [f"loading {tuned.name}", "loading base"]  # which is also the base that it is compared with
    page = render_evaluation(result, tmp_path / "answers.jsonl")
    assert tuned.name in page
    assert "Implicit reward accuracy" in page
    if CHROMIUM is not None:
        assert_readable(page, tmp_path)
        assert_printable(page, tmp_path)
    assert EvaluationResult.model_validate(json.loads(json.dumps(result.to_json()))) == result


def test_perplexity_is_that_of_rows_computed_one_by_one(
    lora_run: Path, evaluated: Callable[..., EvaluationResult]
) -> None:
    result = evaluated(lora_run, kl_prompts=0)
    loaded = open_run(lora_run).load()
    found = ModelFinder("cpu", None, trust_remote_code=False).find_all([str(lora_run)])
    usable = read_as(read_rows(None, found, "eval", slice(None)), found, 8)
    loss, count = 0.0, 0
    for one in usable.by_model[0]:
        answer = one.answers[0]
        ids = torch.tensor([answer.prompt_ids + answer.answer_ids])
        with torch.no_grad():
            logps = loaded.policy(ids).logits[0].log_softmax(-1)
        start = len(answer.prompt_ids)
        loss -= sum(logps[start + at - 1, token].item() for at, token in enumerate(answer.answer_ids))
        count += len(answer.answer_ids)
    assert result.models[0].metrics["perplexity/chosen"].value == pytest.approx(math.exp(loss / count), rel=1e-5)


def test_the_divergence_of_answers_of_one_token_is_near_the_exact_one(
    make_run: Callable[..., Path], evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    """For one token it is a sum over the vocabulary, and its mean over prompts is what the samples estimate."""
    run = make_run("{kind: lora, r: 4}", "training.learning_rate=0.1", "training.max_steps=6")
    data = write_pairs(tmp_path / "many.jsonl", 100)
    settings = {"data": str(data), "limit": None, "kl_prompts": 100, "generate": {"max_new_tokens": 1}}
    (model,) = evaluated(run, **settings, overlap=False).models
    loaded, exact = open_run(run).load(), []
    found = ModelFinder("cpu", None, trust_remote_code=False).find_all([str(run)])
    for one in read_as(read_rows(str(data), found, "eval", slice(None)), found, 1).by_model[0]:
        with torch.no_grad():
            tuned = loaded.policy(torch.tensor([one.prompt.ids])).logits[0, -1].log_softmax(-1)
            with loaded.policy.disable_adapter():
                base = loaded.policy(torch.tensor([one.prompt.ids])).logits[0, -1].log_softmax(-1)
        exact.append((tuned.exp() * (tuned - base)).sum().item())
    estimate, mean = model.metrics["kl/answer"], sum(exact) / len(exact)
    assert mean > 0.01
    assert estimate.low is not None
    error = (estimate.value - estimate.low) / 1.96
    assert abs(estimate.value - mean) < 4 * error
    assert model.metrics["kl/token"].value == pytest.approx(estimate.value)


@pytest.mark.parametrize(
    ("objective", "beta"),
    [
        ({"kind": "dpo", "beta": 0.3}, 0.3),
        ({"kind": "kto"}, 0.1),
        ({"kind": "simpo"}, 1.0),  # its beta belongs to rewards without a reference
        ({"kind": "grpo", "rewards": [{"rule": "json"}]}, 1.0),  # its beta is the weight of a penalty, and may be 0
        ({"kind": "sft"}, 1.0),
    ],
)
def test_implicit_rewards_have_the_factor_of_objectives_that_train_on_them(
    objective: dict[str, Any], beta: float
) -> None:
    plain = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}
    assert implicit_beta(Recipe.model_validate({**plain, "objective": objective})) == beta


@pytest.fixture
def speaker(tiny_model: Path) -> Speaker:
    """The tiny model, whose answers are not kept."""
    from transformers import AutoModelForCausalLM

    tokenizer, model = make_tokenizer(), AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    return Speaker(None, tokenizer, frozenset([tokenizer.eos_token_id]), lambda: model)


def prompts_of(speaker: Speaker) -> list[Prompt]:
    texts = ["How", "What is the capital of Peru?", "Many things could be said about this", "egg", "Hello there!"]
    return [Prompt(text, speaker.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answers_of_a_batch_are_those_of_single_prompts(speaker: Speaker, temperature: float) -> None:
    """Also in another order and beside other prompts, greedily or sampled."""
    settings = {"temperature": temperature, "top_p": 0.9, "max_new_tokens": 12}
    prompts = prompts_of(speaker)
    together = generate(speaker, prompts, Generate(**settings, batch_size=3))
    alone = [generate(speaker, [prompt], Generate(**settings))[0] for prompt in prompts]
    assert together == alone
    assert together == generate(speaker, prompts[::-1], Generate(**settings, batch_size=5))[::-1]
    assert all(len(answer.ids) == 12 for answer in together if answer.is_cut_off)


def test_a_seed_or_a_sample_number_changes_sampled_answers_and_no_greedy_one(speaker: Speaker) -> None:
    prompts = prompts_of(speaker)
    sampled = Generate(temperature=1.0, max_new_tokens=8)
    first = generate(speaker, prompts, sampled)
    assert first == generate(speaker, prompts, sampled)
    assert first != generate(speaker, prompts, sampled.model_copy(update={"seed": 1}))
    assert first != generate(speaker, prompts, sampled, sample=1)
    greedy = Generate(max_new_tokens=8)
    assert generate(speaker, prompts, greedy) == generate(speaker, prompts, greedy.model_copy(update={"seed": 1}))


def test_tokens_are_sampled_with_their_probabilities_within_top_p() -> None:
    """Logits log(1, 2, 3, 4): at temperature 1 and top-p 0.65 the two largest remain, with 3/7 and 4/7."""
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log().expand(4000, 4)
    ids = torch.zeros(4000, 1, dtype=torch.long)
    chosen = SeededChoice(Generate(temperature=1.0), range(4000))(ids, scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)
    chosen = SeededChoice(Generate(temperature=1.0, top_p=0.65), range(4000))(ids, scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.0, 0.0, 3 / 7, 4 / 7], abs=0.03)
    # At temperature 1/2 the probabilities are proportional to the squares 1, 4, 9, 16.
    chosen = SeededChoice(Generate(temperature=0.5), range(4000))(ids, scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([1 / 30, 4 / 30, 9 / 30, 16 / 30], abs=0.03)


def test_log_probabilities_of_a_batch_leave_out_the_context_of_an_answer(speaker: Speaker) -> None:
    long = Continuation(list(range(5, 25)), [7, 8, 9, 10], context=(1, 3))
    short = Continuation([30, 31], [40])
    model = speaker.load()
    sums = sum_logps(None, speaker.load, 0, [short, long], 8)
    with torch.no_grad():
        logps = model(torch.tensor([long.prompt_ids + long.answer_ids])).logits[0].log_softmax(-1)
        only = model(torch.tensor([[30, 31, 40]])).logits[0].log_softmax(-1)[1, 40].item()
    assert sums == pytest.approx([only, (logps[19, 7] + logps[22, 10]).item()], abs=1e-5)
    assert (long.num_tokens, short.num_tokens) == (2, 1)


def test_what_a_killed_evaluation_has_computed_is_not_computed_again(
    lora_run: Path, evaluated: Callable[..., EvaluationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in the third batch of answers. The next one generates the other answers only, and one more needs no
    weights at all. A truncated last line is no answer."""
    original, batches = generation._generate_batch, []

    def generate_until_killed(*arguments: Any) -> Any:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(arguments[1]))
        return original(*arguments)

    settings = {"generate": {**SHORT, "batch_size": 1}, "kl_prompts": 0}
    monkeypatch.setattr(generation, "_generate_batch", generate_until_killed)
    with pytest.raises(KeyboardInterrupt):
        evaluated(lora_run, **settings)
    (kept,) = (cache_folder() / "answers").glob("*.jsonl")
    kept.write_text(kept.read_text()[:-10])
    batches.clear()
    monkeypatch.setattr(generation, "_generate_batch", lambda *a: batches.append(len(a[1])) or original(*a))
    result = evaluated(lora_run, **settings)
    assert batches == [1] * 5
    assert len(read_json_lines(kept)) == 6

    def refuse(self: Any) -> Any:
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr(speak._Weights, "__call__", refuse)
    again = evaluated(lora_run, **settings)
    assert again.models == result.models


@pytest.mark.parametrize(
    ("adapter", "overrides"),
    [
        ("null", []),
        ("{kind: lora, r: 4, save_as: merged}", []),
        ("{kind: lora, r: 4}", ["model.quantization={bits: 4}"]),
    ],
    ids=["full", "merged", "quantized"],
)
def test_each_way_of_tuning_is_evaluated_with_its_own_base(
    make_run: Callable[..., Path], evaluated: Callable[..., EvaluationResult], adapter: str, overrides: list[str]
) -> None:
    run = make_run(adapter, *overrides)
    tuned, base = evaluated(run, against="base", kl_prompts=2).models
    trained = open_run(run).result.metrics
    assert tuned.metrics["rewards/margins"].value == pytest.approx(trained["eval_rewards/margins"], abs=1e-3)
    assert tuned.metrics["kl/answer"].count == 2
    assert base.metrics["perplexity/chosen"].value != tuned.metrics["perplexity/chosen"].value


def test_a_whole_model_is_evaluated_without_its_base_if_that_is_gone(
    make_run: Callable[..., Path], tiny_model: Path, evaluated: Callable[..., EvaluationResult]
) -> None:
    run = make_run("{kind: lora, r: 4, save_as: merged}", "training.max_steps=1")
    aside = tiny_model.rename(tiny_model.with_name("aside"))
    try:
        result = evaluated(run, kl_prompts=2)
    finally:
        aside.rename(tiny_model)
    (model,) = result.models
    assert "perplexity/chosen" in model.metrics
    assert not {"rewards/accuracies", "kl/answer"} & set(model.metrics)
    assert "cannot be loaded" in result.notes[0]


def test_a_run_that_learned_from_one_answer_is_evaluated_on_the_pairs_of_its_held_out_prompts(
    make_run: Callable[..., Path], evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    run = make_run("{kind: lora, r: 4}", extra="objective: {kind: sft}")
    (model,) = evaluated(run, kl_prompts=0).models
    assert model.metrics["rewards/accuracies"].count == model.metrics["perplexity/chosen"].count == 6
    assert model.beta == 1.0
    prompts = {json.loads(line)["where"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()}
    recipe = open_run(run).recipe
    held_out = load_rows(recipe.data, recipe.training.seed, "completion").rows["eval"]
    assert prompts == {row.where for row in held_out}


def test_folders_of_models_and_adapters_are_evaluated_on_the_rows_of_a_file(
    lora_run: Path, tiny_model: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    """A copy of a run's adapter alone gives the values of the run."""
    adapter = tmp_path / "adapter"
    (lora_run / "model").rename(adapter)
    try:
        data = write_pairs(tmp_path / "other.jsonl", 5)
        result = evaluated(adapter, against=str(tiny_model), data=str(data), kl_prompts=0)
    finally:
        adapter.rename(lora_run / "model")
    assert (result.num_prompts, result.split) == (5, "all")
    tuned, base = result.models
    assert (tuned.name, base.name) == ("adapter", "model")
    of_run = evaluated(lora_run, data=str(data), kl_prompts=0).models[0].metrics
    assert tuned.metrics["rewards/accuracies"] == of_run["rewards/accuracies"]
    assert tuned.metrics["rewards/margins"].value * 0.1 == pytest.approx(of_run["rewards/margins"].value)


def test_a_reward_model_and_a_rule_judge_the_answers(
    make_run: Callable[..., Path],
    lora_run: Path,
    evaluated: Callable[..., EvaluationResult],
    tmp_path: Path,
) -> None:
    """Rewards are those of the sources themselves, win-rates those counted from the answers, and the reward model has
    the accuracy on the pairs that its training measured."""
    judge = make_run("{kind: lora, r: 4}", "evaluation.num_samples=0", extra="objective: {kind: reward}")
    rule = {"rule": "regex", "pattern": "[aeiou]", "count": 9, "weight": 2.0, "name": "vowels"}
    rewards = [{"model": str(judge), "name": "judge"}, rule]
    result = evaluated(lora_run, against="base", rewards=rewards, kl_prompts=0, generate={"max_new_tokens": 20})
    tuned, base = result.models
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    kept = {name: [line["answers"][name] for line in lines] for name in (tuned.name, "base")}
    for model in (tuned, base):
        vowels = [min(9, sum(letter in "aeiou" for letter in one["text"])) / 9 for one in kept[model.name]]
        assert [one["rewards"]["vowels"] for one in kept[model.name]] == pytest.approx(vowels)
        assert model.metrics["reward/vowels"].value == pytest.approx(sum(vowels) / 6)
        totals = [one["rewards"]["judge"] + 2 * one["rewards"]["vowels"] for one in kept[model.name]]
        assert model.metrics["reward/total"].value == pytest.approx(sum(totals) / 6)
    plain = load_reward_model(ModelReward(model=str(judge)), RewardContext("cpu"))
    direct = plain.score([line["prompt"] for line in lines], [one["text"] for one in kept[tuned.name]], {})
    assert [one["rewards"]["judge"] for one in kept[tuned.name]] == pytest.approx(direct, abs=1e-5)
    (comparison,) = result.comparisons
    assert set(comparison.win_rates) == set(comparison.length_controlled_win_rates) == {"judge", "vowels", "total"}
    pairs = zip(kept[tuned.name], kept["base"], strict=True)
    scores = [(own["rewards"]["vowels"], other["rewards"]["vowels"]) for own, other in pairs]
    wins = sum((own > other) + 0.5 * (own == other) for own, other in scores) / 6
    assert comparison.win_rates["vowels"].value == pytest.approx(wins)
    of_judge = next(one for one in result.judges if one.name == "judge")
    trained = open_run(judge).result.metrics
    assert of_judge.accuracy is not None
    assert of_judge.accuracy.value == pytest.approx(trained["eval_accuracy"])
    with pytest.raises(RunError, match="T682"):
        evaluated(judge)


def test_a_reward_source_that_fails_is_named_and_the_answers_are_kept(
    lora_run: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    file = tmp_path / "judge.py"
    file.write_text("def fail(prompts, answers):\n    return [1 / 0]\n")
    rewards = [{"function": f"{file}:fail"}]
    with pytest.raises(DpoRecipeError, match="R386"):
        evaluated(lora_run, rewards=rewards)
    with pytest.raises(RunError, match="the reward source `fail` failed"):
        evaluated(lora_run, rewards=rewards, allowed=[f"{file}:fail"])


def test_two_models_of_the_same_folder_name_are_told_apart(
    evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    models = [save_tiny_model(tmp_path / name / "model") for name in ("a", "b")]
    data = write_pairs(tmp_path / "pairs.jsonl", 3)
    result = evaluated(*models, data=str(data))
    assert [model.name for model in result.models] == list(map(str, models))


def test_answers_of_a_labelled_file_are_compared_with_good_ones_only(
    tiny_model: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    """Two rows have the same prompt: it is answered once."""
    rows = [("one", "1", True), ("one", "2", False), ("two", "2", True)]
    data = tmp_path / "labelled.jsonl"
    lines = (json.dumps({"prompt": p, "completion": c, "label": good}) + "\n" for p, c, good in rows)
    data.write_text("".join(lines), encoding="utf-8")
    (model,) = evaluated(tiny_model, data=str(data)).models
    assert model.metrics["length/tokens"].count == 2
    assert model.metrics["perplexity/chosen"].count == 2
    assert "rewards/accuracies" not in model.metrics
    assert "likelihood_accuracy" not in model.metrics


def test_prompts_without_answers_are_answered(
    lora_run: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"What is {number}?"}) + "\n" for number in range(3)))
    (model,) = evaluated(lora_run, data=str(data), kl_prompts=2).models
    assert model.metrics["length/tokens"].count == 3
    assert model.metrics["kl/answer"].count == 2
    assert not {"bleu", "perplexity/chosen", "rewards/accuracies"} & set(model.metrics)


def code_of(caught: pytest.ExceptionInfo[DpoRecipeError]) -> str:
    return caught.value.findings[0].code


def test_models_that_cannot_be_evaluated_are_errors(
    lora_run: Path, tiny_model: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    data = str(write_pairs(tmp_path / "pairs.jsonl", 3))
    with pytest.raises(DpoRecipeError) as caught:
        evaluated(tmp_path / "nothing", data=data)
    assert code_of(caught) == "T681"
    with pytest.raises(DpoRecipeError) as caught:
        evaluated(tiny_model, against="base", data=data)
    assert code_of(caught) == "T681"
    with pytest.raises(DpoRecipeError) as caught:
        evaluated(tiny_model)
    assert code_of(caught) == "T683"
    result = lora_run / "result.json"
    result.rename(lora_run / "aside.json")
    try:
        with pytest.raises(DpoRecipeError) as caught:
            evaluated(lora_run)
    finally:
        (lora_run / "aside.json").rename(result)
    assert code_of(caught) == "T641"


def test_a_model_without_a_template_needs_the_name_of_one(
    evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "plain")
    (model / "chat_template.jinja").unlink()
    data = str(write_pairs(tmp_path / "pairs.jsonl", 3))
    with pytest.raises(RunError, match="--chat-template") as caught:
        evaluated(model, data=data)
    assert code_of(caught) == "M505"
    assert evaluated(model, data=data, chat_template="chatml").num_prompts == 3


def test_rows_that_leave_no_room_for_an_answer_are_left_out_for_all_models(
    tiny_model: Path, evaluated: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": prompt, "chosen": "Yes.", "rejected": "No."} for prompt in ("short", "long " * 900)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = evaluated(tiny_model, data=str(data))
    assert result.num_prompts == 1
    assert result.left_out == {"the prompt leaves no room for an answer": 1}
    with pytest.raises(RunError, match="T683"):
        evaluated(tiny_model, data=str(data), generate={"max_new_tokens": 600})


def test_a_model_that_says_nothing_is_an_error(evaluated: Callable[..., EvaluationResult], tmp_path: Path) -> None:
    """All logits are equal, so that greedy decoding chooses the first token, which is a special one."""
    from transformers import AutoModelForCausalLM

    folder = save_tiny_model(tmp_path / "silent")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data.zero_()
    model.save_pretrained(folder)
    with pytest.raises(RunError, match="T685"):
        evaluated(folder, data=str(write_pairs(tmp_path / "pairs.jsonl", 2)))


def test_the_command_evaluates_in_a_worker_and_prints_tables_or_json(
    lora_run: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    options = ["--output-dir", str(lora_run.parent.parent), "--max-new-tokens", "4", "--against", "base"]
    name = lora_run.name.rpartition("-")[2]
    shown = command("evaluate", name, *options)
    assert shown.returncode == 0, shown.stderr
    assert "Implicit reward accuracy" in shown.stdout
    assert "Differences from base" in shown.stdout
    (folder,) = (lora_run.parent.parent / "evaluations").iterdir()
    assert {"answers.jsonl", "report.html", "result.json", "run.log", "evaluate.json"} <= {
        path.name for path in folder.iterdir()
    }
    failed = command("evaluate", "00ffee", *options)
    assert failed.returncode == 6
    assert "T640" in failed.stderr


def test_an_evaluation_reports_its_worker_s_error_and_runs_in_a_directory_of_its_settings(
    tiny_model: Path, tmp_path: Path
) -> None:
    section = Evaluate(models=[str(tiny_model)])
    directory = evaluation_directory(section, tmp_path)
    assert directory == evaluation_directory(Evaluate(models=[str(tiny_model)]), tmp_path)
    assert directory != evaluation_directory(Evaluate(models=[str(tiny_model)], limit=3), tmp_path)
    with pytest.raises(RunError, match="T683"):
        run_evaluation(section, directory, lambda event: None)
    assert not RunDirectory(directory).result.exists()


def test_the_example_in_the_documents_works(lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    example = re.sub(
        r'models=\["runs/.*?"\]', f"models=[{str(lora_run)!r}], generate=Generate(max_new_tokens=2)", example
    )
    example = re.sub(r'Path\("runs/.*?"\)', f"Path({str(tmp_path / 'evaluation')!r})", example)
    exec(example, {"Generate": Generate})
    assert re.search(r"^base value=", capsys.readouterr().out, re.MULTILINE)
    result = EvaluationResult.read(tmp_path / "evaluation" / "result.json")
    assert [model.name for model in result.models][1] == "base"
