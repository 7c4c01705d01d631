"""Groups of any number of answers, with padding on either side, give what padded rows give: hidden states, gradients
and scores."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
from sharing import ARCHITECTURES, make_model

from dpo_recipes.engine import attention
from dpo_recipes.engine.packing import Packing, own_position_ids
from dpo_recipes.engine.prefix_sharing import PrefixSharing, share_prefixes
from dpo_recipes.errors import RunError

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with as many heads of keys": {"num_key_value_heads": 4},
    "qwen2": {},
    "gpt2": {},
    "mistral with a window of 8": {},
}
SIDES = ("right", "left", "both")


def _model(name: str) -> Any:
    return make_model(name if name in ARCHITECTURES else "llama", **MODELS[name])


def _draw(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(3, 300) for _ in range(length)]


def _rows(answers: int, *, empty_rows: bool = False) -> list[list[int]]:
    """Five groups, the first answers of all before the second ones: a long prompt, answers that begin alike, nothing in
    common, an answer without a token of its own, and one that is empty if `empty_rows` is set."""
    draw = random.Random(0)
    groups: list[list[list[int]]] = []
    for prompt, start in ((20, 0), (3, 4), (0, 0), (7, 0), (9, 0)):
        shared = _draw(draw, prompt) + _draw(draw, start)
        groups.append([shared + _draw(draw, draw.choice((1, 4, 9))) for _ in range(answers)])
    groups[3][-1] = groups[3][0][:7]
    if empty_rows:
        groups[4][answers // 2] = []
    return [group[answer] for answer in range(answers) for group in groups]


def _padded(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, rows)) + (3 if side == "both" else 0)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        start = {"right": 0, "left": width - len(row), "both": number % 4}[side]
        ids[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _outcome(model: Any, batch: dict[str, torch.Tensor], **more: Any) -> list[torch.Tensor]:
    """The logits of all real tokens, and the gradients of a loss on them."""
    model.zero_grad(set_to_none=True)
    logits = model(**batch, **more, use_cache=False).logits[batch["attention_mask"].bool()]
    (logits * torch.linspace(-1, 1, logits.shape[-1])).tanh().mean().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def _assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) > 5
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("answers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_padded_rows(name: str, answers: int, side: str) -> None:
    """In passes too. Padded rows on the left need the position ids that a model counts in a row without padding."""
    batch = _padded(_rows(answers, empty_rows=True), side)
    expected = _outcome(_model(name), batch, position_ids=own_position_ids(batch["attention_mask"]))
    for budget in (None, 40):
        model = _model(name)
        sharing = share_prefixes(model, "on", budget, answers)
        _assert_same(_outcome(model, batch), expected)
        assert sharing.trained.packed_batches == sharing.trained.batches == 1
        assert sharing.trained.computed == sharing.trained.distinct
        assert answers == 1 or sharing.trained.distinct < batch["attention_mask"].sum()


def test_a_group_is_computed_as_its_distinct_tokens() -> None:
    """Of four answers of 2 tokens to a prompt of 10 there are 18 distinct tokens and 48 positions."""
    draw = random.Random(0)
    prompt = _draw(draw, 10)
    batch = _padded([[*prompt, 3 + answer, 9] for answer in range(4)], "left")
    model = make_model()
    sharing = share_prefixes(model, "on", None, 4)
    model(**batch, use_cache=False)
    assert (sharing.trained.computed, sharing.trained.padded) == (18, 48)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_token_has_the_same_place_whether_its_batch_is_worth_packing_or_not(name: str) -> None:
    """One row with nothing to save beside padding on the left of less than 3 %: computed padded, in the same way."""
    draw = random.Random(0)
    rows = [_draw(draw, 60), _draw(draw, 59)]
    batch = _padded(rows, "left")
    expected = [_outcome(_model(name), _padded([row], "right"))[0] for row in rows]
    for budget, computed in ((None, 120), (60, 119)):
        model = _model(name)
        sharing = share_prefixes(model, "auto", budget, 1)
        logits = _outcome(model, batch)[0]
        counted = sharing.trained
        assert (counted.batches, counted.packed_batches, counted.computed) == (1, 0, computed)
        torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-6)


def _ignores_positions_in_padded_rows(model: Any) -> None:
    plain = model.base_model.forward

    def forward(input_ids: Any, position_ids: Any = None, **more: Any) -> Any:
        return plain(input_ids, position_ids=position_ids if len(input_ids) == 1 else None, **more)

    model.base_model.forward = forward


def test_a_model_that_cannot_be_padded_on_the_left_is_packed_on_the_right_alone() -> None:
    """GPT-2's positions are absolute, so that it shows where a row is counted from."""
    left, right = (_padded(_rows(3), side) for side in ("left", "right"))
    for mode in ("auto", "on"):
        model = make_model("gpt2")
        _ignores_positions_in_padded_rows(model)
        expected = model(**left, use_cache=False).logits
        sharing, messages = share_prefixes(model, mode, None, 3), list[str]()  # type: ignore[arg-type]
        sharing.on_message = messages.append
        model(**right, use_cache=False)
        assert (sharing.describe(), sharing.trained.packed_batches) == ("on", 1)
        if mode == "on":
            with pytest.raises(RunError, match="T606"):
                model(**left, use_cache=False)
            continue
        assert torch.equal(model(**left, use_cache=False).logits, expected)
        assert re.search("padded on the left: its hidden states in a packed row differ", sharing.describe())
        assert len(messages) == sharing.trained.packed_batches == 1


