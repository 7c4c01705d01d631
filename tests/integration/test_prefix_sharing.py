"""Prefix sharing gives what TRL's plain DPOTrainer gives: losses, metrics and weights, step by step.

Each comparison trains twice from the same start on the same pairs: with our trainer, and with TRL's own class, its
collator, padding and head. In 32 bits everything agrees to 1e-4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sharing import METRICS, Trained, lora, make_model, make_pairs, recipe, train_ours, train_trls
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.attention import KEYWORD
from dpo_recipes.engine.prefix_sharing import check_longest_row, share_prefixes
from dpo_recipes.engine.prefix_trial import unsupported_reason
from dpo_recipes.errors import RunError
from dpo_recipes.model.quantize import keep_differentiable

SERVED = ["llama", "qwen2", "gpt2", "gemma", "mistral with a window of 8", "gemma3 with windowed and full layers"]
MIXED = make_pairs()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are fastest on one core, and some hundred times slower where cores are busy with other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_training(ours: Trained, trls: Trained, tolerance: float = 1e-4) -> None:
    """Every metric of every step, and the trainable weights.

    Rewards are differences of sums of log-probabilities, so that they are compared to what those are rounded to.
    """
    assert len(ours.rows) == len(trls.rows) > 0
    for mine, theirs in zip(ours.rows, trls.rows, strict=True):
        size = 0.1 * max(abs(theirs["logps/chosen"]), abs(theirs["logps/rejected"]))
        # While the policy is the reference, rewards are rounding alone, and whose is larger is a toss of a coin.
        is_rounding = max(abs(theirs["rewards/chosen"]), abs(theirs["rewards/rejected"])) <= 1e-6 * size
        for name in METRICS:
            if name == "rewards/accuracies" and is_rounding:
                continue
            absolute = 1e-6 * size if "rewards" in name else 1e-7
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance, abs=absolute), (name, theirs["epoch"])
    moved = (trls.weights - trls.start).norm()
    assert moved > 0
    assert (ours.weights - trls.weights).norm() <= tolerance * trls.weights.norm()
    assert (ours.weights - trls.weights).norm() <= 0.02 * moved


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("architecture", SERVED)
def test_every_architecture_trains_as_with_trl(tmp_path: Path, architecture: str, adapter: str) -> None:
    """Mixed pairs: one-token answers, prompts of 1 to 40 tokens, answers that begin alike."""
    is_full = adapter == "full"
    # Adam makes full steps of gradients that are nothing but rounding (those of key biases are zero in exact
    # arithmetic), which says nothing about sharing.
    job = recipe({"optimizer": "sgd", "learning_rate": 1e-2} if is_full else {})
    adapters = [None if is_full else lora(architecture) for _ in range(2)]
    ours = train_ours(tmp_path, make_model(architecture), MIXED, job, adapters[0])
    trls = train_trls(tmp_path, make_model(architecture), MIXED, job, adapters[1])
    assert_same_training(ours, trls)
    counted = ours.trainer.prefix_sharing.trained
    assert counted.packed_batches == counted.batches == 20
    assert counted.computed < 0.5 * counted.padded


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a batch of one pair": ({}, {"micro_batch_size": 1}),
    "answers of equal length": ({"equal_answers": True}, {}),
    "answers of one token": ({"answers": (1,), "same_starts": (0,)}, {}),
    "prompts of very different length": ({"prompts": (1, 100)}, {}),
    "answers that begin alike": ({"same_starts": (5, 15)}, {}),
    "rows cut to length": ({"prompts": (10, 30), "answers": (20,), "max_length": 32}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": True}),
    "accumulation": ({"count": 80}, {"gradient_accumulation_steps": 2, "max_steps": 10}),
    "passes of at most 90 tokens": ({}, {"max_tokens_per_pass": 90}),
    "passes of at most 90 tokens, checkpointing": ({}, {"max_tokens_per_pass": 90, "gradient_checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_batch_trains_as_with_trl(tmp_path: Path, case: str) -> None:
    shape, training = CASES[case]
    pairs, job = make_pairs(**shape), recipe(training)
    ours = train_ours(tmp_path, make_model(), pairs, job, lora())
    assert_same_training(ours, train_trls(tmp_path, make_model(), pairs, job, lora()))
    assert ours.trainer.prefix_sharing.trained.packed_batches > 0


LOSSES = [["hinge"], ["ipo"], ["exo_pair"], ["nca_pair"], ["robust"], ["bco_pair"], ["sppo_hard"], ["aot"]]
LOSSES += [["aot_unpaired"], ["apo_zero"], ["apo_down"], ["discopop"], ["sigmoid_norm"], ["sigmoid", "sft"]]


@pytest.mark.parametrize("loss", LOSSES, ids="+".join)
def test_every_loss_of_trl_stays_the_same(tmp_path: Path, loss: list[str]) -> None:
    objective: dict[str, Any] = {"loss_type": loss}
    if loss[0] in ("exo_pair", "robust"):
        objective["label_smoothing"] = 0.1
    job = recipe({"max_steps": 3}, objective)
    ours = train_ours(tmp_path, make_model(), MIXED, job, lora())
    assert_same_training(ours, train_trls(tmp_path, make_model(), MIXED, job, lora()))


VARIANTS: list[dict[str, Any]] = [
    *({"f_divergence_type": divergence} for divergence in ("forward_kl", "js_divergence")),
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    {"ld_alpha": 0.4},
    {"use_weighting": True},
    {"loss_type": "discopop", "discopop_tau": 0.2},
]


@pytest.mark.parametrize("objective", VARIANTS, ids=str)
def test_every_variant_of_trl_stays_the_same_and_changes_the_loss(tmp_path: Path, objective: dict[str, Any]) -> None:
    job, plain = (recipe({"max_steps": 3, "learning_rate": 1e-2}, settings) for settings in (objective, {}))
    ours = train_ours(tmp_path, make_model(), MIXED, job, lora())
    assert_same_training(ours, train_trls(tmp_path, make_model(), MIXED, job, lora()))
    without = train_ours(tmp_path, make_model(), MIXED, plain, lora())
    assert ours.rows[-1]["loss"] != pytest.approx(without.rows[-1]["loss"], rel=1e-6)


def test_pairs_without_anything_to_share_are_computed_padded(tmp_path: Path) -> None:
    pairs = make_pairs(prompts=(0,), answers=(20,), same_starts=(0,))
    ours = train_ours(tmp_path, make_model(), pairs, recipe({"max_steps": 5}), lora())
    assert_same_training(ours, train_trls(tmp_path, make_model(), pairs, recipe({"max_steps": 5}), lora()))
    counted = ours.trainer.prefix_sharing.trained
    assert (counted.batches, counted.packed_batches, counted.share_saved) == (5, 0, 0.0)


def test_padding_alone_is_reason_to_pack(tmp_path: Path) -> None:
    pairs = make_pairs(prompts=(0,), answers=(2, 40), same_starts=(0,))
    ours = train_ours(tmp_path, make_model(), pairs, recipe({"max_steps": 5}), lora())
    assert_same_training(ours, train_trls(tmp_path, make_model(), pairs, recipe({"max_steps": 5}), lora()))
    assert ours.trainer.prefix_sharing.trained.packed_batches > 0


def test_reference_and_evaluation_are_shared_too(tmp_path: Path) -> None:
    job, held_out = recipe({"max_steps": 3}), make_pairs(8)
    ours = train_ours(tmp_path, make_model(), MIXED, job, lora(), eval=held_out)
    trls = train_trls(tmp_path, make_model(), MIXED, job, lora(), eval=held_out)
    reference = list(zip(*ours.trainer.train_dataset["reference_logps"], strict=True))
    for name, of_answer in zip(("ref_chosen_logps", "ref_rejected_logps"), reference, strict=True):
        assert of_answer == pytest.approx(tuple(trls.trainer.train_dataset[name]), rel=1e-5)
    counted = ours.trainer.prefix_sharing.measured
    before = counted.packed_batches
    mine, theirs = ours.trainer.evaluate(), trls.trainer.evaluate()
    names = [f"eval_{name}" for name in METRICS if name not in ("num_tokens", "grad_norm")]
    for name in names:
        assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    assert counted.packed_batches == before + 2


def test_bf16_is_as_near_as_trls_own_bf16_is_to_fp32(tmp_path: Path) -> None:
    job = recipe({"max_steps": 10})
    exact = train_trls(tmp_path, make_model(), MIXED, job, lora())
    trls = train_trls(tmp_path, make_model(), MIXED, job, lora(), dtype="bfloat16")
    ours = train_ours(tmp_path, make_model(), MIXED, job, lora(), dtype="bfloat16")
    assert ours.trainer.prefix_sharing.trained.packed_batches == 10

    def apart(one: Trained, other: Trained) -> float:
        return max(abs(a["loss"] - b["loss"]) for a, b in zip(one.rows, other.rows, strict=True))

    assert 0 < apart(ours, exact) <= 1.5 * apart(trls, exact)
    assert (ours.weights - exact.weights).norm() <= 1.5 * (trls.weights - exact.weights).norm()


def test_a_base_in_four_bits_trains_as_with_trl(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")

    def load() -> Any:
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=bits, dtype=torch.float32)
        keep_differentiable(model)  # else TRL's own result is wrong on processors with AVX512-BF16
        return model

    job = recipe({"gradient_checkpointing": True})
    ours = train_ours(tmp_path, load(), MIXED, job, lora())
    assert_same_training(ours, train_trls(tmp_path, load(), MIXED, job, lora()))
    assert ours.trainer.prefix_sharing.trained.packed_batches == 20


@pytest.mark.parametrize(
    ("architecture", "mode", "words"), [("llama", "off", "off"), ("gemma2, soft-capped", "auto", "off: ")]
)
def test_what_is_not_shared_is_counted_all_the_same(tmp_path: Path, architecture: str, mode: str, words: str) -> None:
    """Rates are known in every run, so that one with sharing can be compared with one without."""
    job = recipe({"prefix_sharing": mode, "max_steps": 2})
    ours = train_ours(tmp_path, make_model(architecture), MIXED, job, lora())
    assert ours.trainer.prefix_sharing.describe().startswith(words)
    counted = ours.trainer.prefix_sharing.trained
    assert (counted.batches, counted.packed_batches, counted.share_saved) == (2, 0, 0.0)
    assert 0 < counted.distinct < counted.padded


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("gemma2, soft-capped", "eager|soft-capped"),  # its attention is SDPA in transformers 5.17
        ("qwen3-next, linear attention", "linear_attention"),
        ("mixtral", "router_aux_loss_coef"),
        ("glm with chosen keys", "indexed_attention|deepseek_sparse_attention"),  # its name in 5.23 and 5.17
    ],
)
def test_architectures_that_cannot_are_computed_the_plain_way_and_say_why(architecture: str, why: str) -> None:
    model = make_model(architecture)
    sharing = share_prefixes(model, "auto")
    assert re.search(why, sharing.refusal or "")
    assert sharing.describe().startswith("off: ")
    with pytest.raises(RunError, match="T606") as caught:
        share_prefixes(model, "on")
    assert re.search(why, caught.value.findings[0].why or "")


@pytest.mark.parametrize("kind", ["GlmMoeDsaConfig", "DeepseekV32Config", "DeepseekV4Config"])
def test_attention_that_chooses_its_keys_is_found_however_long_the_trial(kind: str) -> None:
    """With 2,048 keys to choose, rows of the trial's few tokens see all of them both ways."""
    import transformers

    config = getattr(transformers, kind)(num_hidden_layers=4)
    config._attn_implementation = "sdpa"
    config.router_aux_loss_coef = 0.0
    assert "attention" in (unsupported_reason(SimpleNamespace(config=config)) or "")
    config.layer_types = None
    assert "chosen tokens alone (`index_topk" in (unsupported_reason(SimpleNamespace(config=config)) or "")


