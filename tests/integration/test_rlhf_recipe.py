"""The recipes of the whole pipeline, run from beginning to end on stand-ins: a reward model from pairs, a policy that
learns from its rewards, and an evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import make_tokenizer, save_tiny_encoder

from dpo_recipes.data.prepare import load_rows
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.jobs.chain import FinishedChain, run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.chain_plan import plan_chain
from dpo_recipes.jobs.plan import PlanOptions
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.shipped import recipe_paths, recipes_folder

pytestmark = pytest.mark.usefixtures("steps_here")


def _validate(name: str, folder: Path, *overrides: str) -> ValidatedChain:
    validated = validate_file(recipe_paths()[name], [f"output_dir={folder / 'runs'}", *overrides])
    assert isinstance(validated, ValidatedChain)
    return validated


def _run(validated: ValidatedChain) -> FinishedChain:
    return run_chain(validated, lambda event: None)


def _trained(chain: FinishedChain, name: str) -> FinishedRun:
    return open_run(_directory(chain, name))


def _compared(chain: FinishedChain) -> EvaluationResult:
    return EvaluationResult.read(_directory(chain, "compare") / "result.json")


def _directory(chain: FinishedChain, name: str) -> Path:
    (step,) = (step for step in chain.result.steps if step.name == name)
    return chain.directory.path / str(step.directory)


def _save_gpt2(folder: Path, texts: list[str]) -> Path:
    """A GPT-2 of two small layers whose tokenizer knows words, as a base without a chat template."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer(texts, 1200)
    tokenizer.chat_template = None
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _held_out(recipe: Recipe, shape: Any) -> set[str]:
    rows = load_rows(recipe.data, recipe.training.seed, shape).rows["eval"]
    return {row.prompt[0]["content"] for row in rows}


def test_a_csv_file_becomes_three_models_and_one_table(tmp_path: Path) -> None:
    with (recipes_folder() / "data/everyday/questions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    policy = _save_gpt2(tmp_path / "gpt2", [text for row in rows for text in row.values()])
    validated = _validate(
        "csv_rlhf",
        tmp_path,
        f"steps.reward_model.model.path={save_tiny_encoder(tmp_path / 'bert', max_position_embeddings=512)}",
        *(f"steps.{name}.model.path={policy}" for name in ("rloo", "dpo")),
        "hardware={device: cpu}",
        "training.max_steps=2",
        "steps.compare.device=cpu",
        "steps.compare.kl_prompts=4",
    )
    chain = _run(validated)
    assert [(step.name, step.state) for step in chain.result.steps] == [
        ("reward_model", "finished"), ("rloo", "finished"), ("dpo", "finished"), ("compare", "finished"),
    ]  # fmt: skip
    reward, rloo, dpo = (_trained(chain, name) for name in ("reward_model", "rloo", "dpo"))
    before = load_file(policy / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"]
    for run in (rloo, dpo):
        assert not load_file(run.model_dir / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"].equal(before)
    params: Any = rloo.recipe.objective
    assert (params.beta, params.temperature, params.top_p, params.max_new_tokens) == (0.2, 0.7, 0.95, 20)
    assert params.rewards[0].model == str(reward.run.path)
    assert dpo.recipe.training.gradient_checkpointing

    result = _compared(chain)
    assert [model.name for model in result.models] == ["rloo", "dpo", "base"]
    for model in result.models:
        assert {"bleu", "rouge_l", "reward/reward_model", "length/words", "length/tokens"} <= set(model.metrics)
        assert ("kl/token" in model.metrics) == (model.name != "base")
        assert model.metrics["length/tokens"].value <= 20
    assert [(each.model, each.against) for each in result.comparisons] == [
        ("rloo", "base"), ("dpo", "base"),
    ]  # fmt: skip
    assert all(set(each.win_rates) == {"reward_model"} for each in result.comparisons)
    # No model has seen a prompt that it is judged on, and the reward model has not either.
    shapes = ((reward, "pair"), (rloo, "prompt"), (dpo, "pair"))
    held_out, *others = [_held_out(run.recipe, shape) for run, shape in shapes]
    assert others == [held_out, held_out]
    lines = (_directory(chain, "compare") / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prompt"][0]["content"] for line in lines} == held_out
    assert result.num_prompts == len(held_out) > 10

    planned = plan_chain(validated, PlanOptions())
    assert list(planned.steps) == ["reward_model", "rloo", "dpo", "compare"]
    assert all(planned.steps[name].peak_bytes for name in ("reward_model", "rloo", "dpo"))


def _write_pairs(path: Path, numbers: range) -> Path:
    """Pairs whose chosen answers have more vowels."""
    rows = [
        {"prompt": f"What is {number}?", "chosen": "ae oi ua ei " * 2, "rejected": "xk qz vw jp " * 2}
        for number in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_pipeline_raises_the_reward_of_held_out_prompts(tmp_path: Path, tiny_model: Path) -> None:
    """A model that is random at first learns from a reward model that has learned from pairs."""
    train = _write_pairs(tmp_path / "train.jsonl", range(64))
    held_out = _write_pairs(tmp_path / "heldout.jsonl", range(100, 124))
    validated = _validate(
        "quickstart_rlhf",
        tmp_path,
        f"model={{path: '{tiny_model}', dtype: float32}}",
        "chat_template=chatml",
        f"data.train=[{{path: '{train}'}}]",
        f"data.eval.sources=[{{path: '{held_out}'}}]",
        f"steps.compare.data={held_out}",
        "steps.reward_model.training.max_steps=10",
        "steps.reward_model.training.learning_rate=5e-3",
        "steps.rloo.training.max_steps=16",
        "steps.rloo.training.learning_rate=5e-3",
        "steps.rloo.objective.max_new_tokens=12",
        "steps.compare.generate={temperature: 1.0, max_new_tokens: 12}",
        "steps.compare.kl_prompts=4",
        "hardware={device: cpu}",
        "steps.compare.device=cpu",
    )
    chain = _run(validated)
    result = _compared(chain)
    assert result.judges[0].accuracy is not None
    assert result.judges[0].accuracy.value > 0.9
    difference = result.comparisons[0].differences["reward/reward_model"]
    assert difference.low is not None
    assert difference.low > 0
