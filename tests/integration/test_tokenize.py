"""Token ids equal those of TRL's own dataset preparation; lengths are kept as asked; faults of templates are found."""

from __future__ import annotations

import gzip
import json
import random
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sharing import tokenized
from tiny import make_tokenizer

from dpo_recipes import registry
from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.checks.rows import RowChecks
from dpo_recipes.data.encode import Encoder, Texts, can_cut_at_words, cutting_tokens
from dpo_recipes.data.fit_length import fit
from dpo_recipes.data.lengths import row_lengths, trained_lengths
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import BadRow, Row, SourceRow
from dpo_recipes.data.tokenize import Tokenizer, tokenize_splits
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source

HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_rlhf_harmless_base.jsonl.gz"
Ids = list[tuple[list[int], ...]]


def _trl_ids(rows: list[Row], tokenizer: Any) -> Ids:
    """What DPOTrainer._prepare_dataset of TRL 1.16 makes of conversational rows."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    class Arguments:
        dataset_num_proc, max_length, truncation_mode = None, None, "keep_start"

    dataset = Dataset.from_list([{"prompt": r.prompt, "chosen": r.answers[0], "rejected": r.answers[1]} for r in rows])
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    made = trainer._prepare_dataset(dataset, tokenizer, Arguments(), "train")  # type: ignore[arg-type]
    return list(zip(made["prompt_ids"], made["chosen_ids"], made["rejected_ids"], strict=True))


def _our_ids(rows: list[Row], tokenizer: Any, template: str) -> Ids:
    chat = apply_template(tokenizer, template, add_special_tokens=False)
    checks, encoder = RowChecks(tokenizer, chat.renderer, "train", 512, str), Encoder(tokenizer, chat.template.text)
    encoded = [e for _, e in Tokenizer(encoder, chat.renderer, checks, _data("unused")).encode(rows)]
    return [(e.prompt_ids, *e.answer_ids) for e in encoded]


def _data(path: Path | str, **fields: Any) -> Data:
    return Data(train=[Source(path=str(path))], **fields)


def _rows(count: int) -> list[Row]:
    words = [
        "What",
        "is",
        "the",
        "capital",
        "of",
        "Peru",
        "and",
        "how",
        "long",
        "do",
        "I",
        "boil",
        "12",
        "eggs",
        "in",
        "2024?",
        "äöü\n\n",
        "",
        "x",
    ]
    return [
        Row(
            [{"role": "user", "content": " ".join(words[i % 5 : i % 5 + 8])}],
            (
                [{"role": "assistant", "content": f"Lima {i}."}],
                [{"role": "assistant", "content": f"Many {i} things, \n it depends."}],
            ),
            f"row {i}",
        )
        for i in range(count)
    ]


@cache
def _dialogues() -> list[Row]:
    """The real pairs, less the few that are none."""
    to_rows, rows = registry.load("data_formats", "hh_rlhf").to_rows, []
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            try:
                rows += to_rows(SourceRow(json.loads(line), str(number)))
            except BadRow:
                continue
    return rows


@pytest.mark.parametrize("template", ["chatml", "plain", "hh", "llama3", "zephyr"])
def test_ids_are_trls(template: str) -> None:
    tokenizer, rows = make_tokenizer(), _rows(30)
    assert _our_ids(rows, tokenizer, template) == _trl_ids(rows, tokenizer)


@pytest.mark.skipif(not HH.exists(), reason="the hh-rlhf file is not part of the project")
@pytest.mark.parametrize("template", ["chatml", "llama3", "hh", "zephyr"])
def test_ids_are_trls_on_all_real_dialogues(template: str) -> None:
    tokenizer, rows = make_tokenizer(), _dialogues()
    assert len(rows) > 1780
    assert _our_ids(rows, tokenizer, template) == _trl_ids(rows, tokenizer)


def _cuts(backend: Any, *written: str) -> list[str]:
    added = list(backend.get_added_tokens_decoder().values())
    return cutting_tokens(backend, added, written or [token.content for token in added])


def test_a_shared_prompt_is_encoded_apart_only_where_that_changes_nothing() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    chatml = make_tokenizer().backend_tokenizer
    assert _cuts(chatml) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert _cuts(chatml, "{{ '<|im_end|>' }}", "<|im_start|>") == ["<|im_start|>", "<|im_end|>"]
    first = Backend(models.BPE())
    first.add_special_tokens(["<s>"])
    assert _cuts(first) == ["<s>"]
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    assert _cuts(first) == []
    overlapping = Backend(models.BPE())
    overlapping.add_special_tokens(["<a>", "x<a>", "<b>", ">y", "<c|", "<", "c|"])
    assert _cuts(overlapping) == ["<c|"]


def _is_hidden(token: str, others: list[str]) -> bool:
    """The definition, place by place: an occurrence of another token begins before `token` ends and not within it, or
    the other way round."""
    for other in others:
        for shift in range(1 - len(other), len(token)):  # where `other` begins, seen from the beginning of `token`
            both = range(max(0, shift), min(len(token), shift + len(other)))
            within = shift >= 0 and shift + len(other) <= len(token)
            if not within and all(token[i] == other[i - shift] for i in both):
                return True
    return False


def test_tokens_cut_only_where_no_other_token_can_hide_them() -> None:
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Backend

    draw = random.Random(0)
    num_cuts = 0
    for _ in range(300):
        tokens = sorted({"".join(draw.choices("abc<>\0", k=draw.randrange(1, 6))) for _ in range(draw.randrange(1, 8))})
        letters = {sign: number for number, sign in enumerate("abc<>\0")}
        backend = Backend(models.BPE(vocab=letters, merges=[]))
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
        cuts = _cuts(backend)
        assert cuts == [
            t.content for t in backend.get_added_tokens_decoder().values() if not _is_hidden(t.content, tokens)
        ]
        num_cuts += len(cuts)
        for token in cuts:
            before, after = ("".join(draw.choices([*"abc<>\0", *tokens], k=9)) for _ in range(2))
            apart = [backend.encode(text).ids for text in (before + token, after)]
            assert backend.encode(before + token + after).ids == apart[0] + apart[1]
    assert num_cuts > 100


def test_the_time_for_cuts_grows_with_the_added_tokens_and_no_faster() -> None:
    """50,000 tokens compared with one another, or with each row, would take minutes."""
    from tokenizers import AddedToken

    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(f"<extra_{n}>", special=True, normalized=False) for n in range(50_000)])
    begun = time.process_time()
    encoder = Encoder(tokenizer, "".join(f"<extra_{n}>" for n in range(50)))
    assert time.process_time() - begun < 5
    (encoded,) = encoder.encode([Texts("<extra_7>a", ("<extra_7>a<extra_8>", "<extra_7>a<|im_end|>"))])
    assert len(encoded.prompt_ids) == 2


@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "qwen2"])
def test_cutting_between_words_changes_no_id(pattern: str) -> None:
    from tokenizers import Regex, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    from dpo_recipes.data.encode import _WORD_SPLITS

    backend = Backend.from_str(make_tokenizer().backend_tokenizer.to_str())
    if pattern != "gpt2":
        split = pre_tokenizers.Split(Regex(_WORD_SPLITS[pattern == "qwen2"]), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    assert _cuts_at_words(backend)
    draw = random.Random(0)
    signs = [
        "a",
        "Lima",
        "'s",
        " ",
        "  ",
        "\n",
        "7",
        "42",
        "?",
        "é",
        "e\u0301",
        "it's",
        "capital of",
        "<|im_end|>",
        "日本",
    ]

    class Fast:
        backend_tokenizer, bos_token, eos_token = backend, None, None
        bos_token_id = cls_token_id = sep_token_id = None

    for _ in range(3000):
        shared, *ends = ("".join(draw.choices(signs, k=draw.randrange(1, 12))) for _ in range(4))
        texts = Texts(shared + ends[0], (shared + ends[1], shared + ends[2]))
        (encoded,) = Encoder(Fast(), "").encode([texts])
        whole = [backend.encode(text, add_special_tokens=False).ids for text in texts.answers]
        assert [encoded.prompt_ids + ids for ids in encoded.answer_ids] == whole


def _cuts_at_words(backend: Any) -> bool:
    return can_cut_at_words(backend, backend.get_added_tokens_decoder().values())


def test_words_are_not_cut_apart_where_a_tokenizer_looks_further() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers, pre_tokenizers

    def backend() -> Any:
        return Backend.from_str(make_tokenizer().backend_tokenizer.to_str())

    assert _cuts_at_words(backend())
    for change in (
        {"normalizer": normalizers.Prepend("▁")},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
    ):
        changed = backend()
        for name, value in change.items():
            setattr(changed, name, value)
        assert not _cuts_at_words(changed)
    spaced = backend()
    spaced.add_tokens(["of Peru"])
    assert not _cuts_at_words(spaced)


def test_answers_that_do_not_go_on_from_the_prompt() -> None:
    tokenizer = make_tokenizer()
    (encoded,) = Encoder(tokenizer, "<|im_start|>").encode(
        [Texts("<|im_start|>a think", ("<|im_start|>a Lima", "<|im_start|>a Many"))]
    )
    ids = tokenizer("<|im_start|>a Lima", add_special_tokens=False)["input_ids"]
    assert encoded.prompt_ids + encoded.answer_ids[0] == ids
    assert encoded.lost_prompt_ids > 0


def test_an_answer_ends_with_its_end_of_turn() -> None:
    tokenizer = make_tokenizer()
    ((prompt, chosen, _),) = _our_ids(_rows(1), tokenizer, "chatml")
    assert tokenizer.eos_token_id in chosen
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


PAIR = tokenized([9, 1, 2, 3, 4, 5], [6, 7], [8])


@pytest.mark.parametrize(
    ("max_length", "overlong", "keep_first", "expected"),
    [
        (8, "drop", None, PAIR),
        (7, "drop", None, None),
        (6, "truncate_prompt_start", None, tokenized([2, 3, 4, 5], [6, 7], [8])),
        (6, "truncate_prompt_start", 9, tokenized([9, 3, 4, 5], [6, 7], [8])),
        (3, "truncate_prompt_start", None, tokenized([5], [6, 7], [8])),
        (4, "truncate_prompt_start", 9, tokenized([9, 5], [6, 7], [8])),
        (3, "truncate_prompt_start", 9, None),
        (2, "truncate_prompt_start", None, None),
        (7, "truncate_completion_end", None, tokenized([9, 1, 2, 3, 4, 5], [6], [8])),
        (6, "truncate_completion_end", None, None),
    ],
)
def test_what_is_too_long_is_cut_as_asked(max_length: int, overlong: Any, keep_first: Any, expected: Any) -> None:
    report = SplitReport()
    assert fit(PAIR, "row 1", max_length, overlong, report, keep=(keep_first, None)) == expected
    assert report.dropped == ({} if expected else {"overlong": 1})
    assert sum(report.truncated.values()) == (expected is not None and expected != PAIR)


def test_an_overlong_pair_can_be_an_error() -> None:
    with pytest.raises(DataError, match="row 1 has 8 tokens, more than max_length 7"):
        fit(PAIR, "row 1", 7, "error", SplitReport())


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _tokenize(data: Data, template: str = "chatml", tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or make_tokenizer()
    chat = apply_template(tokenizer, template, add_special_tokens=False)
    return tokenize_splits(load_rows(data, seed=1), tokenizer, chat.renderer, data)


GOOD = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "It depends."} for i in range(8)]


def test_splits_become_datasets_that_know_their_rows(tmp_path: Path) -> None:
    data = _data(_write(tmp_path / "p.jsonl", GOOD), eval=HeldOut(count=2), test=HeldOut(count=3), max_length=64)
    splits = _tokenize(data)
    assert {name: len(pairs) for name, pairs in splits.datasets.items()} == {"train": 3, "eval": 2, "test": 3}
    assert splits.for_trainer("train").column_names == ["prompt_ids", "answer_ids", "row"]
    row = splits.row("test", 1)
    text = make_tokenizer().decode(splits.datasets["test"][1]["prompt_ids"])
    assert row.prompt[0]["content"] in text
    for report in splits.reports.values():
        assert report.rows_in == report.rows_kept + sum(report.dropped.values())


def test_rows_and_tokens_are_kept_for_the_next_time(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.jsonl", GOOD)
    first, second = _tokenize(_data(path)), _tokenize(_data(path))
    assert (first.is_cached, second.is_cached) == (False, True)
    assert first.for_trainer("train")[:] == second.for_trainer("train")[:]
    assert first.reports == second.reports


@pytest.mark.parametrize(
    ("change", "is_cached"),
    [
        ({}, True),
        ({"max_length": 32}, False),
        ({"overlong": "drop"}, False),
        ({"template": "hh"}, False),
        ({"rows": [*GOOD[:-1], {**GOOD[-1], "chosen": "No."}]}, False),
        ({"limit": 4}, False),
    ],
)
def test_a_changed_input_never_meets_an_old_entry(tmp_path: Path, change: dict[str, Any], is_cached: bool) -> None:
    path = _write(tmp_path / "p.jsonl", GOOD)
    _tokenize(_data(path))
    _write(path, change.pop("rows", GOOD))
    template = change.pop("template", "chatml")
    assert _tokenize(_data(path, **change), template).is_cached is is_cached


def test_another_tokenizer_never_meets_an_old_entry(tmp_path: Path) -> None:
    path, other = _write(tmp_path / "p.jsonl", GOOD), make_tokenizer()
    _tokenize(_data(path))
    other.add_tokens(["Question"])
    assert not _tokenize(_data(path), tokenizer=other).is_cached


@pytest.mark.parametrize("damage", ["cut", "flip", "manifest", "missing"])
@pytest.mark.parametrize("kind", ["rows", "tokens"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str, kind: str) -> None:
    path = _write(tmp_path / "p.jsonl", GOOD)
    whole = _tokenize(_data(path)).for_trainer("train")[:]
    (entry,) = (tmp_path / "cache" / kind).iterdir()
    file = entry / ("manifest.json" if damage == "manifest" else "train.jsonl" if kind == "rows" else "train.arrow")
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    again = _tokenize(_data(path))
    assert again.for_trainer("train")[:] == whole
    assert not list((tmp_path / "cache" / kind).glob("*.partial"))


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.jsonl", GOOD)
    with pytest.raises(DataError):
        _tokenize(_data(path, max_length=8, overlong="error"))
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {}}}],
}
TOOL_ROWS = [
    {
        "prompt": [{"role": "user", "content": "Weather?"}, CALL, {"role": "tool", "content": "Sunny."}],
        "chosen": [{"role": "assistant", "content": "It is sunny."}],
        "rejected": [{"role": "assistant", "content": "I cannot know."}],
    }
]


EACH = "{% for m in messages %}"
TWO_BOS = "{{ bos_token + bos_token }}" + EACH + "{{ m.content + eos_token }}{% endfor %}"
NO_END = EACH + "{{ m.content }} {% endfor %}"
NO_TOOLS = EACH + "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
REFUSES = "{% if messages[0].content == 'Question 3?' %}{{ raise_exception('not this one') }}{% endif %}"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"
THINKS = EACH + "{{ m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"


@pytest.mark.parametrize(
    ("template", "rows", "code"),
    [(TWO_BOS, GOOD, "D422"), (NO_END, GOOD, "D423"), (NO_TOOLS, TOOL_ROWS, "D424"), (REFUSES, GOOD, "D420")],
)
def test_harm_that_a_template_does_ends_the_run(tmp_path: Path, template: str, rows: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        _tokenize(_data(_write(tmp_path / "p.jsonl", rows)), template)
    assert caught.value.findings[0].code == code
    assert "p.jsonl:" in caught.value.findings[0].what


@pytest.mark.parametrize(("template", "code"), [(NO_SYSTEM, "D492"), (THINKS, "D491")])
def test_doubtful_templates_are_warned_about(tmp_path: Path, template: str, code: str) -> None:
    system = [{"role": "system", "content": "Be brief."}]
    rows = [{**row, "prompt": [*system, {"role": "user", "content": row["prompt"]}]} for row in GOOD]
    splits = _tokenize(_data(_write(tmp_path / "p.jsonl", rows)), template)
    assert [finding.code for finding in splits.warnings] == [code]
    assert "8 of 8 rows (train), the first is p.jsonl:1" in splits.warnings[0].what
    assert splits.reports["train"].findings == [finding.to_json() for finding in splits.warnings]


def test_missing_special_tokens_ask_for_a_decision() -> None:
    with pytest.raises(DataError, match=r"lacks <\|start_header_id\|>") as caught:
        apply_template(make_tokenizer(), "llama3", add_special_tokens=None)
    assert caught.value.findings[0].code == "D421"
    tokenizer = make_tokenizer()
    before = len(tokenizer)
    chat = apply_template(tokenizer, "llama3", add_special_tokens=True)
    assert chat.added_ids == list(range(before, len(tokenizer)))
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in chat.end_ids
    assert tokenizer.chat_template == chat.template.text


def test_a_row_that_the_template_refuses_can_be_dropped(tmp_path: Path) -> None:
    template = REFUSES + TWO_BOS.replace("bos_token + bos_token", "bos_token")
    splits = _tokenize(_data(_write(tmp_path / "p.jsonl", GOOD), on_bad_row="drop"), template)
    assert splits.reports["train"].dropped == {"template_failed": 1}
    assert [row["row"] for row in splits.datasets["train"]] == [0, 1, 2, 4, 5, 6, 7]


def test_texts_that_are_rendered_already_are_noticed_or_passed_through(tmp_path: Path) -> None:
    row = {
        "prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "chosen": "Yes.<|im_end|>",
        "rejected": "It depends.<|im_end|>",
    }
    path = _write(tmp_path / "p.jsonl", [row])
    with pytest.raises(DataError, match="D425"):
        _tokenize(_data(path))
    splits = _tokenize(Data(train=[Source(path=str(path), format="passthrough")]))
    assert splits.warnings == []
    pair = splits.for_trainer("train")[0]
    tokenizer = make_tokenizer()
    assert tokenizer.decode(pair["prompt_ids"] + pair["answer_ids"][0]) == row["prompt"] + row["chosen"]


@pytest.mark.parametrize("num_answers", [1, 2, 3])
def test_lengths_of_rows_with_any_number_of_answers(num_answers: int) -> None:
    """Answer k of row i has 10 * k + i tokens, of which the first one is context; the rows are in another order."""
    from datasets import Dataset

    answers = range(1, num_answers + 1)
    rows = [
        {
            "prompt_ids": [1] * (i + 3),
            "answer_ids": [[2] * (10 * k + i) for k in answers],
            "answer_context": [[0, 1]] * num_answers,
        }
        for i in range(4)
    ]
    dataset = Dataset.from_list(rows).select([2, 0])
    expected = [[i + 3, *(10 * k + i for k in answers)] for i in (2, 0)]
    assert row_lengths(dataset).tolist() == expected
    assert trained_lengths(dataset).tolist() == [[count - 1 for count in of_answers] for _, *of_answers in expected]
    assert trained_lengths(dataset.remove_columns("answer_context")).tolist() == [counts[1:] for counts in expected]
