"""Turns of others in an answer are read and not trained: which tokens these are, and what follows for a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sharing import Trained, make_model, make_pairs, recipe, tokenized, train_ours
from tiny import make_tokenizer

from dpo_recipes.cli.data_text import DataText
from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.encode import Encoder, context_runs
from dpo_recipes.data.fit_length import fit
from dpo_recipes.data.inspect.rows import show_rows
from dpo_recipes.data.message import Message
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.render import render_row
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Row
from dpo_recipes.data.template import Renderer, read_template
from dpo_recipes.data.tokenize import tokenize_splits
from dpo_recipes.engine.collators import DpoCollator
from dpo_recipes.engine.dpo_trainer import PretokenizedDPOTrainer
from dpo_recipes.engine.reference import hash_rows
from dpo_recipes.engine.token_budget import StepSampler
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Data, Source


def says(role: str, content: str) -> Message:
    return Message(role=role, content=content)


CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "lookup", "arguments": {"city": "Lima"}}}],
}
ASKED = says("user", "Name a tree.")
TALK = [says("assistant", "The oak."), says("user", "Are you sure?"), says("assistant", "Yes.")]
SHORT = [says("assistant", "No.")]
ROW = Row([ASKED], (TALK, SHORT), "f:1")


def renderer_of(template: str, text: str | None = None) -> Renderer:
    if text is None:
        return apply_template(make_tokenizer(), template, add_special_tokens=False).renderer
    return Renderer(read_template(template, text, template), {"bos_token": "<s>", "eos_token": "</s>"})


def marked(row: Row, renderer: Renderer) -> list[str]:
    """Both answers' texts behind the prompt, with brackets around their context."""
    texts = render_row(row, renderer, finds_context=True)
    shown = []
    for text, spans in zip(texts.answers, texts.context or ((), ()), strict=True):
        for start, stop in reversed(spans):
            text = f"{text[:start]}[[{text[start:stop]}]]{text[stop:]}"  # noqa: PLW2901
        shown.append(text[len(texts.prompt) :] if text.startswith(texts.prompt) else text)
    return shown


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "chatml",
            "The oak.<|im_end|>\n[[<|im_start|>user\nAre you sure?<|im_end|>\n<|im_start|>assistant\n]]"
            "Yes.<|im_end|>\n",
        ),
        (
            "llama3",
            "The oak.<|eot_id|>[[<|start_header_id|>user<|end_header_id|>\n\nAre you sure?<|eot_id|><|start_header_id|>"
            "assistant<|end_header_id|>\n\n]]Yes.<|eot_id|>",
        ),
        (
            "gemma",
            "The oak.<end_of_turn>\n[[<start_of_turn>user\nAre you sure?<end_of_turn>\n<start_of_turn>model\n]]"
            "Yes.<end_of_turn>\n",
        ),
        ("hh", " The oak.<|im_end|>[[\n\nHuman: Are you sure?\n\nAssistant:]] Yes.<|im_end|>"),
        ("alpaca", "The oak.<|im_end|>[[\n\n### Instruction:\nAre you sure?\n\n### Response:\n]]Yes.<|im_end|>"),
        ("llama2", " The oak. <|im_end|>[[<|im_start|>[INST] Are you sure? [/INST]]] Yes. <|im_end|>"),
    ],
)  # fmt: skip
def test_the_turns_of_others_and_their_headers_are_context(template: str, expected: str) -> None:
    assert marked(ROW, renderer_of(template)) == [expected, marked(ROW, renderer_of(template))[1]]
    assert "[[" not in marked(ROW, renderer_of(template))[1]


UNSTABLE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content | trim }}{% for c in m.tool_calls or [] %}(call {{ c.function.name }}){% endfor %}</end>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""As Qwen3's: a last answer has something that it loses when the conversation continues."""


