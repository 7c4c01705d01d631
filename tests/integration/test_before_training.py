"""Faults of a base, its files and the recipe's module names are found before a weight is read, by a plan and a run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from preflight import check
from safetensors.torch import load_file, save_file
from tiny import recipe_text, write_pairs
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.recipe.validate import validate

Work = Callable[..., Any]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def with_adapter(model: Path, pairs: Path, settings: str) -> str:
    return recipe_text(model, pairs, adapter=f"{{kind: lora, r: 4, {settings}}}")


def with_objective(kind: str, model: Path, pairs: Path, adapter: str) -> str:
    text = recipe_text(model, pairs, f"objective: {{kind: {kind}}}\nchat_template: chatml\n", adapter)
    return text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", "")


def changed(model: Path, folder: Path, change: Callable[[Weights], Weights], **config: Any) -> Path:
    """A copy of a model with other weights in its file."""
    shutil.copytree(model, folder)
    save_file({k: v.contiguous() for k, v in change(load_file(folder / "model.safetensors")).items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    if config:
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **config}))
    return folder


@pytest.mark.parametrize(
    ("settings", "code", "what", "hint"),
    [
        ("target_modules: [q_proj, v_porj]", "R337", "`v_porj` matches no module", "did you mean `v_proj`?"),
        ("target_modules: [c_attn]", "R337", "`c_attn` matches no module", "names of this model"),
        ("target_modules: [layers.7.mlp.up_proj]", "R337", "`layers.7.mlp.up_proj` matches no module", "mlp.up_proj"),
        ("target_modules: [roj]", "R337", "`roj` matches no module", ""),
        ("target_modules: q_proj", "R337", "the pattern `q_proj` matches no module", "write a list: `[q_proj]`"),
        ("target_modules: 'q_proj, v_proj'", "R337", "matches no module", "write a list: `[q_proj, v_proj]`"),
        ("target_modules: '.*[.]query'", "R337", "matches no module", "model.layers.0.self_attn.q_proj"),
        ("target_modules: [q_proj, lm_head]", "R339", "puts an adapter on the LM head", "modules_to_save: [lm_head]"),
        ("target_modules: '.*(q_proj|lm_head)'", "R339", "on the LM head `lm_head`", "leave `lm_head` out"),
        ("target_modules: [norm]", "R339", "`norm` matches modules that cannot have an adapter", "name linear layers"),
        ("target_modules: [mlp]", "R339", "`mlp` matches modules that cannot have", "gate_proj, up_proj, down_proj"),
        ("target_modules: [embed_tokens], modules_to_save: [embed_tokens]", "R339", "in `modules_to_save`", "remove"),
        ("modules_to_save: [embed_token]", "R337", "`embed_token` matches no module", "did you mean `embed_tokens`?"),
        ("modules_to_save: [lm_head, wte]", "R337", "`wte` matches no module", "names of this model"),
        ("modules_to_save: [tokens]", "R337", "`tokens` matches no module", "embed_tokens"),
    ],
)  # fmt: skip
def test_names_of_modules(
    tiny_model: Path, pairs: Path, tmp_path: Path, settings: str, code: str, what: str, hint: str
) -> None:
    (finding,) = check(tmp_path / "r.yaml", with_adapter(tiny_model, pairs, settings))
    assert finding.code == code
    assert what in finding.what
    assert hint in str(finding.fix)
    assert finding.where is not None
    assert (finding.where.file, finding.where.line) == (str(tmp_path / "r.yaml"), 3)


def test_every_misspelt_name_is_pointed_at(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    text = recipe_text(tiny_model, pairs).replace("adapter: {kind: lora, r: 4}", "adapter: {kind: lora}")
    overrides = ["model.adapter.target_modules=[q_proj, k_porj, v_porj]", "model.adapter.modules_to_save=[wte]"]
    findings = check(tmp_path / "r.yaml", text, *overrides)
    shown = {
        finding.where.text[finding.where.column - 1 :][: finding.where.length]
        for finding in findings
        if finding.where and finding.where.text
    }
    assert shown == {"k_porj", "v_porj", "wte"}
    assert "LlamaForCausalLM has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in str(findings[1].why)


@pytest.mark.parametrize(
    "settings",
    [
        "target_modules: all-linear",
        "target_modules: [q_proj, layers.1.mlp.up_proj, model.layers.0.self_attn.k_proj, embed_tokens]",
        "target_modules: '.*layers[.]1[.].*_proj'",
        "modules_to_save: [lm_head, norm, model.embed_tokens]",
        "use_dora: true",
        "r: 900",
    ],
)
def test_right_names_pass(tiny_model: Path, pairs: Path, tmp_path: Path, settings: str) -> None:
    text = with_adapter(tiny_model, pairs, settings).replace("r: 4, r: 900", "r: 900")
    assert check(tmp_path / "r.yaml", text) == []


def test_a_plan_and_a_run_say_the_same(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    text = with_adapter(tiny_model, pairs, "target_modules: [q_porj]")
    outcome = work(text)
    assert (outcome.exit_code, outcome.codes) == (3, ["R337"])
    assert [event["name"] for event in outcome.events if event["event"] == "stage"] == ["start", "check"]
    assert outcome.events[-1]["findings"][0]["at"] == ["model", "adapter", "target_modules", 0]
    (tmp_path / "plan.yaml").write_text(text)
    planned = CliRunner().invoke(app, ["plan", str(tmp_path / "plan.yaml"), "--no-data"])
    assert isinstance(planned.exception, DpoRecipeError)
    assert "plan.yaml:3:" in str(planned.exception)
    assert "q_porj" in str(planned.exception)


def _gpt2(folder: Path, tiny_model: Path, *, ties: bool = True) -> Path:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=len(tokenizer), tie_word_embeddings=ties)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_other_architectures_have_other_names(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    model = _gpt2(tmp_path / "gpt2", tiny_model)
    assert check(tmp_path / "r.yaml", with_adapter(model, pairs, "target_modules: [c_attn, c_proj]")) == []
    (finding,) = check(tmp_path / "r.yaml", with_adapter(model, pairs, "target_modules: [q_proj, c_attn]"))
    assert "GPT2LMHeadModel has c_attn, c_proj, c_fc" in str(finding.why)


@pytest.mark.parametrize("names", ["[w1, w2, w3]", "[gate_proj]", "[q_proj, w1]"])
def test_experts_of_a_mixture_keep_their_former_names(
    tiny_model: Path, pairs: Path, tmp_path: Path, names: str
) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes: Any = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(**sizes, num_hidden_layers=2, num_local_experts=2, vocab_size=400)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixtral")
    found = check(tmp_path / "r.yaml", with_adapter(tmp_path / "mixtral", pairs, f"target_modules: {names}"))
    expected = {"[w1, w2, w3]": [], "[gate_proj]": ["R337"], "[q_proj, w1]": ["R339"]}
    assert [finding.code for finding in found] == expected[names]


# Weights


def _without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v for k, v in weights.items() if not any(part in k for part in parts)}


def _renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k.replace(old, new, 1): v for k, v in weights.items()}


def _added(**more: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{k.replace("__", "."): v for k, v in more.items()}}


BROKEN_WEIGHTS = [
    (_without("lm_head"), {}, "1 weight of LlamaForCausalLM is not in", "lm_head.weight"),
    (_without("layers.1."), {}, "9 weights of LlamaForCausalLM are not in", "model.layers.1.input_layernorm.weight"),
    (_renamed("model.", "transformer."), {}, "have other names", "transformer.embed_tokens.weight"),
    (_renamed("", "module."), {}, "have other names", "module.lm_head.weight"),
    (_renamed(".weight", ".base_layer.weight"), {}, "have other names", "base_layer"),
    (lambda w: w, {"intermediate_size": 96}, "6 weights of", "model.layers.0.mlp.down_proj.weight is 32×64, not 32×96"),
    (lambda w: w, {"num_hidden_layers": 1}, "9 weights of", "model.layers.1.input_layernorm.weight"),
    (_added(model__layers__0__self_attn__q_proj__bias=torch.ones(32)), {}, "1 weight of", "q_proj.bias"),
    (lambda w: _added(score__weight=torch.ones(1, 32))(_without("lm_head")(w)), {}, "have other names", "score.weight"),
]  # fmt: skip


@pytest.mark.parametrize("while_loading", [False, True])  # files on the hub and pickles are checked only then
@pytest.mark.parametrize(("change", "config", "what", "why"), BROKEN_WEIGHTS)
def test_weights_that_files_lack(
    tiny_model: Path,
    pairs: Path,
    tmp_path: Path,
    change: Callable[[Weights], Weights],
    config: Any,
    what: str,
    why: str,
    *,
    while_loading: bool,
) -> None:
    text = recipe_text(changed(tiny_model, tmp_path / "base", change, **config), pairs)
    (finding,) = _load(text, tmp_path) if while_loading else check(tmp_path / "r.yaml", text)
    assert finding.code == "M516"
    assert what in finding.what
    assert why in str(finding.why)


def _load(text: str, folder: Path, *overrides: str) -> list[Finding]:
    """What is found when the weights are loaded."""
    from types import SimpleNamespace

    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.tokenizer import load_tokenizer

    (folder / "r.yaml").write_text(text, encoding="utf-8")
    recipe = validate(folder / "r.yaml", list(overrides)).recipe
    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location)
    chat = SimpleNamespace(end_ids=[tokenizer.eos_token_id], added_ids=[])
    try:
        return build_model(recipe, location, tokenizer, chat, trust_remote_code=False).findings
    except DpoRecipeError as error:
        return list(error.findings)


def test_what_a_model_does_not_use_is_a_warning(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    extra = _added(score__weight=torch.ones(1, 32), model__vision_tower__proj__weight=torch.ones(2, 2))
    outcome = work(recipe_text(changed(tiny_model, tmp_path / "base", extra), pairs), "training.max_steps=1")
    assert outcome.exit_code == 0
    (finding,) = [e["finding"] for e in outcome.events if e["event"] == "finding" and e["finding"]["code"] == "M517"]
    assert "model.vision_tower.proj.weight, score.weight" in finding["why"]


@pytest.mark.parametrize(
    "extra",
    [
        {"model__layers__0__self_attn__rotary_emb__inv_freq": torch.ones(4)},
        {"model__rotary_emb__inv_freq": torch.ones(4), "model__embeddings__position_ids": torch.ones(4)},
    ],
)
def test_buffers_of_former_versions_say_nothing(
    tiny_model: Path, pairs: Path, tmp_path: Path, extra: dict[str, torch.Tensor]
) -> None:
    base = changed(tiny_model, tmp_path / "base", _added(**extra))
    assert check(tmp_path / "r.yaml", recipe_text(base, pairs)) == []


@pytest.mark.parametrize("ties", [True, False])
def test_gpt2_as_it_was_published(tiny_model: Path, pairs: Path, tmp_path: Path, ties: bool) -> None:
    """Without a prefix, with its masks, and without the head that is tied."""
    model = _gpt2(tmp_path / "gpt2", tiny_model, ties=ties)

    def as_published(weights: Weights) -> Weights:
        masks = {f"h.{n}.attn.{kind}": torch.ones(1) for n in range(2) for kind in ("bias", "masked_bias")}
        return masks | {k.removeprefix("transformer."): v for k, v in weights.items()}

    base = changed(model, tmp_path / "published", as_published)
    assert check(tmp_path / "r.yaml", with_adapter(base, pairs, "target_modules: [c_attn]")) == []


def test_both_of_a_tied_pair_are_missing(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    base = changed(_gpt2(tmp_path / "gpt2", tiny_model), tmp_path / "base", _without("wte", "lm_head"))
    (finding,) = check(tmp_path / "r.yaml", recipe_text(base, pairs))
    assert (finding.code, "transformer.wte.weight" in str(finding.why)) == ("M516", True)


def test_an_index_that_lacks_a_part(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(base, max_shard_size="60KB")
    text = recipe_text(base, pairs)
    assert check(tmp_path / "r.yaml", text) == []
    last = max(base.glob("model-*.safetensors"))
    last.unlink()
    (finding,) = check(tmp_path / "r.yaml", text)
    assert finding.code == "M516"
    assert last.name in finding.what
    last.write_bytes(b"torn")
    (finding,) = check(tmp_path / "r.yaml", text)
    assert (finding.code, last.name in finding.what) == ("M504", True)


@pytest.mark.parametrize("quantization", ["{bits: 4}", "{bits: 8}"])
def test_a_base_that_is_quantized_while_loading(
    tiny_model: Path, pairs: Path, tmp_path: Path, quantization: str
) -> None:
    base = changed(tiny_model, tmp_path / "base", _without("layers.1.mlp.up_proj"))
    (finding,) = _load(recipe_text(base, pairs), tmp_path, f"model.quantization={quantization}")
    assert (finding.code, "model.layers.1.mlp.up_proj.weight" in str(finding.why)) == ("M516", True)
    whole = recipe_text(tiny_model, pairs)
    assert _load(whole, tmp_path, f"model.quantization={quantization}") == []


# Adapters


def test_an_adapter_given_as_the_base(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    folder = work(recipe_text(tiny_model, pairs), "training.max_steps=1").run.path / "model"
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(folder, pairs))
    with pytest.raises(DpoRecipeError) as caught:
        validate(path)
    (finding,) = caught.value.findings
    assert finding.code == "R350"
    assert finding.where is not None
    assert finding.where.line == 3
    assert f"`model.path: {tiny_model}`" in str(finding.fix)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """A LoRA on two kinds of layers, with the head trained whole."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def _change_adapter(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "adapter_model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    save_file({k: v.contiguous() for k, v in change(weights).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without("layers.1."), "4 of its weights are not in its file: model.layers.1.self_attn.q_proj.lora_A.weight"),
        (_renamed("q_proj", "query"), "4 of its 9 weights match no module: model.layers.0.self_attn.query.lora_A"),
        (_renamed("base_model.model.model.", "base_model.model.transformer."), "8 of its 9 weights match no module"),
        (_without("lm_head"), "its file lacks base_model.model.lm_head.weight"),
        (lambda w: {k: v[:, :-1] for k, v in w.items()}, "q_proj.lora_A.weight is 4×31, and the base needs 4×32"),
        (
            lambda w: {k: v[:2] if "lora_A" in k else v for k, v in w.items()},
            "q_proj.lora_A.weight is 2×32, and the base needs 4×32",
        ),
    ],
)
def test_an_adapter_that_fits_only_in_part(
    tiny_model: Path, pairs: Path, tmp_path: Path, adapter: Path, change: Callable[[Weights], Weights], why: str
) -> None:  # fmt: skip
    text = recipe_text(tiny_model, pairs, adapter=f"{{kind: lora, path: '{adapter}'}}")
    assert check(tmp_path / "r.yaml", text) == []
    _change_adapter(adapter, change)
    (finding,) = check(tmp_path / "r.yaml", text)
    assert finding.code == "M512"
    assert why in str(finding.why)
    assert finding.where is not None
    assert finding.where.line == 3
    (finding,) = _load(text, tmp_path)  # as with one from the hub
    assert finding.code == "M512"
    assert why in str(finding.why)