def _mixes_neighbours(model: Any) -> None:
    """As state-space and convolution layers do: each position sees the one before it in the row."""
    mlp = model.base_model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = lambda hidden: plain(hidden + 0.5 * hidden.roll(1, 1))


def _takes_no_keywords(model: Any) -> None:
    attention = model.base_model.layers[0].self_attn
    plain = attention.forward

    def forward(hidden_states: Any, position_embeddings: Any = None, attention_mask: Any = None, **known: Any) -> Any:
        if KEYWORD in known:
            raise TypeError(f"got an unexpected keyword argument '{KEYWORD}'")
        return plain(hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask)

    attention.forward = forward


def _drops_keywords(model: Any) -> None:
    attention = model.base_model.layers[0].self_attn
    plain = attention.forward
    attention.forward = lambda hidden_states, position_embeddings=None, attention_mask=None, **_: plain(
        hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask
    )


def _hides_its_window(model: Any) -> None:
    model.config.sliding_window = 8


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_mixes_neighbours, "hidden states in a packed row differ"),
        (_drops_keywords, "hidden states in a packed row differ"),
        (_takes_no_keywords, "do not take a packed row"),
        (_hides_its_window, "window of 8"),
    ],
)
def test_the_trial_finds_models_that_packed_rows_would_change(change: Callable[[Any], None], why: str) -> None:
    for mode in ("auto", "on"):
        model = make_model()
        change(model)
        ids = torch.randint(3, 300, (4, 20))
        expected = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        sharing = share_prefixes(model, mode)  # type: ignore[arg-type]
        if mode == "on":
            with pytest.raises(RunError, match="T606"):
                model.base_model(input_ids=ids, use_cache=False)
            continue
        assert torch.equal(model.base_model(input_ids=ids, use_cache=False).last_hidden_state, expected)
        assert re.search(why, sharing.refusal or "")