def test_a_turn_that_is_written_otherwise_when_others_follow_is_found_by_its_words() -> None:
    assert marked(ROW, renderer_of("odd", UNSTABLE))[0] == (
        "The oak.</end>\n[[<user>Are you sure?</end>\n<assistant>]]<think></think>Yes.</end>\n"
    )
    again = replace(
        ROW, answers=([says("assistant", " Yes. "), says("user", "Yes."), says("assistant", "Yes.")], SHORT)
    )
    assert marked(again, renderer_of("odd", UNSTABLE))[0] == (
        "Yes.</end>\n[[<user>Yes.</end>\n<assistant>]]<think></think>Yes.</end>\n"
    )
    calls = replace(ROW, answers=([CALL, says("tool", "19"), says("assistant", "19 degrees.")], SHORT))
    assert marked(calls, renderer_of("odd", UNSTABLE))[0] == (
        "(call lookup)</end>\n[[<tool>19</end>\n<assistant>]]<think></think>19 degrees.</end>\n"
    )


@pytest.mark.parametrize("template", ["qwen2.5", "qwen3"])
def test_a_tool_call_is_trained_and_its_result_is_not(template: str) -> None:
    row = replace(ROW, answers=([CALL, says("tool", "19"), says("assistant", "19 degrees.")], SHORT))
    chosen, _ = marked(row, renderer_of(template))
    (context,) = (part.partition("]]")[0] for part in chosen.split("[[")[1:])
    assert context.startswith("<|im_start|>user\n<tool_response>\n19\n</tool_response><|im_end|>\n")
    assert context.endswith("<|im_start|>assistant\n")
    assert chosen.split("[[")[0].endswith("</tool_call><|im_end|>\n")


def test_a_template_that_drops_a_turn_is_refused_with_the_row_and_the_way_out() -> None:
    kept = "{% if loop.last or m.role == 'user' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    dropping = "{% for m in messages %}" + kept + "{% endfor %}"
    with pytest.raises(DataError) as caught:
        render_row(ROW, renderer_of("odd", dropping), finds_context=True)
    (finding,) = caught.value.findings
    assert finding.code == "D429"
    assert "f:1: message 2, of `assistant`" in finding.what
    assert "data.train_on_turns: all" in str(finding.fix)


@pytest.mark.parametrize("trims", [False, True])
def test_a_token_that_reaches_beyond_a_span_is_trained(trims: bool) -> None:
    tokenizer = make_tokenizer()
    if trims:
        from tokenizers.processors import ByteLevel

        tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    renderer = renderer_of("chatml")
    texts = render_row(ROW, renderer, finds_context=True)
    (encoded,) = Encoder(tokenizer, renderer.template.text).encode([texts])
    (runs, none), (chosen, _) = encoded.answer_context, encoded.answer_ids
    start, stop = runs
    assert none == []
    assert tokenizer.decode(chosen[:start]) == "The oak.<|im_end|>\n"
    assert tokenizer.decode(chosen[start:stop]) == "<|im_start|>user\nAre you sure?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(chosen[stop:]) == "Yes.<|im_end|>\n"
    assert context_runs([(0, 2), (2, 4), (4, 6), (6, 8)], [(3, 6)]) == [2, 3]
    assert context_runs([(0, 2), (2, 4), (4, 6)], []) == []


def test_cutting_the_end_of_an_answer_cuts_its_context() -> None:
    pair = tokenized([1, 2], [3, 4, 5, 6, 7, 8], [9], context=([1, 3, 4, 5], []))
    cut = fit(pair, "f:1", 4, "truncate_completion_end", SplitReport())
    assert cut == tokenized([1, 2], [3, 4], [9], context=([1, 2], []))
    assert cut is not None
    assert cut.num_context == 1
    shorter = fit(pair, "f:1", 7, "truncate_prompt_start", SplitReport())
    assert shorter == replace(pair, prompt_ids=[2])


