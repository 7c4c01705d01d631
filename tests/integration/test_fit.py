"""Simulated passes against real ones, plans of the shipped recipes, and what a run does with its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing import make_model, make_pairs
from tiny import make_tokenizer, recipe_text, write_pairs

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.dpo_trainer import PretokenizedDPOTrainer
from dpo_recipes.errors import FitError
from dpo_recipes.fit import check
from dpo_recipes.fit.planner import target
from dpo_recipes.fit.planner.memory import estimate_memory
from dpo_recipes.fit.planner.plan import Planner
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.planner.target import Target
from dpo_recipes.fit.planner.workload import assume_workload
from dpo_recipes.fit.simulation import passes
from dpo_recipes.fit.simulation.meta_model import load_meta_model, weigh
from dpo_recipes.fit.simulation.passes import Batch, simulate
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.hardware.profiles import profile
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths

Work = Callable[..., Any]
RATES = Rates(1e11, 1e10)
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3},
    "qwen2": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3},
    "gpt2": {"n_embd": 128, "n_layer": 3},
    "mistral with a window of 8": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3},
    "gemma2, soft-capped": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3},
}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def make_recipe(path: str = "owner/model", *, lora: bool = False, **training: Any) -> Recipe:
    plain: dict[str, Any] = {
        "schema": 1,
        "name": "fit",
        "model": {"path": path},
        "data": {"train": [{"path": "owner/pairs", "limit": 100}], "max_length": 128},
        "training": {"gradient_accumulation_steps": 1, **training},
        "hardware": {"device": "cpu"},
    }
    if lora:
        plain["model"]["adapter"] = {"kind": "lora"}
    return Recipe.model_validate(plain)


def save_config(folder: Path, config: Any) -> ModelLocation:
    config.save_pretrained(folder)
    return ModelLocation(str(folder))


def measured_peak(model: Any, recipe: Recipe, pairs: Any, folder: Path) -> int:
    """Bytes that torch had allocated at the peak of a real micro-batch, over what it had before."""
    from torch.profiler import ProfilerActivity, profile

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.engine_trainer import build_trainer
    from dpo_recipes.model.adapters import attach_adapter

    class Bundle:
        policy = model
        tokenizer = make_tokenizer()
        adapter_config = attach_adapter(recipe, ModelLocation("unused"), model, []).config
        device = "cpu"
        model_info: dict[str, Any] = {}  # noqa: RUF012

    trainer = build_trainer(Bundle(), TrainingContext(recipe, folder, "cpu", "float32"), {"train": pairs}, [])  # pyright: ignore
    if recipe.training.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[index] for index in range(3)]))
    trainer.model.train()
    for measures in (False, True):  # what is computed once for a shape is there the second time
        trainer.model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=measures) as profiler:
            trainer.accelerator.backward(trainer.compute_loss(trainer.model, batch))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("architecture", "lora", "checkpointing"),
    [
        *(("llama", lora, checkpointing) for lora in (False, True) for checkpointing in (False, True)),
        *(("gpt2", lora, not lora) for lora in (False, True)),
        ("qwen2", False, True),
        ("mistral with a window of 8", True, False),
        ("gemma2, soft-capped", True, False),
    ],
)
def test_a_simulated_micro_batch_takes_what_a_real_one_takes(
    architecture: str, lora: bool, checkpointing: bool, tmp_path: Path
) -> None:
    model = make_model(architecture, **SIZES[architecture])
    location = save_config(tmp_path / "model", model.config)
    recipe = make_recipe(lora=lora, micro_batch_size=3, gradient_checkpointing=checkpointing)
    from datasets import Dataset

    pairs = Dataset.from_list(make_pairs(3, prompts=(40,), answers=(30,), same_starts=(0,)))
    lengths = row_lengths(pairs).T.tolist()
    meta_model = load_meta_model(recipe, location, "cpu", trust_remote_code=False)
    meta_model.config._attn_implementation = model.config._attn_implementation
    predicted = sum(simulate(meta_model, Batch.of(*lengths), RATES).peak)
    measured = measured_peak(model, recipe, pairs, tmp_path)
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_a_deep_model_is_extrapolated_exactly(name: str, lora: bool, trains: bool, tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {
        "llama": lambda: transformers.LlamaConfig(vocab_size=500, num_hidden_layers=7, **shape),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=500, n_embd=64, n_layer=7, n_head=4),
        "gemma3": lambda: transformers.Gemma3TextConfig(vocab_size=500, num_hidden_layers=20, head_dim=16, **shape),
    }[name]()
    location = save_config(tmp_path, config)
    for checkpointing in (False, True):
        recipe = make_recipe(lora=lora, gradient_checkpointing=checkpointing)
        meta_model = load_meta_model(recipe, location, "cpu", trust_remote_code=False)
        batch = Batch.of([30, 20], [10, 12], [14, 9])
        short = simulate(meta_model, batch, RATES, trains=trains)
        whole = passes._trace(meta_model, None, batch, RATES, trains=trains)
        assert sum(short.peak) == pytest.approx(sum(whole.peak), rel=1e-3)
        assert short.flops == pytest.approx(whole.flops, rel=1e-6)
        assert short.seconds == pytest.approx(whole.seconds, rel=1e-3)


def llama(folder: Path, **changes: Any) -> ModelLocation:
    from transformers import LlamaConfig

    shape: dict[str, Any] = {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "dtype": "bfloat16",
    }  # fmt: skip
    return save_config(folder, LlamaConfig(**{**shape, **changes}))


def test_weights_of_llama_3_8b_in_every_form(tmp_path: Path) -> None:
    """8,030,261,248 parameters; of them 6,979,321,856 in linear layers but the head, at 0.5 + 1/64 + 4/(64 · 256) bytes
    each in doubly quantized nf4, and 1,050,939,392 of embeddings, head and norms at 2 bytes."""
    location = llama(tmp_path)
    plain = load_meta_model(make_recipe(lora=True), location, "cuda", trust_remote_code=False).with_dtype("bfloat16")
    whole = weigh(plain, plain.build())
    assert whole.num_base == 8_030_261_248
    assert whole.base == pytest.approx(2 * 8_030_261_248, rel=1e-4)
    assert whole.num_trainable == 41_943_040  # r = 16 on seven matrices of 32 layers
    recipe = check_recipe({"model.quantization": {"bits": 4}})
    quantized = weigh(plain.with_recipe(recipe), plain.build())
    expected = 6_979_321_856 * (0.5 + 1 / 64 + 4 / (64 * 256)) + 2 * 1_050_939_392
    assert quantized.base == pytest.approx(expected, rel=1e-4)


def check_recipe(settings: dict[str, Any]) -> Recipe:
    from dpo_recipes.fit.planner.changes import apply

    return apply(make_recipe(lora=True), settings)


def test_a_70b_is_planned_without_its_weights_and_sharded(tmp_path: Path) -> None:
    location = llama(tmp_path, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
    recipe = make_recipe(lora=True, gradient_checkpointing=True)
    device = profile("h100-80gb")
    plans = {}
    for name, sharding in (("alone", Sharding()), ("zero3", Sharding(8, "deepspeed-zero3"))):
        planner = Planner(
            recipe, location, Target(device, device.usable_bytes, False), assume_workload(recipe), sharding,
            trust_remote_code=False,
        )  # fmt: skip
        plans[name] = planner.plan(recipe, with_changes=False)
    assert 69e9 < plans["alone"].weights.num_base < 72e9
    assert not plans["alone"].fits
    assert plans["zero3"].memory.highest.parts["weights"] == pytest.approx(2 * 70.55e9 / 8, rel=0.01)
    assert plans["zero3"].fits


def config_only(folder: Path, name: str) -> Path:
    """The configuration of a shipped recipe's real model, with a small tokenizer and without weights."""
    from transformers import GPT2Config, Qwen2Config

    if name == "llama3_qlora":
        llama(folder)
    elif name == "qwen2_6gb":
        Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, tie_word_embeddings=True,
        ).save_pretrained(folder)  # fmt: skip
    elif name == "gpt2_medium_dpo_csv":
        GPT2Config(n_embd=1024, n_layer=24, n_head=16).save_pretrained(folder)
    else:
        GPT2Config().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("llama3_qlora", None),
        ("qwen2_6gb", None),
        ("gpt2_mps", None),
        ("gpt2_rm_hh", "rtx3060-12gb"),
        ("gpt2_medium_dpo_csv", "rtx3060-12gb"),
    ],
)
def test_a_flagship_recipe_fits_the_device_that_it_is_for(
    name: str, device: str | None, tmp_path: Path, capsys: Any
) -> None:
    from dpo_recipes.cli import app

    folder = config_only(tmp_path / "model", name)
    arguments = ["plan", name, "--set", f"model.path={folder}", "--json", "--no-data"]
    arguments += ["--hardware", device] if device else []
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    plan = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0, plan
    assert plan["fits"]
    assert sum(plan["parts"].values()) == plan["peak_bytes"] <= plan["device_bytes"]
    assert plan["step_s"] > 0
    assert {"weights", "gradients", "optimizer", "overhead"} <= set(plan["parts"])
    assert plan["changes"] == []