def test_the_trial_leaves_training_mode_and_random_numbers_as_they_were() -> None:
    model = make_model().train()
    model.base_model.layers[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    sharing = share_prefixes(model, "auto")
    model.base_model(input_ids=torch.ones(2, 4, dtype=torch.long), use_cache=False)
    assert sharing.is_verified
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_never_sees_the_other_answer_or_another_pair() -> None:
    """Hidden states of a chosen row have no gradient to tokens of any other row."""
    model = make_model()
    share_prefixes(model, "on")
    pairs = make_pairs(3, prompts=(4,), answers=(5,), same_starts=(0,))
    rows = [p["prompt_ids"] + p["answer_ids"][number] for number in (0, 1) for p in pairs]
    ids = torch.tensor(rows)
    inputs: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_hook(lambda *call: inputs.append(call[-1]))
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden[1].pow(2).sum(), inputs[-1])
    reached = gradient[0].abs().sum(-1) > 0
    assert reached.tolist() == [False] * 14 + [True] * 9 + [False] * 19  # of 3 × 14 distinct tokens


def test_generation_goes_the_plain_way() -> None:
    model = make_model().eval()
    ids = torch.arange(3, 23)[None].repeat(2, 1)
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    sharing = share_prefixes(model, "on")
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), expected)
    assert sharing.measured.batches == 0


