"""The end of a run: what can fail there fails before training, and what is saved beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import make_tokenizer, recipe_text, write_pairs
from transformers import LlamaConfig

from dpo_recipes.data.template import Template
from dpo_recipes.errors import Finding, Interrupted, RunError
from dpo_recipes.export.beside import ending_turns, turn_end
from dpo_recipes.export.card import render_card
from dpo_recipes.model.generation import prepare_generation
from dpo_recipes.model.tied import describe_untied, tied_names
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_result import Environment, ModelInfo, RunResult

Work = Callable[..., Any]
PLAIN = {"schema": 1, "name": "job", "model": {"path": "owner/base"}, "data": {"train": [{"path": "owner/rows"}]}}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def findings(outcome: Any) -> dict[str, dict[str, Any]]:
    return {e["finding"]["code"]: e["finding"] for e in outcome.events if e["event"] == "finding"}


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        ("dpo", "[dpo-recipe, dpo, trl]"),
        ("orpo", "[dpo-recipe, orpo]"),
        ("simpo", "[dpo-recipe, simpo]"),
        ("kto", "[dpo-recipe, kto]"),
        ("sft", "[dpo-recipe, sft]"),
        ("reward", "[dpo-recipe, reward]"),
    ],
)
def test_the_card_names_trl_only_if_its_trainer_was_used(kind: str, tags: str) -> None:
    recipe = Recipe.model_validate({**PLAIN, "objective": {"kind": kind}})
    result = RunResult(
        status="finished",
        recipe="job",
        saved="full",
        model=ModelInfo(trainable_parameters=1, total_parameters=2),
        environment=Environment(packages={"dpo-recipe": "1"}),
    )
    bundle: Any = SimpleNamespace(
        policy=SimpleNamespace(config=LlamaConfig()),
        location=SimpleNamespace(gguf_file=None),
        tokenizer=SimpleNamespace(convert_ids_to_tokens=lambda ids: ids),
        chat=SimpleNamespace(end_ids={"<end>"}),
    )
    card = render_card(recipe, result, bundle)
    assert f"\ntags: {tags}\n" in card
    assert ("trl" in card.lower()) == (kind == "dpo")


SAMPLES = "samples"
GREEDY = "greedily"


@pytest.mark.parametrize(
    ("generation", "saved", "words"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}, SAMPLES),
        ({"top_k": 5}, {"do_sample": True, "top_k": 5}, SAMPLES),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": False, "temperature": None}, GREEDY),
        ({"temperature": 0.0, "top_p": 0.5}, {"do_sample": None, "temperature": None, "top_p": None}, GREEDY),
        ({"early_stopping": True, "length_penalty": 0.5}, {"early_stopping": None}, "length_penalty: 0.5"),
        ({"output_scores": True, "min_p": 0.1}, {"output_scores": None, "min_p": 0.1, "do_sample": True}, SAMPLES),
        ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation": None}, "static"),
    ],
)
def test_a_generation_configuration_that_contradicts_itself_is_mended(
    tmp_path: Path, generation: dict[str, Any], saved: dict[str, Any], words: str
) -> None:
    from transformers import GenerationConfig

    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    policy = SimpleNamespace(generation_config=GenerationConfig.from_pretrained(tmp_path))
    (finding,) = prepare_generation(policy, frozenset({2, 1}), 0, "some/base")
    assert (finding.code, finding.severity) == ("M520", "warning")
    assert words in (finding.why or "")
    policy.generation_config.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert {name: written.get(name) for name in saved} == saved
    assert written["eos_token_id"] == [1, 2]


@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}"])
def test_such_a_base_is_tuned_and_saved(work: Work, base: Path, pairs: Path, adapter: str) -> None:
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9}))
    outcome = work(recipe_text(base, pairs, adapter=adapter), "training.max_steps=1")
    assert outcome.exit_code == 0
    assert "`do_sample: true` was added" in findings(outcome)["M520"]["why"]
    written = json.loads((outcome.run.path / "model" / "generation_config.json").read_text())
    assert (written["do_sample"], written["temperature"]) == (True, 0.6)


def test_a_generation_configuration_that_cannot_be_mended_is_refused() -> None:
    from transformers import GenerationConfig

    generation = GenerationConfig()
    generation.num_return_sequences = 3
    with pytest.raises(RunError, match=r"M521[\s\S]*num_return_sequences"):
        prepare_generation(SimpleNamespace(generation_config=generation), frozenset({1}), 0, "some/base")


def test_a_generation_configuration_without_a_fault_is_left_alone(work: Work, base: Path, pairs: Path) -> None:
    change_json(base / "generation_config.json", do_sample=True, temperature=0.7)
    outcome = work(recipe_text(base, pairs), "training.max_steps=1")
    assert "M520" not in findings(outcome)
    assert json.loads((outcome.run.path / "model" / "generation_config.json").read_text())["temperature"] == 0.7


def test_what_cannot_be_saved_ends_the_run_before_training(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerFast

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError("Object of type AddedToken is not JSON serializable")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", refuse)
    outcome = work(recipe_text(tiny_model, pairs))
    assert (outcome.exit_code, outcome.codes) == (6, ["M522"])
    error = next(e for e in outcome.events if e["event"] == "error")["findings"][0]
    assert error["what"] == "the tokenizer of the tuned model could not be saved"
    assert "AddedToken is not JSON serializable" in error["why"]
    assert "train" not in [e.get("name") for e in outcome.events if e["event"] == "stage"]
    assert not list(outcome.run.path.glob("rehearsal-*"))


def test_a_configuration_that_is_no_json_ends_the_run_before_training(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError("Object of type set is not JSON serializable")

    monkeypatch.setattr(LlamaConfig, "to_json_file", refuse)
    outcome = work(recipe_text(tiny_model, pairs, adapter="null"))
    assert (outcome.exit_code, outcome.codes) == (6, ["M522"])
    error = next(e for e in outcome.events if e["event"] == "error")["findings"][0]
    assert error["what"] == "the configuration of the tuned model could not be saved"


ODD = 'summary: "{{ nothing }} {% raw %} | `--- \\n# no heading\\u2028 \\U0001F600 <b>"'


def test_a_card_is_written_whatever_the_recipe_says(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs, ODD), "training.max_steps=1")
    assert outcome.exit_code == 0
    assert "{{ nothing }} {% raw %}" in (outcome.run.path / "model" / "README.md").read_text()


@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}", "{kind: lora, r: 4, save_as: merged}"])
def test_what_is_saved_ends_where_the_template_ends_a_turn(work: Work, base: Path, pairs: Path, adapter: str) -> None:
    """A base that ended with `<|endoftext|>`, tuned with ChatML."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    change_json(base / "generation_config.json", eos_token_id=ids[0])
    change_json(base / "config.json", eos_token_id=ids[0])
    outcome = work(recipe_text(base, pairs, "chat_template: chatml", adapter), "training.max_steps=1")
    folder = outcome.run.path / "model"
    assert sorted(GenerationConfig.from_pretrained(folder).eos_token_id) == sorted(ids)
    saved = AutoTokenizer.from_pretrained(folder)
    assert (saved.eos_token, saved.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    text = "<|im_start|>user\nHi<|im_end|>\n"
    assert saved(text)["input_ids"] == tokenizer(text)["input_ids"]
    if "r: 4}" not in adapter:
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == ids[1]
    assert "An answer ends with `<|endoftext|>` or `<|im_end|>`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "end_of_turn", "expected"),
    [
        ("{{ m.content }}<|im_end|>", "<|im_end|>", "<|im_end|>"),
        ("{{ m.content }}<|im_end|>{{ eos_token }}", "<|im_end|>", None),  # it writes the base's own as well
        ("{{ m.content }}{{ eos_token }}", "eos_token", None),
        ("{{ m.content }}Peru", "Peru", None),  # ordinary text
        ("{{ m.content }}", None, None),
    ],
)
def test_the_saved_tokenizer_ends_with_the_token_that_ends_a_turn_where_there_is_one(
    text: str, end_of_turn: str | None, expected: str | None
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    template = Template("own", text, (), end_of_turn)
    bundle: Any = SimpleNamespace(tokenizer=tokenizer, chat=SimpleNamespace(template=template))
    assert turn_end(bundle) == expected
    with ending_turns(bundle):
        assert tokenizer.eos_token == (expected or "<|endoftext|>")
    assert tokenizer.eos_token == "<|endoftext|>"


def stored(folder: Path) -> set[torch.dtype]:
    from safetensors.torch import load_file

    return {weight.dtype for path in folder.glob("*.safetensors") for weight in load_file(path).values()}


@pytest.mark.parametrize(
    ("adapter", "save_dtype", "expected"),
    [
        ("null", "auto", "bfloat16"),
        ("null", "float32", "float32"),
        ("{kind: lora, r: 4, save_as: merged, modules_to_save: [lm_head]}", "auto", "bfloat16"),
        ("{kind: lora, r: 4, save_as: merged}", "float16", "float16"),
    ],
)
def test_a_model_is_saved_in_the_format_of_its_base_or_the_one_that_is_asked_for(
    work: Work, base: Path, pairs: Path, adapter: str, save_dtype: str, expected: str
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    text = recipe_text(base, pairs, adapter=adapter)
    outcome = work(text, f"model.save_dtype={save_dtype}", "training.max_steps=1")
    folder = outcome.run.path / "model"
    assert stored(folder) == {getattr(torch, expected)}
    assert json.loads((folder / "config.json").read_text())["dtype"] == expected
    assert outcome.result["saved_dtype"] == expected
    assert str(AutoModelForCausalLM.from_pretrained(folder).dtype) == f"torch.{expected}"


def test_weights_that_float16_cannot_hold_are_saved_as_they_are(work: Work, base: Path, pairs: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.embed_tokens.weight.data[0, 0] = 1e6  # a token that no text has
    model.save_pretrained(base)
    text = recipe_text(base, pairs, adapter="null")
    outcome = work(text, "model.save_dtype=float16", "training.max_steps=1")
    assert "model.embed_tokens.weight" in findings(outcome)["M523"]["why"]
    assert stored(outcome.run.path / "model") == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "`lm_head` is trained, and `model.embed_tokens` keeps"),
        ({"modules_to_save": ["embed_tokens"]}, "`model.embed_tokens` is trained, and `lm_head` keeps"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "each is trained"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "`model.embed_tokens` is trained"),
        ({"target_modules": r".*embed_tokens"}, "`model.embed_tokens` is trained"),
        ({"target_modules": ["q_proj"]}, None),
    ],
)
def test_which_of_two_tied_matrices_is_trained_is_reported(settings: dict[str, Any], words: str | None) -> None:
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    tied, untied = (
        LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=is_tied)) for is_tied in (True, False)
    )
    config = LoraConfig(**settings)
    found = describe_untied(tied_names(tied), config, "some/base")
    assert [finding.code for finding in found] == (["M524"] if words else [])
    assert not words or words in (found[0].why or "")
    assert not describe_untied(tied_names(untied), config, "some/base")


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        ("null", ["model.save_dtype=bfloat16"]),
        ("{kind: lora, r: 4, init: pissa}", []),
        ("{kind: lora, r: 4, save_as: merged}", []),
    ],
)
def test_the_saved_model_is_reloaded_and_compared(
    work: Work, tiny_model: Path, pairs: Path, adapter: str, settings: list[str]
) -> None:
    text = recipe_text(tiny_model, pairs, adapter=adapter)
    outcome = work(text, "training.max_steps=2", "training.learning_rate=0.01", *settings)
    checked = outcome.result["saved_model"]
    assert (checked["checked"], checked["equal"], checked["pairs"]) == (True, True, 4)
    assert checked["largest_logit_difference"] <= 1e-5 * checked["largest_logit"]
    assert "M525" not in findings(outcome)
    assert "reloaded and compared on 4 rows" in outcome.run.report.read_text()


