"""The plan of evaluations and samplings: counts and bytes as derived by hand, and the peak of a real process."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny import make_tokenizer, recipe_text, write_pairs

from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.evaluation_run import run_evaluation
from dpo_recipes.fit.planner.answers import AnsweringModel
from dpo_recipes.fit.planner.reward_models import recipe_of_model
from dpo_recipes.fit.planner.target import Target
from dpo_recipes.fit.planner.writing import STEP_S
from dpo_recipes.hardware.profiles import Device
from dpo_recipes.jobs.answers_plan import plan_section
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.chain_plan import plan_chain
from dpo_recipes.jobs.plan import PlanOptions, plan_run
from dpo_recipes.jobs.steps.train import reward_recipes, stand_in
from dpo_recipes.recipe.schema.evaluate import Evaluate

CHAIN = """\
schema: 1
name: tiny
steps:
  dpo: {recipe: base.yaml}
  judge:
    recipe: base.yaml
    objective: {kind: reward}
    set: {evaluation.num_samples: 0, model.adapter: null}
  rl:
    recipe: base.yaml
    objective: {kind: rloo, rewards: [{model: "step:judge"}], num_generations: 2, max_new_tokens: 8}
    set: {training.micro_batch_size: 2}
  compare:
    kind: evaluate
    models: ["step:dpo", "step:rl"]
    against: base
    rewards: [{model: "step:judge", name: judge}, {rule: json}]
    generate: {max_new_tokens: 8}
    kl_prompts: 2
  samples:
    kind: sample
    models: ["step:dpo", base]
    data: base.yaml
    limit: 10
    answers: 3
    generate: {temperature: 1.0, max_new_tokens: 12}
    rewards: [{model: "step:judge"}]
  again:
    recipe: base.yaml
    set: {data.train: [{path: "step:samples"}]}
  final:
    kind: evaluate
    models: ["step:again"]
    data: step:samples
    overlap: false