def test_removed_means_gone() -> None:
    model = make_model()
    sharing = share_prefixes(model, "on")
    sharing.remove()
    model.base_model(input_ids=torch.ones(2, 4, dtype=torch.long), use_cache=False)
    assert sharing.trained.batches + sharing.measured.batches == 0


def test_a_run_says_what_was_in_force(work: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"))
    assert work(text).result["model"]["prefix_sharing"] == "on"
    assert work(text, "training.prefix_sharing=off").result["model"]["prefix_sharing"] == "off"
    refused = work(text, "training.prefix_sharing=on", "model.attn_implementation=eager")
    assert (refused.exit_code, refused.codes) == (6, ["T606"])
    fallen_back = work(text, "model.attn_implementation=eager")
    assert "`eager`" in fallen_back.result["model"]["prefix_sharing"]
    notes = [event["text"] for event in fallen_back.events if event["event"] == "note"]
    assert len([note for note in notes if "prefixes are not shared" in note]) == 1


def test_added_tokens_and_a_known_reference_change_nothing(
    work: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """The second run finds its reference computed, so that no batch comes before the first step."""
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), "chat_template: llama3")
    first, second = (work(text, "model.add_special_tokens=true").result for _ in range(2))
    assert first["model"]["prefix_sharing"] == second["model"]["prefix_sharing"] == "on"
    assert first["metrics"] == second["metrics"]