def test_an_adapter_of_a_model_with_more_layers_or_other_names(
    tiny_model: Path, pairs: Path, tmp_path: Path, adapter: Path
) -> None:
    text = f"{{kind: lora, path: '{adapter}'}}"
    smaller = changed(tiny_model, tmp_path / "smaller", _without("layers.1."), num_hidden_layers=1)
    (finding,) = check(tmp_path / "r.yaml", recipe_text(smaller, pairs, adapter=text))
    assert "4 of its 9 weights match no module: model.layers.1." in str(finding.why)
    (finding,) = check(tmp_path / "r.yaml", recipe_text(_gpt2(tmp_path / "gpt2", tiny_model), pairs, adapter=text))
    assert finding.code == "M512"


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        ("CAUSAL_LM", "reward", ("predicts tokens", "returns one number", "merge it into its base")),
        ("SEQ_CLS", "dpo", ("returns one number", "predicts tokens", "objective: {kind: reward}")),
        ("SEQ_CLS", "sft", ("returns one number", "predicts tokens", "objective: {kind: reward}")),
    ],
)
def test_an_adapter_of_a_model_with_another_head(
    tiny_model: Path, pairs: Path, tmp_path: Path, adapter: Path, task: str, kind: str, words: tuple[str, str, str]
) -> None:
    has, needs, fix = words
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task_type": task}))
    text = with_objective(kind, tiny_model, pairs, f"{{kind: lora, path: '{adapter}'}}")
    for found in (check(tmp_path / "r.yaml", text), _load(text, tmp_path)):
        (finding,) = found
        assert finding.code == "M512"
        assert re.fullmatch(f"its model {has}.*, and this objective needs one that {needs}.*", str(finding.why))
        assert fix in str(finding.fix)
    (finding,) = check(tmp_path / "r.yaml", text)
    assert finding.where is not None
    assert (finding.where.file, finding.where.line) == (str(tmp_path / "r.yaml"), 3)


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        ("[q_proj, score]", "`score` puts an adapter on the head that scores"),
        ("[score]", "`score` puts an adapter on the head that scores"),
        ("'sco.*'", "the pattern `sco.*` puts an adapter on the head that scores"),
        ("'.*(q_proj|score)'", None),
        ("all-linear", None),
        ("[q_proj], modules_to_save: [score]", None),
    ],
)
def test_an_adapter_on_the_head_that_scores(
    tiny_model: Path, pairs: Path, tmp_path: Path, targets: str, what: str | None
) -> None:
    """The head is trained whole in any case, and peft would ignore the name. A pattern may match it too."""
    adapter = f"{{kind: lora, r: 4, target_modules: {targets}}}"
    text = with_objective("reward", tiny_model, pairs, adapter)
    found = check(tmp_path / "r.yaml", text)
    if what is None:
        assert found == []
        return
    (finding,) = found
    assert (finding.code, finding.what) == ("R339", what)
    assert finding.fix == "remove it from `target_modules`"
    assert finding.where is not None
    assert (finding.where.file, finding.where.line) == (str(tmp_path / "r.yaml"), 3)
    (finding,) = check(tmp_path / "r.yaml", recipe_text(tiny_model, pairs, adapter=adapter.replace("q_proj, ", "")))
    assert finding.code == "R337"