def test_plan_of_what_does_not_fit_names_the_changes_and_ends_with_5(tmp_path: Path, capsys: Any) -> None:
    from dpo_recipes.cli import app

    folder = config_only(tmp_path / "model", "llama3_qlora")
    with pytest.raises(SystemExit) as ended:
        app(
            [
                "plan",
                "llama3_qlora",
                "--set",
                f"model.path={folder}",
                "--hardware",
                "rtx2060-6gb",
                "--no-data",
                "--set",
                "model.dtype=float16",
            ]
        )
    out = capsys.readouterr().out
    assert ended.value.code == 5
    assert "does not fit, by " in out
    assert "--set " in out


def test_a_run_that_cannot_fit_is_refused_before_its_base_is_loaded(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "free_memory_bytes", lambda kind: 100 * 2**20)
    outcome = work(recipe_text(tiny_model, pairs))
    assert outcome.exit_code == FitError.of("F701", "x").exit_code == 5
    assert outcome.codes == ["F701"]
    assert "model" not in [event.get("name") for event in outcome.events]
    unchecked = work(recipe_text(tiny_model, pairs), "hardware.fit=false", "training.max_steps=1")
    assert unchecked.exit_code == 0


def test_fit_changes_the_micro_batch_and_keeps_the_step(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs).replace("micro_batch_size: 2", "micro_batch_size: 8")
    free = work(text).events
    predicted = json.loads((work(text).run.plan).read_text())["prediction"]
    assert free[-1]["event"] == "done"
    monkeypatch.setattr(target, "free_memory_bytes", lambda kind: predicted["peak_bytes"] - 2**18)
    outcome = work(text, "hardware.fit=true")
    assert outcome.exit_code == 0
    plan = json.loads(outcome.run.plan.read_text())["prediction"]
    assert plan["fits"]
    assert plan["pairs_per_step"] == predicted["pairs_per_step"]
    assert [e["finding"]["code"] for e in outcome.events if e["event"] == "finding"].count("F703") == 1