def split_of(tmp_path: Path, rows: list[dict[str, Any]], **fields: Any) -> Any:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = Data(train=[Source(path=str(path))], **fields)
    tokenizer = make_tokenizer()
    renderer = apply_template(tokenizer, "chatml", add_special_tokens=False).renderer
    return tokenize_splits(load_rows(data, 0), tokenizer, renderer, data)


MULTI = {"chosen": [ASKED, *TALK], "rejected": [ASKED, *SHORT]}
SINGLE = {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "Rivers are wet."}


def test_columns_and_counts(tmp_path: Path) -> None:
    mixed = split_of(tmp_path, [MULTI, SINGLE])
    pairs = mixed.for_trainer("train")
    assert pairs.column_names == ["prompt_ids", "answer_ids", "answer_context", "row"]
    ((start, stop), none), of_single = pairs["answer_context"]
    assert none == []
    assert of_single == [[], []]
    assert (mixed.reports["train"].masked_rows, mixed.reports["train"].masked_tokens) == (1, stop - start)
    assert "answers of 1 pairs contain turns" in mixed.reports["train"].describe_changes()
    plain = split_of(tmp_path, [SINGLE])
    assert plain.for_trainer("train").column_names == ["prompt_ids", "answer_ids", "row"]
    assert not plain.reports["train"].has_changes
    everything = split_of(tmp_path, [MULTI, SINGLE], train_on_turns="all")
    assert everything.for_trainer("train").column_names == ["prompt_ids", "answer_ids", "row"]
    assert everything.key != mixed.key


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{'Assistant' if place % 2 else 'Human'}: {turn}" for place, turn in enumerate(turns))


SHARED = ("Name a tree.", "The oak.", "Does it grow fast?")
HH = [
    # They part at the second answer; one goes on for two more turns, the other for one.
    {
        "chosen": dialogue(*SHARED, "No, slowly.", "How tall?", "Forty metres.", "Thanks.", "Any time."),
        "rejected": dialogue(*SHARED, "Ask a gardener.", "Please.", "No."),
    },
    # They part at the first answer.
    {
        "chosen": dialogue("Hello there!", "How can I help?", "Boil an egg.", "Eight minutes."),
        "rejected": dialogue("Hello there!", "What do you want?"),
    },
]
"""Dialogues as in hh-rlhf."""


@pytest.mark.parametrize("trains_all", [False, True])
def test_dpo_trains_every_turn_of_the_assistant_after_two_dialogues_part(tmp_path: Path, trains_all: bool) -> None:
    """The labels of DPO's batch are exactly the ids of these turns, each with its end, and the reference and the policy
    score no others."""
    fields = {"train_on_turns": "all"} if trains_all else {}
    pairs, tokenizer = split_of(tmp_path, HH, **fields).for_trainer("train"), make_tokenizer()
    end = "<|im_end|>\n"
    asked = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    own = [
        [["No, slowly.", "Forty metres.", "Any time."], ["Ask a gardener.", "No."]],
        [["How can I help?", "Eight minutes."], ["What do you want?"]],
    ]
    others = [[["How tall?", "Thanks."], ["Please."]], [["Boil an egg."], []]]
    prompts = [asked.format("Name a tree.") + "The oak." + end + asked.format("Does it grow fast?"),
               asked.format("Hello there!")]  # fmt: skip
    trained = train(tmp_path / "run", list(pairs), micro_batch_size=2, max_steps=1)
    batch = trained.trainer.data_collator(list(pairs))
    for place, row in enumerate(batch["input_ids"]):
        pair, answer = place % 2, place // 2
        texts, expected = [prompts[pair]], [False]
        for number, turn in enumerate(own[pair][answer]):
            texts += [turn + end, *(asked.format(text) for text in others[pair][answer][number : number + 1])]
            expected += [True, *(trains_all for _ in others[pair][answer][number : number + 1])]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        flags = [flag for part, flag in zip(ids, expected, strict=True) for _ in part]
        length = len(flags)
        assert row[:length].tolist() == [token for part in ids for token in part]
        assert batch["attention_mask"][place].sum() == length
        assert batch["completion_mask"][place].tolist() == [*flags, *[False] * (len(row) - length)]
    if not trains_all:
        columns = [dict(pair) for pair in pairs]
        reference = np.array(trained.trainer.train_dataset["reference_logps"]).T
        assert np.allclose(reference, sums_by_hand(make_model(), columns), atol=1e-4)
        assert trained.rows[0]["logps/chosen"] == pytest.approx(reference[0].mean(), abs=1e-4)


