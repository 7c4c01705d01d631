"""RLOO and GRPO: losses, whole runs, resuming, and what can be wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.generation import Sampling, write_answers
from dpo_recipes.engine.policy_sampler import StepsSampler
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.policy import PolicyObjective
from dpo_recipes.objectives.scores import Scores, TokenScores

Work = Callable[..., Any]
RLOO: Any = get_objective("rloo")
GRPO: Any = get_objective("grpo")
VOWELS = "{rule: regex, pattern: '[aeiou]', count: 8}"


def params_of(objective: PolicyObjective, **settings: Any) -> Any:
    return objective.params.model_validate({"kind": objective.kind, "rewards": [{"rule": "json"}], **settings})


# Advantages and losses on fixed numbers


def test_the_advantage_of_rloo_is_the_reward_less_the_mean_of_the_others() -> None:
    """Rewards 1, 2, 6 with KL estimates 0, 10, 20 and beta 0.1 count as 1, 1, 4. The others of the first are 1 and 4
    with mean 2.5: 1 - 2.5 = -1.5. Likewise 1 - 2.5 = -1.5 and 4 - 1 = 3."""
    rewards, kl = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[0.0, 10.0, 20.0]])
    found = RLOO.advantages(params_of(RLOO, beta=0.1), rewards, kl)
    assert torch.allclose(found, torch.tensor([[-1.5, -1.5, 3.0]]))


def test_the_loss_of_rloo() -> None:
    """Two answers with advantages 2 and -2 and ratios exp(0.5) = 1.649 and exp(-1) = 0.368; clipped at 1.2 and 0.8.

    The first gains min(1.649 · 2, 1.2 · 2) = 2.4, the second min(0.368 · -2, 0.8 · -2) = -1.6. The loss is minus their
    mean, -0.4, and both ratios are clipped.
    """
    scores = Scores(
        logps=torch.tensor([[-1.0, -3.0]]),
        old_logps=torch.tensor([[-1.5, -2.0]]),
        advantages=torch.tensor([[2.0, -2.0]]),
        entropies=torch.tensor([[4.0, 6.0]]),
        num_tokens=torch.tensor([[2.0, 3.0]]),
    )
    loss = RLOO.loss(params_of(RLOO), scores)
    assert torch.allclose(loss.per_row, torch.tensor([-0.4]))
    assert loss.metrics["clip_ratio/region_mean"].tolist() == [1.0]


def test_the_loss_of_rloo_with_another_sampler() -> None:
    """Gains of 2 · 1 and -2 · 1 with ratios of 1, and factors 0.5 and 0: the loss is minus the mean of 1 and 0."""
    logps = torch.tensor([[-1.0, -3.0]])
    scores = Scores(
        logps=logps,
        old_logps=logps,
        advantages=torch.tensor([[2.0, -2.0]]),
        sampling_weights=torch.tensor([[[0.5], [0.0]]]),
        entropies=torch.tensor([[4.0, 6.0]]),
        num_tokens=torch.tensor([[2.0, 3.0]]),
    )
    assert RLOO.loss(params_of(RLOO), scores).per_row.tolist() == [-0.5]


def test_the_loss_of_grpo() -> None:
    """Rewards 0 and 2 have mean 1 and deviation √2: advantages ∓1 / (√2 + 1e-4), about ∓0.7070.

    Both answers have two tokens, the second one's last is padding. Ratios are 1, so a token's loss is minus its
    advantage, plus 0.04 · (exp(d) - d - 1) with d = ref - logp: d is 0.5 for the first token of the first answer,
    0.1487213, and 0 elsewhere. Sums: 2 · 0.7070 + 0.04 · 0.1487213 and -0.7070.
    """
    params = params_of(GRPO, beta=0.04)
    advantages = GRPO.advantages(params, torch.tensor([[0.0, 2.0]]), None)
    a = 1 / (math.sqrt(2) + 1e-4)
    assert torch.allclose(advantages, torch.tensor([[-a, a]]))
    logps = torch.tensor([[[-1.0, -2.0], [-1.0, 0.0]]])
    reference = torch.tensor([[[-0.5, -2.0], [-1.0, 0.0]]])
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    scores = Scores(
        logps=logps.sum(2),
        advantages=advantages,
        entropies=torch.zeros(1, 2),
        num_tokens=mask.sum(2),
        of_tokens=TokenScores(logps, mask, reference_logps=reference),
    )
    kl = 0.04 * (math.exp(0.5) - 0.5 - 1)
    assert GRPO.loss(params, scores).per_row.item() == pytest.approx(2 * a + kl - a, abs=1e-6)
    of_answers = params_of(GRPO, beta=0.04, loss_type="grpo")
    assert GRPO.loss(of_answers, scores).per_row.item() == pytest.approx(((2 * a + kl) / 2 - a) / 2, abs=1e-6)
    divided = params_of(GRPO, beta=0.04, loss_type="dr_grpo", max_new_tokens=10)
    assert GRPO.loss(divided, scores).per_row.item() == pytest.approx((2 * a + kl - a) / 10 / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "correction"),
    [("rloo", None), *((kind, how) for kind in ("dapo", "grpo", "dr_grpo") for how in (None, "token", "sequence"))],
)
def test_losses_equal_those_of_trl(kind: str, correction: str | None) -> None:
    """The same log-probabilities through `_compute_loss` of TRL's trainers, which need no model for it. Also with
    factors that correct another sampler, for each token or answer; TRL's RLOO has none."""
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    torch.manual_seed(0)
    rows, count, length = 3, 4, 6
    mask = (torch.arange(length) < torch.randint(1, length + 1, (rows, count, 1))).float()
    logps, old, reference = (-torch.rand(rows, count, length) for _ in range(3))
    advantages = torch.randn(rows, count)

    def flat(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(rows * count, *values.shape[2:])

    class Metrics(dict[str, Any]):
        def __missing__(self, name: str) -> list[float]:
            return self.setdefault(name, [])

    def reduce(tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor

    upstream: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (flat(logps), torch.zeros(rows * count, length), None),
        epsilon_low=0.2, epsilon_high=0.3, aux_loss_enabled=False, model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(reduce=reduce, gather=lambda tensor: tensor, num_processes=1),
        _metrics={"train": Metrics()}, beta=0.1, loss_type=kind, top_entropy_quantile=1.0,
        importance_sampling_level="token", off_policy_mask_threshold=None, _entropy_bonus_enabled=False,
        use_vllm=correction is not None, vllm_importance_sampling_correction=True,
        max_completion_length=10, current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    ids = torch.zeros(rows * count, length, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": flat(mask),
        "old_logps": flat((old * mask).sum(2)), "old_per_token_logps": flat(old), "advantages": flat(advantages),
        "ref_per_token_logps": flat(reference), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    factors = None
    if correction is not None:
        factors = torch.rand(rows, count, length if correction == "token" else 1) * 2
        inputs["importance_sampling_ratio"] = flat(factors)
    objective = RLOO if kind == "rloo" else GRPO
    trainer: Any = RLOOTrainer if kind == "rloo" else GRPOTrainer
    expected = trainer._compute_loss(upstream, None, inputs)
    extra = {} if kind == "rloo" else {"loss_type": kind}
    params = params_of(objective, beta=0.1, epsilon_high=0.3, max_new_tokens=10, **extra)
    scores = Scores(
        logps=(logps * mask).sum(2),
        old_logps=(old * mask).sum(2),
        advantages=advantages,
        entropies=torch.zeros(rows, count),
        num_tokens=mask.sum(2),
        of_tokens=TokenScores(logps, mask, old, reference),
        sampling_weights=factors,
    )
    per_row = objective.loss(params, scores).per_row
    found = per_row.sum() / mask.sum() if objective.mean_over(params) == "tokens" else per_row.mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-7)


# Order and sampling


def test_the_prompts_of_a_step_come_once_for_each_iteration() -> None:
    sampler = StepsSampler(num_rows=7, rows_per_step=3, iterations=2, seed=1)
    order = list(sampler)
    assert len(order) == len(sampler) == 12
    assert order[:3] == order[3:6]
    assert order[6:9] == order[9:12]
    assert len(set(order)) == 6
    sampler.set_epoch(1)
    assert list(sampler) != order
    assert sorted(StepsSampler(7, 3, 1, 1)) == list(range(7))


def test_answers_depend_on_the_seed_alone(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    model.generation_config.top_k = 1  # a base's own settings have no part
    sampling = Sampling(8, 1.0, 1.0, 3, model.config.pad_token_id, (model.config.eos_token_id,))
    prompts = [[5, 6, 7], [8], [9, 10], [11, 12]]
    torch.manual_seed(5)
    seeds = [3, 1, 4, 15]
    first = write_answers(model, prompts, sampling, seeds)
    state = torch.random.get_rng_state()
    assert write_answers(model, prompts, sampling, seeds) == first
    assert write_answers(model, prompts, sampling, [seed + 1 for seed in seeds]) != first
    # The answers beside it have no influence on an answer.
    alone = [write_answers(model, [prompt], sampling, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert alone == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert model.generation_config.top_k == 1
    assert all(1 <= len(answer) <= 8 for answer in first)
    assert len({tuple(answer) for answer in write_answers(model, [[5, 6]] * 8, sampling, range(8))}) > 4


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_answers_are_sampled_from_the_softmax(tiny_model: Path, top_p: float) -> None:
    """The first tokens of 4,000 answers have the frequencies that temperature and `top_p` give: a chi-squared test."""
    from scipy.stats import chisquare
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(12.0)  # so that some tokens are likely
        probabilities = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.7).softmax(-1).double()
    order = probabilities.argsort(descending=True)
    below = probabilities[order].cumsum(0) - probabilities[order] < top_p
    expected = torch.zeros_like(probabilities)
    expected[order[below]] = probabilities[order[below]]
    expected = expected / expected.sum()
    sampling = Sampling(1, 0.7, top_p, 500, model.config.pad_token_id, (model.config.eos_token_id,))
    answers = write_answers(model, [[5, 6, 7]] * 4000, sampling, [seed * 7919 for seed in range(4000)])
    found = torch.bincount(torch.tensor([answer[0] for answer in answers]), minlength=len(expected)).double()
    assert found[expected == 0].sum() == 0
    common = expected * 4000 >= 5
    rest = (~common) & (expected > 0)
    assert int(common.sum()) > 5
    observed = [*found[common].tolist(), *([found[rest].sum().item()] if rest.any() else [])]
    counts = [*(expected[common] * 4000).tolist(), *([(expected[rest].sum() * 4000).item()] if rest.any() else [])]
    assert chisquare(observed, counts, sum_check=False).pvalue > 0.001


# Whole runs


def policy_recipe(
    model: Path, folder: Path, objective: str, adapter: str = "{kind: lora, r: 4}", extra: str = ""
) -> str:
    pairs = write_pairs(folder / "pairs.jsonl")
    section = f"objective: {{{objective}, num_generations: 3, max_new_tokens: 8}}\n"
    return recipe_text(model, pairs, section + extra, adapter)


@pytest.mark.parametrize(
    ("objective", "adapter"),
    [
        (f"kind: rloo, rewards: [{VOWELS}, {{rule: repetition, weight: 0.5}}]", "{kind: lora, r: 4}"),
        (f"kind: rloo, rewards: [{VOWELS}], num_iterations: 2, normalize_advantages: true", "null"),
        (f"kind: grpo, rewards: [{VOWELS}], beta: 0.04", "null"),
        (f"kind: grpo, rewards: [{VOWELS}], num_iterations: 2, loss_type: grpo", "{kind: lora, r: 4}"),
    ],
)
def test_a_run_trains_resumes_to_the_same_bits_and_reports(
    work: Work, tiny_model: Path, tmp_path: Path, objective: str, adapter: str
) -> None:
    text = policy_recipe(tiny_model, tmp_path, objective, adapter)
    settings = ("checkpoints.save_steps=1", "checkpoints.save_total_limit=3", "training.eval_steps=2")
    settings = (*settings, "evaluation.samples_each_eval=1")
    whole = work(text, *settings)
    assert whole.exit_code == 0, whole.codes
    result = whole.result
    assert result["saved_model"]["equal"]
    assert result["metrics"]["eval_reward"] is not None
    assert result["base_metrics"]["eval_kl"] in (None, 0.0)
    rows = [json.loads(line) for line in whole.run.metrics.read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert len(trained) == 3
    if "num_iterations" in objective:  # the second step uses the answers of the first one
        assert "reward" not in trained.pop(1)
    for name in ("reward", "reward_std", "entropy", "completions/mean_length", "completions/clipped_ratio"):
        assert all(math.isfinite(row[name]) for row in trained), name
    assert all(0.0 <= row["frac_reward_zero_std"] <= 1.0 for row in trained)
    if "repetition" in objective:
        parts = trained[0]["rewards/regex/mean"] + 0.5 * trained[0]["rewards/repetition/mean"]
        assert trained[0]["reward"] == pytest.approx(parts, abs=1e-6)
    assert "Reward" in (whole.run.path / "report.html").read_text(encoding="utf-8")
    file = "model.safetensors" if adapter == "null" else "adapter_model.safetensors"
    weights = load_file(Path(result["model_dir"]) / file)
    for step in (3, 2):
        shutil.rmtree(whole.run.checkpoints / f"checkpoint-{step}")
    shutil.rmtree(result["model_dir"])
    whole.run.result.unlink()
    again = work(text, *settings, resume=True)
    assert again.result["resumed_from_step"] == 1
    found = load_file(Path(again.result["model_dir"]) / file)
    assert all(torch.equal(found[name], expected) for name, expected in weights.items())
    assert [json.loads(line).get("reward") for line in whole.run.metrics.read_text().splitlines()] == [
        row.get("reward") for row in rows
    ]


def test_a_reward_model_of_a_run_judges(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    judge = recipe_text(tiny_model, pairs, "objective: {kind: reward}\n")
    judged = work(judge.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", ""))
    text = policy_recipe(tiny_model, tmp_path, f"kind: rloo, rewards: [{{model: '{judged.run.path}'}}]")
    outcome = work(text)
    assert outcome.exit_code == 0, outcome.codes
    prediction = json.loads(outcome.run.plan.read_text())["prediction"]
    assert prediction["stages_s"]["generation"] > 0
    assert prediction["phases"]["generation"] > 0


def test_a_function_is_allowed_and_gets_columns(tiny_model: Path, tmp_path: Path) -> None:
    from dpo_recipes import worker
    from dpo_recipes.errors import RecipeError
    from dpo_recipes.preparation import prepare_run
    from dpo_recipes.recipe.validate import validate

    function = tmp_path / "scores.py"
    function.write_text(
        "def f(prompts, answers, chosen):\n"
        "    assert prompts[0][0]['role'] == 'user'\n"
        "    return [float(len(a) % 3) + len(c) for a, c in zip(answers, chosen, strict=True)]\n"
    )
    objective = "kind: rloo, rewards: [{function: 'scores.py:f', takes: [chosen]}]"
    path = tmp_path / "recipe.yaml"
    path.write_text(policy_recipe(tiny_model, tmp_path, objective))
    validated = validate(path, [f"output_dir={tmp_path / 'runs'}"])
    with pytest.raises(RecipeError) as caught:
        prepare_run(validated)
    assert caught.value.findings[0].code == "R386"
    assert caught.value.findings[0].where is not None
    allowed = f"{function}:f"
    request = prepare_run(validated, reward_functions=[allowed])[0]
    assert request.reward_functions == (allowed,)
    assert worker.main([str(request.run.path), "--reward-function", allowed]) == 0


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        ("{kind: lora, r: 4}", ["model.quantization={bits: 4}", "training.gradient_checkpointing=true"]),
        ("null", ["model.dtype=bfloat16", "training.gradient_checkpointing=true"]),
    ],
)
def test_generation_leaves_the_model_as_it_is(
    work: Work, tiny_model: Path, tmp_path: Path, adapter: str, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number formats of its weights are the same before and after; in bfloat16 autocast computes in that format."""
    from dpo_recipes.engine import generation

    formats: list[set[torch.dtype]] = []

    def written(model: Any, *rest: Any) -> Any:
        before = {weight.dtype for weight in model.parameters()}
        answers = write_answers(model, *rest)
        formats.extend([before, {weight.dtype for weight in model.parameters()}])
        return answers

    monkeypatch.setattr(generation, "write_answers", written)
    text = policy_recipe(tiny_model, tmp_path, f"kind: rloo, rewards: [{VOWELS}]", adapter)
    outcome = work(text, *settings)
    assert outcome.exit_code == 0, outcome.codes
    assert len({frozenset(each) for each in formats}) == 1
    if adapter == "null":
        assert formats[0] == {torch.float32}


def test_a_base_with_a_table_of_positions(work: Work, tmp_path: Path) -> None:
    """GPT-2 counts positions from the first token of a prompt, whatever padding is before it."""
    from tiny import make_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=4, **ids)
    )
    prompts = [[7, 8, 9, 10, 11, 12], [20]]
    greedy = Sampling(6, 1e-4, 1.0, 8, tokenizer.pad_token_id, (tokenizer.eos_token_id,))
    together = write_answers(model, prompts, greedy, [1, 2])
    assert together == [write_answers(model, [prompt], greedy, [3])[0] for prompt in prompts]
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    text = policy_recipe(tmp_path / "gpt2", tmp_path, f"kind: grpo, rewards: [{VOWELS}], beta: 0.1", "null")
    outcome = work(text)
    assert outcome.exit_code == 0, outcome.codes


# What can be wrong


@pytest.mark.parametrize(
    ("source", "code", "what"),
    [
        ("{function: 'scores.py:fails'}", "T670", "the reward source `fails` failed"),
        ("{function: 'scores.py:none'}", "T671", "something else than numbers"),
    ],
)
def test_a_source_that_fails_is_named(
    tiny_model: Path, tmp_path: Path, source: str, code: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpo_recipes import worker
    from dpo_recipes.preparation import prepare_run
    from dpo_recipes.recipe.validate import validate

    (tmp_path / "scores.py").write_text(
        "calls = []\n"
        "def fails(prompts, answers):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 12: raise ValueError('no more')\n"
        "    return [0.0] * len(answers)\n"
        "def none(prompts, answers): return [None] * len(answers)\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(policy_recipe(tiny_model, tmp_path, f"kind: rloo, rewards: [{source}]"))
    validated = validate(path, [f"output_dir={tmp_path / 'runs'}", "training.max_steps=20", "checkpoints.save_steps=1"])
    allowed = [f"{tmp_path}/scores.py:{name}" for name in ("fails", "none")]
    request = prepare_run(validated, reward_functions=allowed)[0]
    flags = [word for name in allowed for word in ("--reward-function", name)]
    assert worker.main([str(request.run.path), *flags]) == 6
    events = [json.loads(line) for line in request.run.events.read_text().splitlines()]
    (finding,) = next(event["findings"] for event in events if event["event"] == "error")
    assert finding["code"] == code
    assert what in finding["what"]
    assert (request.run.checkpoints.is_dir() and any(request.run.checkpoints.iterdir())) == (code == "T670")


def test_empty_answers_and_long_prompts(work: Work, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from dpo_recipes.engine import generation

    text = policy_recipe(tiny_model, tmp_path, f"kind: rloo, rewards: [{VOWELS}]")
    outcome = work(text, "data.max_length=20", "data.overlong=error")
    assert outcome.codes == ["D408"]
    end = 2  # <|im_end|>
    monkeypatch.setattr(generation, "write_answers", lambda model, prompts, *_: [[end] for _ in prompts])
    assert work(text).codes == ["T672"]


def test_prompts_alone_and_a_missing_column(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {number} plus one?", "sum": str(number + 1)} for number in range(12)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = (
        "objective: {kind: rloo, num_generations: 2, max_new_tokens: 4, rewards: [{rule: exact, column: COLUMN}]}\n"
    )
    text = recipe_text(tiny_model, path, section)
    assert work(text.replace("COLUMN", "total")).codes == ["D417"]
    outcome = work(text.replace("COLUMN", "sum"))
    assert outcome.exit_code == 0, outcome.codes
    assert outcome.result["metrics"]["eval_reward"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_a_reward_for_a_word_is_learned(work: Work, tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """The model is random at first, and says the word by chance: it is one of 400 tokens, and an answer has 16."""
    section = f"""objective:
  kind: {kind}
  rewards: [{{rule: regex, pattern: 'could'}}]
  num_generations: 8
  max_new_tokens: 16
  beta: 0.001
"""
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl", 64), section, "null")
    settings = ("max_steps=60", "micro_batch_size=8", "gradient_accumulation_steps=1", "learning_rate=5e-3")
    outcome = work(text, *(f"training.{setting}" for setting in settings), "accept_advice=[F790]")
    assert outcome.exit_code == 0, outcome.codes
    assert outcome.result["base_metrics"]["eval_reward"] < 0.2
    assert outcome.result["metrics"]["eval_reward"] > 0.8


def test_the_plan_of_generation() -> None:
    """2 layers with 2 heads of 8 numbers and a vocabulary of 100, 4 answers of 20 tokens at once after 12 of a prompt.

    Keys and values: 2 · 2 · 2 · 8 numbers of 4 bytes for each of 4 · 32 positions are 32,768 bytes; three copies of the
    newest logits are 3 · 4 · 100 · 4 = 4,800. A token takes 1,000 bytes at 10,000 a second, 0.1 s, or 2 · 50 · 4
    operations at 40,000 a second, 0.01 s: 0.1 s, and 0.02 s of Python. The 2 answers to a prompt are half of a batch:
    0.5 · 20 · 0.12 = 1.2 s. In 3 steps of 5 prompts on the same answers for 2 steps, and with 4 evaluated prompts, 14
    prompts are answered.
    """
    from dpo_recipes.fit.facts import JobFacts
    from dpo_recipes.fit.planner.rollout import rollout_cost, rollout_seconds
    from dpo_recipes.fit.simulation.trace import Rates
    from dpo_recipes.recipe.schema import Recipe

    recipe: Any = Recipe.model_validate(
        {
            "schema": 1, "name": "plan", "model": {"path": "gpt2"}, "data": {"train": [{"path": "rows.jsonl"}]},
            "objective": {
                "kind": "rloo", "rewards": [{"rule": "json"}], "num_generations": 2, "max_new_tokens": 20,
                "generation_batch_size": 4, "num_iterations": 2,
            },
            "training": {"max_steps": 3, "micro_batch_size": 5, "gradient_accumulation_steps": 1},
        }
    )  # fmt: skip
    text = SimpleNamespace(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, vocab_size=100
    )
    meta: Any = SimpleNamespace(
        recipe=recipe, config=SimpleNamespace(get_text_config=lambda: text), autocast_dtype=None, device="cpu",
        dtype="float32",
    )  # fmt: skip
    weights: Any = SimpleNamespace(base=1_000, num_base=50)
    lengths, rates = np.array([[12, 20, 20], [7, 20, 20]]), Rates(40_000.0, 10_000.0)
    cost = rollout_cost(meta, weights, lengths, rates, device_bytes=10**6)
    assert cost is not None
    assert cost.cache_bytes == 32_768 + 4_800
    assert cost.reward_bytes == 0
    assert cost.seconds_per_prompt == pytest.approx(1.2)
    assert rollout_seconds(cost, JobFacts(recipe, 30), num_evaluated=4) == pytest.approx(14 * 1.2)
    # vLLM reserves 0.3 of 1,000,000 bytes, and its tokens take 0.1 s: 0.5 · 20 · 0.1 s. A server reserves nothing here.
    for extra, reserved in (({}, 300_000), ({"server": "http://there:8000"}, 0)):
        generation = recipe.objective.generation.model_copy(update={"backend": "vllm", **extra})
        objective = recipe.objective.model_copy(update={"generation": generation})
        meta.recipe = recipe.model_copy(update={"objective": objective})
        of_vllm = rollout_cost(meta, weights, lengths, rates, device_bytes=10**6)
        assert of_vllm is not None
        assert (of_vllm.cache_bytes, of_vllm.vllm_bytes) == (0, reserved)
        assert of_vllm.seconds_per_prompt == pytest.approx(1.0)
