"""`dpo-recipe data --model`: the similarity of a pair's answers to the model, as plain transformers gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tokenizer, recipe_text, write_pairs
from typer.testing import CliRunner, Result

from dpo_recipes.cli import app
from dpo_recipes.engine import displacement
from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.prepared_data import prepare_data
from dpo_recipes.recipe.validate import validate

TURNS = [
    {"role": "assistant", "content": "One."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Two, which is even."},
]
"""An answer of several turns, of which that of the user is not trained on."""


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, tokenizer = tmp_path_factory.mktemp("gpt2"), make_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = write_pairs(tmp_path / "pairs.jsonl")
    prompt = [{"role": "user", "content": "Count."}]
    other = [{"role": "assistant", "content": "No."}]
    with path.open("a") as file:
        file.write(json.dumps({"prompt": prompt, "chosen": TURNS, "rejected": other}) + "\n")
        file.write(json.dumps({"prompt": "Why " * 99, "chosen": "Because of that.", "rejected": "I ask."}) + "\n")
    return path


def write_recipe(folder: Path, model: Path, pairs: Path, extra: str = "", adapter: str = "{kind: lora, r: 4}") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(recipe_text(model, pairs, f"chat_template: chatml\n{extra}", adapter), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if isinstance(result.exception, DpoRecipeError):
        raise result.exception
    return result


def measure(*arguments: object) -> dict[str, Any]:
    return json.loads(run(*arguments, "--model", "--json").stdout)["displacement"]


def in_plain_transformers(recipe: Path, model: Path) -> dict[str, tuple[float, float]]:
    """CHES and its length-normalized variant of each training pair, by its place: row by row, without padding."""
    from transformers import AutoModelForCausalLM

    splits = prepare_data(validate(recipe).recipe, lambda name, detail: None, trust_remote_code=False).splits
    plain = AutoModelForCausalLM.from_pretrained(model)
    scores = {}
    for index, row in enumerate(splits.datasets["train"]):
        embedded = []
        for answer, context in zip(row["answer_ids"], row["answer_context"], strict=True):
            ids = torch.tensor([[*row["prompt_ids"], *answer]])
            with torch.no_grad():
                hidden = plain(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            skipped = {at for start, stop in zip(context[::2], context[1::2], strict=True) for at in range(start, stop)}
            first = len(row["prompt_ids"])
            embedded.append(hidden[[first + at - 1 for at in range(len(answer)) if at not in skipped]].double())
        chosen, rejected = (states.sum(dim=0) for states in embedded)
        mean_chosen, mean_rejected = (states.mean(dim=0) for states in embedded)
        scores[splits.row("train", index).where] = (
            float(chosen @ rejected - chosen.norm() ** 2),
            float(mean_chosen @ mean_rejected - mean_chosen.norm() ** 2),
        )
    return scores


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("sharing", ["auto", "off"])
def test_scores_equal_those_of_plain_transformers(
    tmp_path: Path, pairs: Path, tiny_model: Path, tiny_gpt2: Path, family: str, sharing: str
) -> None:
    model = tiny_model if family == "llama" else tiny_gpt2
    recipe = write_recipe(tmp_path, model, pairs)
    report = measure(recipe, "--set", f"training.prefix_sharing={sharing}")
    expected = in_plain_transformers(recipe, model)
    assert {row["where"] for row in report["scores"]} == expected.keys()
    assert (report["measured"], report["pairs"]) == (len(expected), len(expected))
    assert "pairs.jsonl:25" in expected  # the answer of several turns
    for row in report["scores"]:
        plain, normalized = expected[row["where"]]
        assert row["ches"] == pytest.approx(plain, rel=2e-4, abs=2e-3)
        assert row["normalized_ches"] == pytest.approx(normalized, rel=2e-4, abs=2e-4)
    values = [row["normalized_ches"] for row in report["scores"]]
    assert values == sorted(values, reverse=True)
    assert report["distribution"]["normalized_ches"]["max"] == values[0]
    assert report["distribution"]["ches"]["median"] == pytest.approx(
        np.median([row["ches"] for row in report["scores"]]), rel=1e-4
    )


def test_a_number_of_rows_and_another_split(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_model, pairs, adapter="null")
    whole = {row["where"]: row for row in measure(recipe, "--rows", 0)["scores"]}
    some = measure(recipe, "--rows", 5)
    assert (some["measured"], some["pairs"]) == (5, len(whole))
    for row in some["scores"]:  # batches differ
        assert row["normalized_ches"] == pytest.approx(whole[row["where"]]["normalized_ches"], rel=1e-3, abs=1e-4)
    held_out = measure(recipe, "--split", "eval")
    assert held_out["split"] == "eval"
    assert not {row["where"] for row in held_out["scores"]} & whole.keys()


def test_text_and_page_name_the_highest_pairs(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    recipe, page = write_recipe(tmp_path, tiny_model, pairs), tmp_path / "page.html"
    highest = measure(recipe, "--rows", 12)["scores"][0]
    result = run(recipe, "--model", "--rows", 12, "--html", page)
    assert result.exit_code == 0
    assert f"displacement: 12 of 20 (evenly spread; `--rows 0` measures all) pairs of `train`, under {tiny_model}" in (
        result.stdout
    )
    assert f"{highest['normalized_ches']:,.4g}" in result.stdout
    assert "leave them out, which reduced the displacement" in result.stdout
    assert "measure   12 pairs on cpu, float32" in result.stderr
    html = page.read_text(encoding="utf-8")
    assert '<section id="displacement">' in html
    assert f'<th scope="row">{highest["where"]}</th>' in html
    plain = run(recipe, "--html", page)
    assert "displacement" not in plain.stdout
    assert 'id="displacement"' not in page.read_text(encoding="utf-8")


def test_a_quantized_base_is_measured_as_it_is_trained(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_model, pairs)
    whole = measure(recipe, "--rows", 4)["distribution"]["normalized_ches"]
    rounded = measure(recipe, "--rows", 4, "--set", "model.quantization={bits: 4}")["distribution"]["normalized_ches"]
    assert rounded != whole
    assert rounded["median"] == pytest.approx(whole["median"], rel=0.5, abs=1.0)


@pytest.mark.parametrize(
    ("objective", "why"), [("kto", "rows of one answer"), ("sft", "rows of one answer"), ("reward", "a number")]
)
def test_an_objective_without_likelihoods_of_pairs(
    tmp_path: Path, pairs: Path, tiny_model: Path, objective: str, why: str
) -> None:
    recipe = write_recipe(tmp_path, tiny_model, pairs, f"objective: {{kind: {objective}}}\n")
    with pytest.raises(DpoRecipeError) as caught:
        run(recipe, "--model", "--set", "evaluation.num_samples=0")
    (found,) = caught.value.findings
    assert (found.code, caught.value.exit_code) == ("U407", 2)
    assert found.where is not None
    assert (found.where.text or "")[found.where.column - 1 :].startswith(objective)
    assert why in (found.why or "")


def test_rows_without_the_model_are_a_fault_of_usage(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    result = run(write_recipe(tmp_path, tiny_model, pairs), "--rows", 3)
    assert result.exit_code == 2
    assert "add --model" in result.stderr


def test_a_model_that_cannot_be_measured(
    tmp_path: Path, pairs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    recipe = write_recipe(tmp_path, broken, pairs)
    with pytest.raises(DpoRecipeError, match="T608") as caught:
        run(recipe, "--model")
    assert "pairs.jsonl:" in caught.value.findings[0].what
    (broken / "model.safetensors").unlink()
    with pytest.raises(DpoRecipeError, match="M504"):
        run(recipe, "--model")

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(displacement, "sum_hidden", fail)
    with pytest.raises(DpoRecipeError, match="T603"):
        run(write_recipe(tmp_path, tiny_model, pairs), "--model")