# Kinds of models


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("T5", "is an encoder-decoder"),
        ("Bart", "is an encoder-decoder"),
        ("Bert", "is an encoder"),
        ("ViT", "no causal language model"),
    ],
)
def test_models_that_are_no_causal_language_models(pairs: Path, tmp_path: Path, kind: str, why: str) -> None:
    import transformers

    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path / "base")
    (finding,) = check(tmp_path / "r.yaml", recipe_text(tmp_path / "base", pairs))
    assert finding.code == "M518"
    assert why in str(finding.why)
    assert finding.where is not None
    assert finding.where.line == 3


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_rank_above_that_of_the_matrices(tiny_model: Path, pairs: Path, tmp_path: Path, init: str) -> None:
    text = with_adapter(tiny_model, pairs, f"init: {init}").replace("r: 4", "r: 900")
    (finding,) = check(tmp_path / "r.yaml", text)
    assert (finding.code, finding.at) == ("R339", ("model", "adapter", "r"))
    assert f"`init: {init}` needs an `r` of" in finding.what
    assert "lower `r`" in str(finding.fix)
    assert check(tmp_path / "r.yaml", with_adapter(tiny_model, pairs, f"init: {init}")) == []


def test_an_attention_path_that_the_architecture_lacks(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    from transformers import GPTNeoConfig

    folder = tmp_path / "neo"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    settings: Any = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 600}
    GPTNeoConfig(**settings, attention_types=[[["global", "local"], 1]]).save_pretrained(folder)
    text = recipe_text(folder, pairs)
    (finding,) = check(tmp_path / "r.yaml", text, "model.attn_implementation=sdpa")
    assert finding.code == "M519"
    assert "GPTNeoForCausalLM has no attention path `sdpa`" in finding.what
    assert "eager" in str(finding.fix)
    assert check(tmp_path / "r.yaml", text, "model.attn_implementation=eager") == []


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"model_type": "foollm"}, "update transformers"),
        ({"model_type": "foollm", "auto_map": {"AutoConfig": "conf.C"}}, "pass `--trust-remote-code`"),
    ],
)
def test_a_configuration_that_transformers_does_not_know(
    tiny_model: Path, pairs: Path, tmp_path: Path, config: dict[str, Any], hint: str
) -> None:
    folder = changed(tiny_model, tmp_path / "unknown", dict, **config)
    (folder / "conf.py").write_text("raise SystemExit('this must not be executed')\n", encoding="utf-8")
    (finding,) = check(tmp_path / "r.yaml", recipe_text(folder, pairs))
    assert finding.code == "M504"
    assert hint in str(finding.fix)