def test_a_pair_longer_than_a_pass_ends_the_run_before_it_trains(
    work: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"))
    refused = work(text, "training.max_tokens_per_pass=20")
    assert (refused.exit_code, refused.codes) == (6, ["T607"])
    assert "model" not in [event.get("name") for event in refused.events], "before the base is loaded"
    (error,) = [event for event in refused.events if event["event"] == "error"]
    assert "the pair of pairs.jsonl:" in error["findings"][0]["what"]


def test_the_longest_pair_counts_as_it_is_computed() -> None:
    """A prompt of 60 with answers of 10 and 20: 90 distinct tokens, 160 positions. Nothing shared by two answers of 20:
    40 of both."""
    from datasets import Dataset

    rows = [([5] * 60, [[6] * 10, [7] * 20]), ([], [[6] * 20, [7] * 20])]
    pairs = Dataset.from_list([{"prompt_ids": prompt, "answer_ids": answers} for prompt, answers in rows])
    for shares, tokens in ((True, 90), (False, 160)):
        check_longest_row({"train": pairs}, tokens, shares=shares, noun="pair")
        with pytest.raises(RunError, match=f"pair 0 of `train` has {tokens} tokens"):
            check_longest_row({"train": pairs}, tokens - 1, shares=shares, noun="pair")
    answers = Dataset.from_list([{"prompt_ids": [5] * 4, "answer_ids": [[6] * 3]}])
    with pytest.raises(RunError, match="answer 0 of `train` has 7 tokens") as caught:
        check_longest_row({"train": answers}, 6, shares=False, noun="answer")
    assert caught.value.findings[0].why == "it is 6, and each answer goes through the model in one piece"


@pytest.mark.parametrize(
    ("mode", "shape"), [("off", {}), ("auto", {"prompts": (0,), "answers": (20,), "same_starts": (0,)})]
)
def test_padded_passes_keep_to_the_budget_too(tmp_path: Path, mode: str, shape: dict[str, Any]) -> None:
    """Of the reference, of steps and of an evaluation; losses are those of whole batches."""
    pairs, model = make_pairs(16, **shape), make_model()
    computed: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].numel()))
    settings = {"prefix_sharing": mode, "max_steps": 3}
    job = recipe({**settings, "max_tokens_per_pass": 140})
    ours = train_ours(tmp_path, model, pairs, job, lora(), eval=pairs[:6])
    mine = ours.trainer.evaluate()
    assert max(computed) <= 140
    trls = train_trls(tmp_path, make_model(), pairs, recipe(settings), lora(), eval=pairs[:6])
    assert mine["eval_loss"] == pytest.approx(trls.trainer.evaluate()["eval_loss"], rel=1e-4)
    assert [row["loss"] for row in ours.rows] == pytest.approx([row["loss"] for row in trls.rows], rel=1e-4)
    assert ours.trainer.prefix_sharing.measured.computed <= ours.trainer.prefix_sharing.measured.padded


def test_a_mean_over_experts_is_not_divided() -> None:
    model = make_model("mixtral")
    ids = torch.randint(3, 300, (8, 20))
    batch = {"input_ids": ids, "use_cache": False, "output_router_logits": True}
    expected = model(**batch).aux_loss
    share_prefixes(model, "auto", max_tokens_per_pass=40)
    assert torch.equal(model(**batch).aux_loss, expected)