"""


@pytest.fixture
def chain(tiny_model: Path, tmp_path: Path) -> ValidatedChain:
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"))
    (tmp_path / "base.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "chain.yaml").write_text(CHAIN, encoding="utf-8")
    validated = validate_file(tmp_path / "chain.yaml", [])
    assert isinstance(validated, ValidatedChain)
    return validated


def device(flops: float, bandwidth: float) -> Target:
    """A CPU of these rates, of which a plan expects 60 % and 80 %."""
    rates = {"float32": flops / 0.6 / 1e12}
    return Target(
        Device("cpu", "CPU", 2**34, matmul_tflops=rates, memory_bandwidth_gb_s=bandwidth / 0.8 / 1e9), 2**33, False
    )


def test_writing_answers_takes_a_cache_its_copy_and_logits(tiny_model: Path) -> None:
    """2 layers with 2 heads of 8 numbers, float32: a position of a row has 2 · 2 · 2 · 8 · 4 = 256 bytes. 4 rows of 1 +
    99 positions have 102,400; half of it is copied, because one of two layers writes its newest token; and three copies
    of 4 rows of logits. For 6 prompts there are two batches; a token of one takes 1,000 times the weights' bytes, and
    the mean cache of 4 · (1 + 49.5) rows is read at the same rate."""
    model = AnsweringModel("tiny", recipe_of_model(str(tiny_model)), device(1e15, 1e6))
    written = model.write(np.array([1] * 6), 99, 4)
    assert written.num_bytes == 102_400 + 51_200 + 3 * 4 * 4 * model.config.vocab_size
    reading = model.write(np.array([1] * 6), 0, 4).seconds
    token_s = model.weights.base / 1e6 + STEP_S
    assert written.seconds - reading == pytest.approx(2 * 99 * (token_s + 4 * 50 * 256 / 1e6), rel=1e-3)
    assert model.write(np.array([], int), 99, 4).seconds == 0


def test_scoring_meets_the_head_at_the_answers_only(tiny_model: Path) -> None:
    """[rows, answer + 1, vocabulary] logits of 4 bytes, and for one row what logsumexp makes of them, which is three
    times that row."""
    model = AnsweringModel("tiny", recipe_of_model(str(tiny_model)), device(1e12, 1e10))
    texts = np.array([[10, 100]] * 4 + [[5, 5]] * 4)
    logits = 4 * 101 * model.config.vocab_size * 4
    scored = model.score(texts, 4)
    assert logits < scored.num_bytes < 1.6 * logits
    assert model.score(texts[4:], 4).num_bytes < logits / 4
    assert scored.seconds > model.score(texts[:4], 4).seconds  # two batches, of which one is shorter
    assert model.score(np.zeros((0, 2), int), 4).num_bytes == 0


def test_every_step_of_a_chain_has_its_time_memory_and_disk_use(chain: ValidatedChain, tiny_model: Path) -> None:
    base_bytes = (tiny_model / "model.safetensors").stat().st_size
    planned = plan_chain(chain, PlanOptions())
    steps = planned.steps
    assert list(steps) == ["dpo", "judge", "rl", "compare", "samples", "again", "final"]
    assert planned.time_s == pytest.approx(sum(step.time_s or 0 for step in steps.values()))
    for name in ("compare", "samples", "final"):
        step = steps[name]
        assert (step.peak_bytes or 0) > 400 * 2**20
        assert (step.time_s or 0) > 0
        assert (step.disk_bytes or 0) > 0
        assert step.is_upper_bound
    compare, samples, final = (steps[name].details for name in ("compare", "samples", "final"))
    assert (compare["num_prompts"], compare["is_data_read"]) == (6, True)  # a quarter of 24 pairs is held out
    assert set(compare["stages_s"]) == {"answers", "scores", "divergence", "rewards"}
    for model in ("step:dpo", "step:rl", "base"):
        assert compare["phases"][f"answers of {model}"] > 0
    assert "scores of the base of step:dpo" in compare["phases"]
    assert "rewards" in compare["phases"]
    assert (samples["num_prompts"], samples["is_data_read"]) == (10, True)
    assert set(samples["stages_s"]) == {"answers", "rewards"}
    assert samples["disk_bytes"] == 10 * 3 * 2 * 12 * 16
    assert (final["num_prompts"], final["is_data_read"]) == (10, False)  # they do not exist yet
    assert planned.disk_bytes == sum(step.disk_bytes or 0 for step in steps.values()) + base_bytes  # the base once


def test_without_reading_the_rows_are_as_long_as_they_can_be(chain: ValidatedChain) -> None:
    (step,) = [step for step in chain.steps if step.name == "compare"]
    read, assumed = (step.kind.plan(step, PlanOptions(read_data=wanted)).details for wanted in (None, False))
    assert (assumed["is_data_read"], assumed["num_prompts"]) == (False, 200)  # the limit
    assert assumed["phases"]["answers of base"] > read["phases"]["answers of base"]
    assert assumed["phases"]["scores of base"] > read["phases"]["scores of base"]


def test_rl_is_planned_with_a_reward_model_that_does_not_exist_yet(chain: ValidatedChain, tiny_model: Path) -> None:
    """It will be the backbone of its base with one row of 32 numbers on top, all in float32."""
    from transformers import AutoModel

    (step,) = [step for step in chain.steps if step.name == "rl"]
    recipes = reward_recipes(step)
    assert list(recipes) == ["step:judge"]
    job = plan_run(stand_in(step), PlanOptions(reward_recipes=recipes)).job
    (generation,) = [phase for phase in job.memory.phases if phase.name == "generation"]
    backbone = sum(weight.numel() for weight in AutoModel.from_pretrained(tiny_model).parameters())
    inverse_frequencies = 4  # a buffer of half of a head's width
    assert generation.parts["reward_models"] == pytest.approx(4 * (backbone + 32 + inverse_frequencies), abs=32)
    without = plan_run(stand_in(step), PlanOptions()).job
    (other,) = [phase for phase in without.memory.phases if phase.name == "generation"]
    assert "reward_models" not in other.parts
    assert (job.duration.total_s or 0) > (without.duration.total_s or 0)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"models": ["base"], "data": "x.jsonl"}, "T681"),
        ({"models": ["/nowhere/model"], "data": "x.jsonl"}, "M504"),
    ],
)
def test_a_model_that_cannot_be_planned_is_an_error(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(DpoRecipeError) as caught:
        plan_section(Evaluate.model_validate(settings), PlanOptions())
    assert caught.value.findings[0].code == code


def _peak_while(run: Any) -> int:
    """The most memory that any process below this one has while something runs."""
    peak, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.is_set():
            for child in psutil.Process().children(recursive=True):
                try:
                    peak = max(peak, child.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        is_over.set()
        watcher.join()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(("width", "vocabulary"), [(768, 2_000), (256, 60_000)], ids=["weights", "logits"])
def test_the_peak_is_that_of_a_real_evaluation(tmp_path: Path, width: int, vocabulary: int) -> None:
    """Of a model whose weights decide, and of one whose logits do."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.weight.data[len(tokenizer) :] = 0  # tokens without a text, which must not be chosen
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"{number} " * 30, "chosen": f"{number} " * 60, "rejected": f"{number + 1} " * 60}
        for number in range(100, 116)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    section = Evaluate.model_validate(
        {
            "models": [str(tmp_path / "model")], "data": str(tmp_path / "rows.jsonl"), "overlap": False,
            "generate": {"max_new_tokens": 24}, "chat_template": "chatml", "device": "cpu",
        }
    )  # fmt: skip
    planned, _ = plan_section(section, PlanOptions())
    peak = _peak_while(lambda: run_evaluation(section, tmp_path / "evaluation", lambda event: None))
    assert planned.highest.peak_bytes == pytest.approx(peak, rel=0.2)
