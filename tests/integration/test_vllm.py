"""Generation through vLLM, with stand-ins that answer by transformers: which weights, prompts and seeds it gets, what
becomes of its answers, and what can be wrong with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch
from fake_vllm import LLM, Server
from safetensors.torch import load_file
from tiny import make_tokenizer, recipe_text, write_pairs

from dpo_recipes.engine.merged_weights import merged_parameters
from dpo_recipes.objectives.generation import SAMPLER_DIFFERENCE, SAMPLER_RATIO, Generation, importance_weights

Work = Callable[..., Any]
VOWELS = "{rule: regex, pattern: '[aeiou]', count: 8}"
SETTINGS = ("training.learning_rate=5e-2", "training.eval_steps=2", "checkpoints.save_steps=1")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """TRL sets variables of torch.distributed for vLLM."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.pretend(monkeypatch)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, vllm: None) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(folder: Path, **config: Any) -> Server:
        servers.append(Server(folder, **config))
        fake_vllm.connect(monkeypatch, servers[-1])
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def vllm_recipe(
    model: Path, folder: Path, objective: str, generation: str = "", adapter: str = "{kind: lora, r: 4}"
) -> str:
    pairs = write_pairs(folder / "pairs.jsonl", 16)
    section = (
        f"objective: {{{objective}, rewards: [{VOWELS}], num_generations: 3, max_new_tokens: 6, temperature: 0.8, "
        f"generation: {{backend: vllm{generation}}}}}\n"
    )
    return recipe_text(model, pairs, section, adapter).replace("{device: cpu}", "{device: auto}")


def steps_of(outcome: Any) -> list[dict[str, Any]]:
    return [row for line in outcome.run.metrics.read_text().splitlines() if "loss" in (row := json.loads(line))]


def assert_policy_and_sampler_agree(outcome: Any) -> None:
    """vLLM has computed the answers of each step with the weights and the temperature of the policy in that step, and
    each answer is beside its own log-probabilities: otherwise they would differ by far more than rounding."""
    rows = [row for row in steps_of(outcome) if "reward" in row]
    assert rows
    for row in rows:
        assert row[SAMPLER_DIFFERENCE] < 1e-5
        assert row[SAMPLER_RATIO] == pytest.approx(1.0, abs=1e-4)
        assert math.isfinite(row["reward"])


@pytest.mark.parametrize(
    ("objective", "generation", "adapter"),
    [
        ("kind: rloo", "", "{kind: lora, r: 4}"),
        ("kind: grpo, beta: 0.04, num_iterations: 2", ", sleep: true, importance_sampling: token_truncate", "null"),
    ],
)
def test_vllm_generates_with_the_weights_of_each_step(
    work: Work, vllm: None, tiny_model: Path, tmp_path: Path, objective: str, generation: str, adapter: str
) -> None:
    text = vllm_recipe(tiny_model, tmp_path, objective, generation, adapter)
    outcome = work(text, *SETTINGS)
    assert outcome.exit_code == 0, outcome.codes
    assert_policy_and_sampler_agree(outcome)
    (llm,) = LLM.made
    settings = llm.settings
    assert settings["model"] == str(tiny_model)
    assert (settings["max_model_len"], settings["max_num_seqs"]) == (128, 32)
    assert (settings["gpu_memory_utilization"], settings["enable_sleep_mode"]) == (0.3, "sleep" in generation)
    pad = make_tokenizer().pad_token_id
    for prompts, params in llm.calls:
        assert (params.n, params.max_tokens, params.temperature, params.ignore_eos) == (3, 6, 0.8, True)
        assert params.stop_token_ids
        assert all(pad not in prompt for prompt in prompts)
        assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    # 4 prompts of each step that writes answers; held-out prompts with seeds, the same in each evaluation.
    trained = [params.seed for prompts, params in llm.calls if len(prompts) == 4]
    assert trained == [None] * (2 if "num_iterations" in objective else 3)
    seeds = [params.seed for prompts, params in llm.calls if params.seed is not None]
    per_evaluation = len(set(seeds))
    assert per_evaluation > 1
    assert seeds == seeds[:per_evaluation] * 3
    # The last evaluation is of the model that was saved.
    if "sleep" not in generation:
        assert llm.num_resets == 3 + 3
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), outcome.result["model_dir"])
        merged = tuned.merge_and_unload()
        for name, weight in merged.named_parameters():
            torch.testing.assert_close(llm.weights.model.get_parameter(name), weight, rtol=0, atol=1e-6)