@pytest.mark.parametrize("modules", [["embed_tokens", "lm_head"], ["norm"]])
def test_modules_trained_whole_beside_a_16_bit_base_are_shared_with_a_known_reference(
    tmp_path: Path, modules: list[str]
) -> None:
    """They have 32 bits, so that the trial needs autocast, as batches do; the second run has it without a batch."""
    from peft import LoraConfig

    for is_known in (False, True):
        adapter = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=modules, task_type="CAUSAL_LM")
        base = make_model().to(torch.bfloat16)
        ours = train_ours(tmp_path, base, MIXED, recipe({"max_steps": 1}), adapter, dtype="bfloat16").trainer
        assert ours.reference_known == {"train": is_known}
        assert (ours.prefix_sharing.describe(), ours.prefix_sharing.trained.packed_batches) == ("on", 1)


class _OddError(Exception):
    pass


def _fails_when_packed(model: Any) -> None:
    plain = model.base_model.layers[0].forward

    def forward(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if len(hidden) == 1:
            raise _OddError
        return plain(hidden, *args, **kwargs)

    model.base_model.layers[0].forward = forward


def test_whatever_the_packed_pass_raises_is_a_reason_to_compute_the_plain_way() -> None:
    model = make_model()
    _fails_when_packed(model)
    sharing = share_prefixes(model, "auto")
    sharing.verify()
    assert sharing.describe() == "off: its layers do not take a packed row (_OddError: without a message)"


def test_a_model_that_cannot_be_computed_at_all_is_not_blamed_on_packed_rows() -> None:
    model = make_model()
    model.base_model.layers[0].self_attn.q_proj.to(torch.float16)
    sharing = share_prefixes(model, "auto")
    with pytest.raises(RuntimeError, match="dtype"):
        sharing.verify()


def test_a_mixture_of_experts_is_shared_where_no_balancing_loss_asks_for_all_positions(tmp_path: Path) -> None:
    for coefficient, words in ((0.0, "on"), (0.02, "off: its balancing loss")):
        bases = [make_model("mixtral", router_aux_loss_coef=coefficient) for _ in range(2)]
        job = recipe({"max_steps": 3, "optimizer": "sgd", "learning_rate": 1e-2})
        ours = train_ours(tmp_path, bases[0], MIXED, job)
        assert_same_training(ours, train_trls(tmp_path, bases[1], MIXED, job))
        assert ours.trainer.prefix_sharing.describe().startswith(words)
        assert (ours.trainer.prefix_sharing.trained.packed_batches > 0) == (words == "on")


_ROWS = torch.arange(3, 23)[None].repeat(2, 1)
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "no pairs": ({"input_ids": _ROWS[:1]}, "their number of rows (1) is not a multiple of the 2 answers"),
    "padded within rows": ({"attention_mask": (torch.arange(20) != 3).long().repeat(2, 1)}, "interrupted by padding"),
    "asked for more": ({"output_attentions": True}, "`output_attentions`"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_batch_that_cannot_be_packed_is_messages_once(case: str) -> None:
    change, why = LEFT_OUT[case]
    for mode in ("auto", "on"):
        model = make_model()
        batch = {"input_ids": _ROWS, "use_cache": False, **change}
        expected = model.base_model(**batch).last_hidden_state
        sharing, messages = share_prefixes(model, mode), list[str]()  # type: ignore[arg-type]
        sharing.on_message = messages.append
        model.base_model(input_ids=_ROWS, use_cache=False)
        assert (sharing.describe(), messages) == ("on", [])
        if mode == "on":
            with pytest.raises(RunError, match="T606"):
                model.base_model(**batch)
            continue
        for _ in range(2):
            assert torch.equal(model.base_model(**batch).last_hidden_state, expected)
        assert why in sharing.describe()
        assert len(messages) == 1
        assert why in messages[0]