@pytest.mark.parametrize("answers", [1, 3, 7])
def test_the_trial_has_groups_of_the_size_in_use(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that sees too much from the last answer of a group on is found only in a group of that size."""
    plain = attention.by_span

    def by_span(query: Any, key: Any, value: Any, packing: Packing, *rest: Any) -> Any:
        wrong = [group for group in packing.groups if len(group.tails) >= 3 and group.prefix]
        output = plain(query, key, value, packing, *rest)
        return torch.cat([output[:, :-1], output[:, -1:] * 2], 1) if wrong else output

    monkeypatch.setattr(attention, "by_span", by_span)
    sharing = share_prefixes(make_model(), "auto", None, answers)
    sharing.verify()
    assert (sharing.refusal is None) == (answers < 3)


def _classifier(name: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = _model(name).config
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("answers", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scores_of_a_reward_model_are_those_of_padded_rows(name: str, answers: int, side: str) -> None:
    """Its head takes the last token that is not padding. It hands the ids to the backbone by position."""

    def outcome(model: Any, **more: Any) -> list[torch.Tensor]:
        scores = model(**batch, **more, use_cache=False).logits
        assert scores.shape == (len(batch["input_ids"]), 1)
        scores.tanh().mean().backward()
        return [scores.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    batch = _padded(_rows(answers), side)
    for model in (_classifier(name), _with_adapter(_classifier(name))):
        expected = outcome(model, position_ids=own_position_ids(batch["attention_mask"]))
        model.zero_grad(set_to_none=True)
        sharing: PrefixSharing = share_prefixes(model, "on", None, answers)
        ours = outcome(model)
        assert len(ours) == len(expected) > 1
        for mine, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        assert sharing.trained.packed_batches == 1


def _with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    transposed = model.config.model_type == "gpt2"
    target = ["c_attn"] if transposed else ["q_proj", "v_proj"]
    return get_peft_model(model, LoraConfig(r=4, target_modules=target, task_type="SEQ_CLS", fan_in_fan_out=transposed))


def test_an_encoder_is_computed_the_plain_way() -> None:
    from transformers import AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=300, **settings)).eval()
    batch = _padded(_rows(2), "right")
    expected = model(**batch).logits
    sharing = share_prefixes(model, "auto")
    sharing.verify()
    assert sharing.describe() == "off: it is an encoder, whose tokens attend to later ones, too"
    assert torch.equal(model(**batch).logits, expected)