def test_the_best_weights_are_sent_before_they_are_evaluated(
    work: Work, vllm: None, tiny_model: Path, tmp_path: Path
) -> None:
    """They are loaded after the last step, whose weights vLLM had."""
    text = vllm_recipe(tiny_model, tmp_path, "kind: rloo", adapter="null")
    settings = ("training.learning_rate=3e-1", "training.eval_steps=1", "checkpoints.save_steps=1")
    outcome = work(text, *settings, "checkpoints.keep_best=true")
    assert outcome.exit_code == 0, outcome.codes
    (llm,) = LLM.made
    saved = load_file(Path(outcome.result["model_dir"]) / "model.safetensors")
    for name, weight in saved.items():
        torch.testing.assert_close(llm.weights.model.get_parameter(name).detach(), weight.float(), rtol=0, atol=1e-2)


def test_a_resumed_run_sends_the_weights_of_its_checkpoint(
    work: Work, vllm: None, tiny_model: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    text = vllm_recipe(tiny_model, tmp_path, "kind: grpo")
    stop_at(1)
    stopped = work(text, *SETTINGS, "training.max_steps=4")
    assert stopped.exit_code != 0
    again = work(text, *SETTINGS, "training.max_steps=4", resume=True)
    assert again.exit_code == 0, again.codes
    assert again.result["resumed_from_step"] >= 1
    assert len(steps_of(again)) == 4
    assert_policy_and_sampler_agree(again)
    assert len(LLM.made) == 2


def test_a_server_generates_with_the_weights_of_each_step(
    work: Work, serve: Callable[..., Server], tiny_model: Path, tmp_path: Path
) -> None:
    server = serve(tiny_model)
    text = vllm_recipe(tiny_model, tmp_path, "kind: rloo", f", server: '{server.url}/'")
    outcome = work(text, *SETTINGS)
    assert outcome.exit_code == 0, outcome.codes
    assert_policy_and_sampler_agree(outcome)
    paths = [path.removeprefix("/") for path, _ in server.requests]
    updates = [place for place, path in enumerate(paths) if path == "update_weights"]
    assert len(updates) == 3 + 3  # of each step, and of each evaluation
    for place in updates:
        near = paths[place - 1 : place + 3]
        assert near == ["start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache"]
    assert not LLM.made


# Weights and factors


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}])
def test_merged_weights_are_those_of_peft_and_the_base_keeps_its_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    """In bfloat16, in which adding and subtracting the adapter would change the base."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False)
    base = GPT2LMHeadModel(config).bfloat16().eval()
    names = {name: tuple(weight.shape) for name, weight in base.named_parameters()}
    adapter = LoraConfig(r=4, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True, **settings)
    model = get_peft_model(base, adapter).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    merged = dict(merged_parameters(model))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {name: tuple(weight.shape) for name, weight in merged.items()} == names
    ids = torch.arange(6)[None]
    with torch.no_grad():
        logits = model(ids).logits
        fresh = GPT2LMHeadModel(config).bfloat16().eval()
        for name, weight in merged.items():
            fresh.get_parameter(name).copy_(weight)
        torch.testing.assert_close(fresh(ids).logits, logits, rtol=0.1, atol=0.05)
        assert not torch.equal(fresh(ids).logits, base(ids).logits) or settings.get("modules_to_save")
    expected = dict(model.merge_and_unload(safe_merge=True).named_parameters())
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())


def test_factors_that_correct_a_sampler() -> None:
    """Differences of log-probabilities: 0.5 and 0.1 of the first answer, 1.5 and padding of the second one. Factors of
    answers are exp(0.6) = 1.822 and exp(1.5) = 4.482, which is above 3; a NaN corrects nothing."""
    policy = torch.tensor([[[-1.0, -2.0], [-1.0, -7.0]]])
    sampler = torch.tensor([[[-1.5, -2.1], [-2.5, 0.0]]])
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])

    def factors(how: Any, sampler: torch.Tensor = sampler) -> list[Any]:
        weights = importance_weights(Generation(backend="vllm", importance_sampling=how), policy, sampler, mask)
        return [[pytest.approx(value, abs=1e-5) for value in answer] for answer in weights[0].tolist()]

    first, second, both, large = math.exp(0.5), math.exp(0.1), math.exp(0.6), 3.0
    assert factors("sequence_mask") == [[both], [0.0]]
    assert factors("sequence_truncate") == [[both], [large]]
    assert factors("token_mask") == [[first, second], [0.0, 1.0]]
    assert factors("token_truncate") == [[first, second], [large, 1.0]]
    unknown = torch.tensor([[[math.nan, -2.1], [-2.5, 0.0]]])
    assert factors("token_truncate", unknown) == [[1.0, second], [large, 1.0]]


# What can be wrong


def test_vllm_needs_cuda_which_is_said_before_anything_is_read(
    work: Work, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    from dpo_recipes.errors import RecipeError
    from dpo_recipes.objectives import generation

    text = vllm_recipe(tiny_model, tmp_path, "kind: rloo")
    with pytest.raises(RecipeError) as caught:  # it is not installed
        work(text)
    assert [finding.code for finding in caught.value.findings] == ["R316"]
    assert "dpo-recipe[vllm]" in (caught.value.findings[0].fix or "")
    monkeypatch.setattr(generation, "has_vllm", lambda: True)
    outcome = work(text)
    assert outcome.codes == ["T673"]
    assert not outcome.run.data_report.exists()


@pytest.mark.parametrize(
    ("config", "code", "what"),
    [
        ({"weight_transfer_config": None}, "T674", "without an engine"),
        ({"model_config": {"logprobs_mode": "raw_logprobs"}}, "T674", "--logprobs-mode raw_logprobs"),
        ({"max_model_len": 64}, "T677", "at most 64 tokens"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_before_weights_are_read(
    work: Work,
    serve: Callable[..., Server],
    tiny_model: Path,
    tmp_path: Path,
    config: dict[str, Any],
    code: str,
    what: str,
) -> None:
    server = serve(tiny_model, **config)
    outcome = work(vllm_recipe(tiny_model, tmp_path, "kind: rloo", f", server: '{server.url}'"))
    assert outcome.codes == [code]
    (finding,) = next(event["findings"] for event in outcome.events if event["event"] == "error")
    assert what in finding["what"] + finding["why"]
    assert finding["at"][:2] in (["objective", "generation"], ("objective", "generation"))
    assert not any(event.get("stage") == "model" for event in outcome.events)


def test_a_server_of_another_model_is_refused(
    work: Work, serve: Callable[..., Server], tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = tmp_path / "other"
    tokenizer = make_tokenizer(["The quick brown fox jumps over the lazy dogs."] * 3, 380)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    ).save_pretrained(other)
    tokenizer.save_pretrained(other)
    outcome = work(vllm_recipe(tiny_model, tmp_path, "kind: rloo", f", server: '{serve(other).url}'"))
    assert outcome.codes == ["T677"]


def test_a_server_that_does_not_answer(work: Work, vllm: None, tiny_model: Path, tmp_path: Path) -> None:
    generation = ", server: 'http://127.0.0.1:9', server_timeout_s: 0"
    outcome = work(vllm_recipe(tiny_model, tmp_path, "kind: rloo", generation))
    assert outcome.codes == ["T674"]
    assert not outcome.run.data_report.exists()


def test_a_server_that_fails_in_the_middle_ends_the_run_with_its_reason(
    work: Work, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    server = serve(tiny_model)
    complete = server.complete

    def fails_later(body: dict[str, Any]) -> Any:
        server.refuse_generation = sum(path == "/update_weights" for path, _ in server.requests) > 2
        return complete(body)

    monkeypatch.setattr(server, "complete", fails_later)
    text = vllm_recipe(tiny_model, tmp_path, "kind: rloo", f", server: '{server.url}'")
    outcome = work(text, "checkpoints.save_steps=1", "training.eval_steps=null")
    assert outcome.codes == ["T675"]
    assert any(outcome.run.checkpoints.iterdir())


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda answers: answers[:-1], "answers were requested"),
        (lambda answers: [*answers[:-1], ([], [])], "no token"),
        (lambda answers: [*answers[:-1], ([9999], [0.0])], "the token 9999"),
    ],
)
def test_answers_that_cannot_be_used(
    work: Work, vllm: None, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path, spoil: Any, what: str
) -> None:
    sample = fake_vllm.sample
    monkeypatch.setattr(fake_vllm, "sample", lambda *given: spoil(sample(*given)))
    outcome = work(vllm_recipe(tiny_model, tmp_path, "kind: rloo"))
    assert outcome.codes == ["T676"]
    (finding,) = next(event["findings"] for event in outcome.events if event["event"] == "error")
    assert what in finding["why"]


def test_tokens_that_a_template_adds(work: Work, vllm: None, tiny_model: Path, tmp_path: Path) -> None:
    text = vllm_recipe(tiny_model, tmp_path, "kind: rloo")
    assert work(text, "chat_template=llama3", "model.add_special_tokens=true").codes == ["T677"]
    assert not LLM.made