def swap_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(0).contiguous()
    save_file(weights, file, metadata={"format": "pt"})


def empty_adapter(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(weight) for name, weight in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("adapter", "damage"),
    [
        ("null", swap_head),
        ("{kind: lora, r: 4}", empty_adapter),
        ("{kind: lora, r: 4, save_as: merged}", swap_head),
    ],
)
def test_a_saved_model_that_computes_something_else_is_an_error_and_stays(
    work: Work,
    tiny_model: Path,
    pairs: Path,
    adapter: str,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dpo_recipes.export import save

    monkeypatch.setattr(save, "_check_saved", damage)
    outcome = work(recipe_text(tiny_model, pairs, adapter=adapter), "training.learning_rate=0.01")
    assert outcome.exit_code == 0
    assert findings(outcome)["M525"]["severity"] == "error"
    assert outcome.result["saved_model"]["equal"] is False
    assert list((outcome.run.path / "model").glob("*.safetensors"))
    assert "differs from the trained model" in outcome.run.report.read_text()


def test_without_held_out_pairs_training_pairs_are_compared(work: Work, tiny_model: Path, pairs: Path) -> None:
    text = recipe_text(tiny_model, pairs).replace("  eval: {fraction: 0.25}\n", "")
    outcome = work(text, "training.max_steps=1")
    assert outcome.result["num_eval_pairs"] == 0
    assert outcome.result["saved_model"]["equal"] is True


def fail(*arguments: Any) -> None:
    raise ValueError("no such layer\nand more")


def stop(*arguments: Any) -> None:
    raise Interrupted(Finding("I130", "the run was stopped"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("model.loading.free_memory_bytes", lambda kind: 10, "loading it takes 0.0 GiB beside the trained one"),
        ("export.check.reload_base", fail, "ValueError: no such layer"),
        ("export.check.reload_base", stop, "the run was asked to stop"),
        ("export.check.reload_base", lambda *_: torch.empty(10**15), "there was not enough memory to load it"),
    ],
)
def test_a_check_that_fails_does_not_end_the_run(
    work: Work,
    tiny_model: Path,
    pairs: Path,
    name: str,
    value: Callable[..., Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"dpo_recipes.{name}", value)
    outcome = work(recipe_text(tiny_model, pairs), "training.max_steps=1")
    assert outcome.exit_code == 0
    assert outcome.result["saved_model"]["checked"] is False
    assert outcome.result["saved_model"]["reason"].startswith(reason)
    assert f"not compared with the trained model: {reason}" in outcome.run.report.read_text()


def break_weights(folder: Path) -> None:
    raise RuntimeError("no weights")


@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}", "{kind: lora, r: 4, save_as: merged}"])
def test_a_failure_while_saving_keeps_what_was_trained_and_the_same_command_saves_it(
    work: Work, tiny_model: Path, pairs: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpo_recipes.export import save

    text = recipe_text(tiny_model, pairs, adapter=adapter)
    expected = work(text)
    with monkeypatch.context() as broken:
        broken.setattr(save, "_check_saved", break_weights)
        failed = work(text)
    assert (failed.exit_code, failed.codes) == (6, ["T609"])
    error = next(e for e in failed.events if e["event"] == "error")["findings"][0]
    assert error["why"] == "RuntimeError: no weights"
    assert "the same command resumes with saving" in error["fix"]
    resumed = work(text, resume=True)
    assert (resumed.exit_code, resumed.run.path) == (0, failed.run.path)
    assert resumed.result["resumed_from_step"] == resumed.result["steps"] == 3
    assert resumed.result["metrics"]["eval_loss"] == expected.result["metrics"]["eval_loss"]
    assert weights(resumed) == weights(expected)
    assert resumed.result["saved_model"]["equal"] is True


def weights(outcome: Any) -> dict[str, bytes]:
    """The saved files of weights."""
    return {path.name: path.read_bytes() for path in (outcome.run.path / "model").glob("*.safetensors")}


def test_where_no_checkpoint_can_be_written_either_the_first_failure_is_reported(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpo_recipes.engine.checkpoints import writer
    from dpo_recipes.export import save

    def refuse(*arguments: Any) -> None:
        raise ValueError("no state")

    monkeypatch.setattr(save, "_check_saved", break_weights)
    monkeypatch.setattr(writer, "save_loop_state", refuse)
    failed = work(recipe_text(tiny_model, pairs))
    error = next(e for e in failed.events if e["event"] == "error")["findings"][0]
    assert (error["code"], error["why"]) == ("T609", "RuntimeError: no weights")
    assert "no checkpoint of the last step could be written" in error["fix"]