def test_a_run_near_its_limit_is_warned_and_goes_on(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "DOUBT", 100.0)
    outcome = work(recipe_text(tiny_model, pairs), "training.max_steps=1")
    assert outcome.exit_code == 0
    assert "F702" in [e["finding"]["code"] for e in outcome.events if e["event"] == "finding"]


def trained_weights(outcome: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(outcome.run.path / "model" / "adapter_model.safetensors")


def logged(outcome: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every batch of more than some rows run out of memory from the third training batch on."""

    def install(rows: int) -> None:
        from dpo_recipes.engine.dpo_trainer import PretokenizedDPOTrainer

        seen = 0
        whole = PretokenizedDPOTrainer.compute_loss

        def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += model.training
            if model.training and seen > 4 and len(inputs["input_ids"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return whole(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(PretokenizedDPOTrainer, "compute_loss", compute_loss)

    return install


def test_out_of_memory_under_fit_goes_on_with_the_same_steps(
    work: Work, tiny_model: Path, pairs: Path, short_of_memory: Callable[[int], None]
) -> None:
    text = recipe_text(tiny_model, pairs)
    whole = work(text, "hardware.fit=true")
    short_of_memory(2)
    outcome = work(text, "hardware.fit=true")
    assert outcome.exit_code == 0
    notes = [event["text"] for event in outcome.events if event["event"] == "note"]
    assert any("resuming with micro_batch_size 1 and gradient_accumulation_steps 4" in note for note in notes)
    assert outcome.result["steps"] == whole.result["steps"] == 3
    for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected", "num_tokens"):
        numbers, expected = ([row[name] for row in logged(run) if "loss" in row] for run in (outcome, whole))
        assert numbers == pytest.approx(expected, rel=1e-4), name
    assert [row["step"] for row in logged(outcome) if "loss" in row] == [1, 2, 3]


COMPARES = "objective={kind: dpo, loss_type: aot}"


def test_fit_keeps_a_micro_batch_that_the_loss_depends_on(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs).replace("micro_batch_size: 2", "micro_batch_size: 8")
    whole = work(text, COMPARES)
    predicted = json.loads(whole.run.plan.read_text())["prediction"]
    monkeypatch.setattr(target, "free_memory_bytes", lambda kind: predicted["peak_bytes"] - 2**18)
    outcome = work(text, COMPARES, "hardware.fit=true")
    assert outcome.exit_code == 0
    (changed,) = (e["finding"] for e in outcome.events if e["event"] == "finding" and e["finding"]["code"] == "F703")
    assert changed["what"] == "changed to make the run fit: `training.gradient_checkpointing: true`"
    found, expected = ([row["loss"] for row in logged(run) if "loss" in row] for run in (outcome, whole))
    assert found == pytest.approx(expected, rel=1e-5)


def test_fit_names_the_micro_batch_that_only_a_person_may_lower(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs).replace("micro_batch_size: 2", "micro_batch_size: 8")
    lean = work(text, COMPARES, "training.gradient_checkpointing=true")
    predicted = json.loads(lean.run.plan.read_text())["prediction"]
    monkeypatch.setattr(target, "free_memory_bytes", lambda kind: predicted["peak_bytes"] - 2**18)
    monkeypatch.setattr(check, "DOUBT", 0.0)
    outcome = work(text, COMPARES, "hardware.fit=true")
    assert outcome.codes == ["F701"]
    finding = outcome.events[-1]["findings"][0]
    assert "`--fit` cannot lower `micro_batch_size`, because the loss of DPO (aot) compares the rows" in finding["why"]
    assert "--set training.micro_batch_size=4 --set training.gradient_accumulation_steps=4" in finding["fix"]
    assert "`--fit` leaves such changes to you" in finding["fix"]


def test_out_of_memory_ends_a_run_whose_loss_depends_on_the_micro_batch(
    work: Work, tiny_model: Path, pairs: Path, short_of_memory: Callable[[int], None]
) -> None:
    short_of_memory(2)
    outcome = work(recipe_text(tiny_model, pairs), COMPARES, "hardware.fit=true")
    assert outcome.codes == ["T603"]
    finding = outcome.events[-1]["findings"][0]
    assert "which gives other results, because the loss of DPO (aot) compares the rows" in finding["fix"]
    assert "but not the micro-batch" in finding["fix"]
    assert not any("resuming with" in event.get("text", "") for event in outcome.events)


def test_out_of_memory_in_the_optimizer_leaves_no_checkpoint_of_a_half_step(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs) + "checkpoints: {save_steps: 1}\n"
    whole = work(text, "hardware.fit=true")
    own, steps = torch.optim.AdamW.step, 0

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0].mul_(2.0)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return own(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    failed = work(text, "hardware.fit=true")
    assert (failed.exit_code, failed.codes) == (6, ["T603"])
    again = work(text, "hardware.fit=true", resume=True)
    assert again.result["resumed_from_step"] == 2
    found, wanted = ([row["loss"] for row in logged(run) if "loss" in row] for run in (again, whole))
    assert found == wanted


def test_out_of_memory_in_an_evaluation_counts_no_step_twice(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs).replace("logging_steps: 1", "logging_steps: 1, eval_steps: 1")
    expected = work(text, "hardware.fit=true")
    whole = PretokenizedDPOTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not model.training and self.state.global_step == 2 and len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretokenizedDPOTrainer, "compute_loss", compute_loss)
    outcome = work(text, "hardware.fit=true")
    for name in ("loss", "eval_loss"):
        found, wanted = ({row["step"]: row[name] for row in logged(run) if name in row} for run in (outcome, expected))
        assert found == pytest.approx(wanted, rel=1e-4), name
    assert [row["step"] for row in logged(outcome) if "loss" in row] == [1, 2, 3]
    assert outcome.result["metrics"]["train_loss"] == pytest.approx(expected.result["metrics"]["train_loss"], rel=1e-4)


def test_out_of_memory_otherwise_says_what_was_predicted(
    work: Work, tiny_model: Path, pairs: Path, short_of_memory: Callable[[int], None]
) -> None:
    short_of_memory(2)
    outcome = work(recipe_text(tiny_model, pairs))
    assert outcome.codes == ["T603"]
    finding = outcome.events[-1]["findings"][0]
    assert "GiB were predicted" in finding["why"]
    assert "--fit" in finding["fix"]


def test_the_trial_of_the_largest_batch_leaves_nothing_behind(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe_text(tiny_model, pairs, adapter="{kind: lora, r: 4, dropout: 0.2}")
    with_trial = work(text)
    assert any("largest micro-batch" in event.get("text", "") for event in with_trial.events)
    from dpo_recipes.engine.probe import ProbeCallback

    monkeypatch.setattr(ProbeCallback, "on_train_begin", lambda *args, **kwargs: None)
    without = work(text)
    expected = trained_weights(without)
    assert all(torch.equal(weight, expected[name]) for name, weight in trained_weights(with_trial).items())
    kept = ("loss", "num_tokens", "rewards/margins")
    rows = [[{name: row.get(name) for name in kept} for row in logged(run)] for run in (with_trial, without)]
    assert rows[0] == rows[1]


@pytest.mark.slow  # needs the quickstart's model, 93 MB
def test_the_quickstart_is_planned_from_its_gguf_file() -> None:
    from dpo_recipes.model.sources import resolve_model

    recipe = validate(recipe_paths()["quickstart"], []).recipe
    meta_model = load_meta_model(recipe, resolve_model(recipe.model), "cpu", trust_remote_code=False)
    weights = weigh(meta_model, meta_model.build())
    assert weights.num_base == 134_515_008
    estimate = estimate_memory(meta_model, weights, Batch.of([40] * 2, [30] * 2, [30] * 2), RATES, Sharding())
    assert estimate.peak_bytes > weights.base