def with_context(pair: dict[str, Any], chosen: list[int], rejected: list[int]) -> dict[str, Any]:
    return {**pair, "answer_context": [chosen, rejected]}


PAIR = {"prompt_ids": [1, 2], "answer_ids": [[3, 4, 5, 6], [7, 8]]}


def test_the_batch_has_labels_for_the_model_s_own_words_only() -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    collate = DpoCollator(DataCollatorForPreference(pad_token_id=0))
    plain = {**PAIR, "prompt_ids": [1]}
    batch = collate([with_context(PAIR, [1, 3], []), with_context(plain, [], [0, 1])])
    assert batch["completion_mask"].tolist() == [
        [0, 0, 1, 0, 0, 1],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 0],
    ]
    assert batch["attention_mask"].sum() == 6 + 5 + 4 + 3
    assert collate([PAIR])["completion_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]]


def test_the_reference_s_cache_tells_masks_apart_and_keeps_what_it_had() -> None:
    masks: list[tuple[list[int], list[int]]] = [([], []), ([1, 3], []), ([1, 2], []), ([], [1, 2]), ([1, 2], [1, 2])]
    assert len({hash_rows([with_context(PAIR, *runs)]) for runs in masks}) == len(masks)
    assert hash_rows([with_context(PAIR, [], [])]) == hash_rows([PAIR])


def test_metrics_of_micro_batches_are_weighed_by_trained_tokens() -> None:
    sampler = StepSampler([(2, 4, 2), (1, 3, 3)], 2, 100, 1, 0, shares=True, trained=[(2, 2), (3, 3)])
    (step,) = list(sampler)
    micro_batch = step.micro_batches[0]
    assert micro_batch.num_tokens == (5, 5)
    answers = PretokenizedDPOTrainer.token_weighted_metrics
    names = ("mean_token_accuracy", "entropy", "loss")
    assert [micro_batch.num_items(answers.get(name)) for name in names] == [5, 10, 2]


def train(folder: Path, pairs: list[dict[str, Any]], *, loss: str = "sigmoid", **training: Any) -> Trained:
    settings = {"max_steps": 2, "micro_batch_size": 4, "learning_rate": 1e-2, **training}
    return train_ours(folder, make_model(), pairs, recipe(settings, {"loss_type": loss}))


def masked_pairs() -> list[dict[str, Any]]:
    pairs = make_pairs(4, answers=(9, 20), same_starts=(0,))
    return [with_context(pair, [2, 5, 7, 8], [1, 4] if place % 2 else []) for place, pair in enumerate(pairs)]


def is_trained(length: int, runs: list[int]) -> np.ndarray:
    mask = np.ones(length, bool)
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        mask[start:stop] = False
    return mask


def sums_by_hand(model: Any, pairs: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Sums of log-probabilities over the trained tokens of each answer, from the model's plain logits."""
    sums: tuple[list[float], list[float]] = ([], [])
    for pair in pairs:
        prompt = pair["prompt_ids"]
        for into, answer, context in zip(sums, pair["answer_ids"], pair["answer_context"], strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            of_answer = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0].numpy()
            into.append(float(of_answer[is_trained(len(answer), context)].sum()))
    return sums


def test_the_loss_has_the_trained_tokens_and_no_others(tmp_path: Path) -> None:
    pairs = masked_pairs()
    sums = sums_by_hand(make_model(), pairs)
    trained = train(tmp_path, pairs, prefix_sharing="off")
    reference = np.array(trained.trainer.train_dataset["reference_logps"]).T
    assert np.allclose(reference, sums, atol=1e-4)
    assert trained.rows[0]["logps/chosen"] == pytest.approx(np.mean(sums[0]), abs=1e-4)
    assert trained.rows[0]["logps/rejected"] == pytest.approx(np.mean(sums[1]), abs=1e-4)
    assert trained.rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    everything = train(tmp_path / "all", [{k: v for k, v in pair.items() if "context" not in k} for pair in pairs])
    assert everything.rows[0]["logps/chosen"] < trained.rows[0]["logps/chosen"] - 1
    assert not torch.allclose(everything.weights, trained.weights, atol=1e-4)


def test_averages_over_an_answer_are_over_its_trained_tokens(tmp_path: Path) -> None:
    """After one step IPO's loss is the mean of (chosen - rejected - 1 / (2 beta))^2, the ratios being averages."""
    pairs = masked_pairs()
    trained = train(tmp_path, pairs, loss="ipo", max_steps=1)
    before, after = sums_by_hand(make_model(), pairs), sums_by_hand(trained.trainer.model, pairs)
    ratios = [
        [
            (a - b) / is_trained(len(p["answer_ids"][number]), p["answer_context"][number]).sum()
            for a, b, p in zip(after[number], before[number], pairs, strict=True)
        ]
        for number in (0, 1)
    ]
    expected = np.mean((np.subtract(ratios[0], ratios[1]) - 1 / (2 * trained.trainer.beta)) ** 2)
    batch = trained.trainer.data_collator([trained.trainer.train_dataset[place] for place in range(4)])
    with torch.no_grad():
        assert float(trained.trainer.compute_loss(trained.trainer.model, batch)) == pytest.approx(expected, rel=1e-3)


def test_shared_prefixes_and_passes_by_tokens_give_the_padded_result(tmp_path: Path) -> None:
    pairs = masked_pairs()
    padded = train(tmp_path / "padded", pairs, prefix_sharing="off")
    for name, how in {"shared": {"prefix_sharing": "on"}, "passes": {"max_tokens_per_pass": 120}}.items():
        other = train(tmp_path / name, pairs, **how)
        assert torch.allclose(other.weights, padded.weights, atol=2e-4), name
        for metric in ("loss", "logps/chosen", "rewards/margins", "entropy", "mean_token_accuracy", "logits/chosen"):
            expected = [row[metric] for row in padded.rows]
            assert [row[metric] for row in other.rows] == pytest.approx(expected, rel=1e-3, abs=1e-4), (name, metric)


def test_what_the_user_says_teaches_nothing(tmp_path: Path) -> None:
    """Its tokens have no labels: with all that the model reads kept the same, gradients do not depend on them."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    (pair,) = masked_pairs()[:1]
    batch = DpoCollator(DataCollatorForPreference(pad_token_id=0))([pair])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    first = len(pair["prompt_ids"])
    assert set(labels[0, first + 2 : first + 5].tolist()) == {-100}
    assert labels[0, first + 5].item() == pair["answer_ids"][0][5]
    assert batch["input_ids"][0, first : first + 9].tolist() == pair["answer_ids"][0][:9]


def test_context_is_shown_outside_the_brackets_of_what_is_trained_on(tmp_path: Path) -> None:
    pairs, tokenizer = split_of(tmp_path, [MULTI]), make_tokenizer()
    (row,) = show_rows(pairs, tokenizer, renderer_of("chatml"), "train", 1)
    assert "".join(piece.text for piece in row.parts["chosen"] if piece.mark == "context").startswith(
        "<|im_start|>user\nAre you"
    )
    assert row.to_json()["context"]["chosen"] == pairs.reports["train"].masked_tokens
    out = io.StringIO()
    DataText(out)._row(row.to_json())
    assert "⟧⟨<|im_start|>⟩user↵\nAre you sure?" in out.getvalue()
