"""What is found in every row while it is tokenized: warned about with counts, and an error where all rows are so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer, recipe_text
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.checks.marks import MarkFinder
from dpo_recipes.data.checks.reasoning import divide_reasoning
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.tokenize import TokenizedSplits, tokenize_splits
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source
from dpo_recipes.shipped import template_paths

Rows = list[dict[str, Any]]
GOOD: Rows = [
    {"prompt": f"Question {i}?", "chosen": f"Yes, number {i}.", "rejected": "It depends on that."} for i in range(3)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenize(tmp_path: Path) -> Any:
    """Rows through a template, as `run` does it."""

    def tokenize_rows(
        rows: Rows, template: str = "chatml", *, tokenizer: Any = None, format: str = "auto", **fields: Any
    ) -> TokenizedSplits:
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        accepted = fields.pop("accepted", ())
        data = Data(train=[Source(path=str(path), format=format)], **fields)
        tokenizer = tokenizer or make_tokenizer()
        chat = apply_template(tokenizer, template, add_special_tokens=template == "qwen3")
        return tokenize_splits(load_rows(data, 1), tokenizer, chat.renderer, data, accepted=accepted)

    return tokenize_rows


def _user(*contents: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


def _says(content: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content, **fields}]


def _chat(chosen: Any, rejected: Any, prompt: Any = None) -> dict[str, Any]:
    return {"prompt": prompt or _user("2 + 2?"), "chosen": chosen, "rejected": rejected}


LONG = "This beginning is shared by both of the answers " * 4
MARKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
FAULTS = [
    ("D425", {"prompt": MARKED, "chosen": "Yes, hi.<|im_end|>", "rejected": "No, never.<|im_end|>"}, "<|im_start|>"),
    ("D425", {"prompt": "[INST] Hi there [/INST]", "chosen": "Yes, hi.", "rejected": "No, never."}, "[INST]"),
    ("D425", {"prompt": "Hi<|endoftext|>", "chosen": "Yes, hi.", "rejected": "No, never."}, "<|endoftext|>"),
    (
        "D425",
        {"prompt": "### Instruction:\nHi\n\n### Response:\n", "chosen": "Yes.", "rejected": "No."},
        "### Response:",
    ),
    ("D425", {"prompt": "A chat. USER: Hi there ASSISTANT:", "chosen": "Yes.", "rejected": "No."}, "ASSISTANT:"),
    ("D426", {"prompt": "Hi?", "chosen": "Yes, hi.<|im_end|>", "rejected": "No.<|im_end|>"}, "<|im_end|>"),
    ("D426", {"prompt": "Hi?", "chosen": "Yes, hi.</s>\n", "rejected": "No, never.</s>"}, "</s>"),
    ("D427", _chat(_says("4", reasoning_content="Two and two."), _says("5")), "reasoning_content"),
    ("D427", _chat(_says("4", thinking="Two and two."), _says("5")), "reasoning_content"),
    ("D427", _chat(_says("4", reasoning="Two and two."), _says("5")), "reasoning_content"),
    ("D431", {"prompt": "Name a tree.", "chosen": "Name a tree. An oak.", "rejected": "Name a tree. A car."}, ""),
    ("D431", {"prompt": "Name a tree.", "chosen": "Q: Name a tree. A: Oak", "rejected": "Q: Name a tree. A: Car"}, ""),
    ("D431", {"prompt": "2 + 2?", "chosen": "2 + 2? It is 4.", "rejected": "2 + 2? It is 5."}, ""),
    ("D433", {"prompt": "Hi?", "chosen": "null", "rejected": "No, never."}, "`chosen` is `null`"),
    ("D433", {"prompt": "Hi?", "chosen": "Yes, hi.", "rejected": " NaN\n"}, "`rejected` is `NaN`"),
    ("D433", {"prompt": "None", "chosen": "Yes, hi.", "rejected": "No, never."}, "`prompt` is `None`"),
]


@pytest.mark.parametrize(("code", "row", "detail"), FAULTS)
def test_some_rows_are_a_warning_and_all_are_an_error(tokenize: Any, code: str, row: Any, detail: str) -> None:
    (warning,) = tokenize([*GOOD, row]).warnings
    assert (warning.code, warning.severity) == (code, "warning")
    assert "1 of 4 rows (train), the first is p.jsonl:4" in warning.what
    assert detail in warning.what
    with pytest.raises(DataError) as caught:
        tokenize([row])
    (error,) = [finding for finding in caught.value.findings if finding.code == code]
    assert "1 of 1 rows (train)" in error.what
    assert error.why
    assert error.fix


def test_findings_are_kept_with_the_tokens(tokenize: Any) -> None:
    rows = [*GOOD, FAULTS[-1][1]]
    first, second = tokenize(rows), tokenize(rows)
    assert (first.is_cached, second.is_cached) == (False, True)
    assert first.warnings == second.warnings
    assert second.reports["train"].findings == [finding.to_json() for finding in second.warnings]


def test_what_is_meant_can_be_accepted(tokenize: Any) -> None:
    assert tokenize([FAULTS[-1][1]], accepted=["D433"]).warnings == []


def test_a_held_out_part_of_few_rows_ends_no_run(tokenize: Any) -> None:
    rows = [{**row, "rejected": "None"} for row in GOOD]
    splits = tokenize([*rows, *({**row, "prompt": row["prompt"] + "!"} for row in GOOD)], eval=HeldOut(count=1))
    assert {finding.severity for finding in splits.warnings} == {"warning"}


@pytest.mark.parametrize("overlong", ["truncate_completion_end"])
def test_pairs_that_cutting_makes_equal_are_dropped(tokenize: Any, overlong: Any) -> None:
    row = {"prompt": "Hm?", "chosen": LONG + "well.", "rejected": LONG + "badly."}
    splits = tokenize([*GOOD, row], max_length=48, overlong=overlong)
    report = splits.reports["train"]
    assert (report.rows_kept, report.dropped) == (3, {"equal_tokens": 1})
    assert report.examples == {"equal_tokens": ["p.jsonl:4"]}
    (warning,) = splits.warnings
    assert (warning.code, warning.severity) == ("D430", "warning")
    assert "1 of 4 pairs (train), the first is p.jsonl:4" in warning.what
    assert "truncation to max_length 48 makes the answers of 1 pairs equal" in (warning.why or "")
    with pytest.raises(DataError) as caught:
        tokenize([row, row], max_length=48, overlong=overlong)
    assert [(error.code, error.severity) for error in caught.value.findings] == [("D430", "error")]


def test_pairs_that_the_template_makes_equal_are_dropped(tokenize: Any) -> None:
    trims = "{% for m in messages %}{{ m.role + ': ' + m.content | trim + eos_token }}{% endfor %}"
    trims += "{% if add_generation_prompt %}assistant: {% endif %}"
    row = {"prompt": "Hm?", "chosen": "Yes, well.", "rejected": "Yes, well. \n"}
    splits = tokenize([*GOOD, row], trims)
    assert splits.reports["train"].dropped == {"equal_tokens": 1}
    (finding,) = [finding for finding in splits.warnings if finding.code == "D430"]
    assert "in 1 pairs the answers differ only in content that the template `inline` drops" in (finding.why or "")


def test_contradicting_pairs_are_found_in_either_order(tokenize: Any) -> None:
    swapped = {**GOOD[1], "chosen": GOOD[1]["rejected"], "rejected": GOOD[1]["chosen"]}
    other_prompt = {**GOOD[2], "prompt": "Another?", "chosen": GOOD[2]["rejected"], "rejected": GOOD[2]["chosen"]}
    (warning,) = tokenize([*GOOD, GOOD[0], other_prompt, swapped, swapped]).warnings
    assert (warning.code, warning.severity) == ("D432", "warning")
    assert "3 of 7 rows (train), the first are p.jsonl:2 and p.jsonl:6" in warning.what
    with pytest.raises(DataError, match="D432"):
        tokenize([GOOD[1], swapped])
    assert tokenize([*GOOD, *GOOD]).warnings == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hi there, you.", "rejected": "Hi, and bye."},
        {"prompt": "I am", "chosen": "I am sorry.", "rejected": "You are not."},
        {"prompt": "What is `null`?", "chosen": "None of these is null.", "rejected": "It is nan."},
        {"prompt": "Is <b>this</b> a [link]?", "chosen": "a < b | c > d", "rejected": "See [1] and <s>."},
        {"prompt": "Answer as <think>...</think>.", "chosen": "Yes, I do.", "rejected": "No, I do not."},
    ],
)
def test_ordinary_texts_raise_no_finding(tokenize: Any, row: Any) -> None:
    assert tokenize([row]).warnings == []
    assert tokenize([row], "qwen3").warnings == []


THOUGHT = "<think>\nTwo and two.\n</think>\n\n4"


@pytest.mark.parametrize("chosen", [THOUGHT, "<think>Two and two.</think>4", "Two and two.\n</think>\n\n4"])
def test_legal_reasoning_in_a_text_raises_no_finding(tokenize: Any, chosen: str) -> None:
    splits = tokenize([_chat(_says(chosen), _says("5"))], "qwen3")
    assert splits.warnings == []


def test_reasoning_that_never_ends_is_a_special_token_in_the_text(tokenize: Any) -> None:
    (warning,) = tokenize([_chat(_says("<think>Two and two"), _says("5"))], "qwen3").warnings
    assert (warning.code, warning.severity) == ("D494", "warning")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4", "reasoning_content": "Two and two."},
        {"content": "4", "thinking": "Two and two."},
        {"content": "4", "reasoning": "Two and two."},
        {"content": "4", "reasoning_content": "Two and two.", "reasoning": "Two and two."},
        {"content": "4", "thinking": True, "reasoning": "Two and two."},
        {"content": [{"type": "thinking", "thinking": "Two and two."}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "reasoning", "text": "Two and two."}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "reasoning", "reasoning": "Two and two."}, {"text": "4"}]},
    ],
)
def test_reasoning_is_one_thing_under_all_names(tokenize: Any, message: dict[str, Any]) -> None:
    tokenizer = make_tokenizer()
    splits = tokenize([_chat([{"role": "assistant", **message}], _says("5"))], "qwen3", tokenizer=tokenizer)
    assert splits.warnings == []
    assert "Two and two.\n</think>\n\n4" in tokenizer.decode(splits.for_trainer("train")[0]["answer_ids"][0])


def test_two_different_texts_of_reasoning_are_a_bad_row(tokenize: Any) -> None:
    with pytest.raises(DataError, match="different reasoning under `thinking` and `reasoning`"):
        tokenize([_chat(_says("4", thinking="One.", reasoning="Two."), _says("5"))])


def test_every_template_sees_reasoning_under_its_own_name(tokenize: Any) -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        template = "{% for m in messages %}{{ m.role + ':' + (m." + name + " or '') + m.content + eos_token }}"
        template += "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
        assert tokenize([_chat(_says("4", reasoning="Two and two."), _says("5"))], template).warnings == []


@pytest.mark.parametrize("earlier", [_says(THOUGHT)[0], _says("4", thinking="Two and two.")[0]])
def test_reasoning_of_earlier_turns_is_reported_as_that(tokenize: Any, earlier: Any) -> None:
    prompt = [*_user("2 + 2?"), earlier, *_user("3 + 3?")]
    (warning,) = tokenize([_chat(_says(THOUGHT), _says("7"), prompt)], "qwen3").warnings
    assert (warning.code, warning.severity) == ("D495", "warning")
    assert "the template `qwen3` drops the reasoning of earlier turns" in warning.what


def test_a_template_that_strips_the_reasoning_of_answers_is_refused(tokenize: Any) -> None:
    strips = "{% for m in messages %}{{ m.role + ':' + m.content.split('</think>')[-1] + eos_token }}{% endfor %}"
    strips += "{% if add_generation_prompt %}assistant:{% endif %}"
    with pytest.raises(DataError) as caught:
        tokenize([_chat(_says(THOUGHT), _says("<think>Well.</think>5"))], strips)
    (error,) = caught.value.findings
    assert (error.code, error.severity) == ("D427", "error")
    assert "`<think>...</think>`" in error.what


def test_texts_that_pass_through_need_an_end(tokenize: Any) -> None:
    bare = {"prompt": MARKED, "chosen": "Yes, hi.", "rejected": "No, never."}
    whole = {"prompt": MARKED, "chosen": "Yes, hi.<|im_end|>", "rejected": "No, never.<|im_end|>"}
    (warning,) = tokenize([whole, bare], format="passthrough").warnings
    assert (warning.code, warning.severity) == ("D423", "warning")
    assert "write `<|im_end|>` at the end of each" in (warning.fix or "")
    with pytest.raises(DataError, match="D423"):
        tokenize([bare], format="passthrough")
    assert tokenize([whole], format="passthrough").warnings == []


def test_an_end_that_only_the_data_writes_is_right(tokenize: Any) -> None:
    no_end = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    no_end += "{% if add_generation_prompt %}assistant: {% endif %}"
    assert tokenize([FAULTS[5][1]], no_end).warnings == []


def test_special_tokens_within_an_answer_are_a_warning(tokenize: Any) -> None:
    row = {"prompt": "Hi?", "chosen": "Yes<|endoftext|> hi.", "rejected": "No, never."}
    (warning,) = tokenize([row]).warnings
    assert (warning.code, warning.severity) == ("D494", "warning")
    assert "`<|endoftext|>`" in warning.what


EACH = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"


def _of(splits: TokenizedSplits, code: str) -> Finding:
    (finding,) = splits.warnings
    assert finding.code == code
    return finding


def test_a_template_without_generation_prompt_is_named(tokenize: Any) -> None:
    finding = _of(tokenize(GOOD, EACH), "D496")
    assert finding.severity == "warning"
    assert "3 of 3 rows" in finding.what
    assert "`<|im_start|>assistant`" in (finding.why or "")


@pytest.mark.parametrize(
    "template",
    [
        EACH + "{{ '<|im_start|>assistant\n' }}",
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}assistant: ",
    ],
)
def test_a_generation_prompt_after_finished_answers_is_named(tokenize: Any, template: str) -> None:
    with pytest.raises(DataError) as caught:
        tokenize(GOOD, template)
    (error,) = caught.value.findings
    assert error.code == "D428"
    assert "assistant" in (error.why or "")


@pytest.mark.parametrize("name", sorted(template_paths()))
def test_shipped_templates_have_a_generation_prompt(tokenize: Any, name: str) -> None:
    codes = {finding.code for finding in tokenize(GOOD, name, accepted=["D423", "D493"]).warnings}
    assert not codes & {"D428", "D496", "D491"}


def test_where_an_answer_does_not_continue_from_its_prompt_the_cause_is_named(tokenize: Any) -> None:
    thinks = EACH + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    assert "the generation prompt ends with `<think>" in _of(tokenize(GOOD, thinks), "D491").what
    last = "{% for m in messages %}{{ '<|im_start|>' + m.role + (' LAST' if loop.last else '') + '\n' + m.content }}"
    last += "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    finding = _of(tokenize(GOOD, last), "D491")
    assert "the prompt is rendered differently when an answer follows: ` LAST" in finding.what


def test_where_the_template_leaves_nothing_of_all_prompts_the_cause_is_named(tokenize: Any) -> None:
    first = "{{ 'asked: ' if add_generation_prompt else 'done: ' }}" + EACH
    with pytest.raises(DataError) as caught:
        tokenize(GOOD, first)
    assert [finding.code for finding in caught.value.findings] == ["D409", "D491"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>a</think>b", ("a", "b")),
        (" a </think> b ", ("a", "b")),
        ("b", None),
        ("<think>a", None),
        ("<think>a</think>b<think>c</think>", None),
    ],
)
def test_reasoning_is_divided_from_the_answer(content: str, expected: Any) -> None:
    assert divide_reasoning(content) == expected


def test_marks_are_found_whatever_their_number() -> None:
    finder = MarkFinder([*(f"<unused{i}>" for i in range(50_000)), "<|im_end|>", "[INST]", "<s>"])
    assert finder.first("a < b <x <unused4999x <unused49999> <s>") == "<unused49999>"
    assert finder.first("<unused> [INS] <| <|im_end") is None
    assert finder.first("x[INST]") == "[INST]"
    assert MarkFinder([]).first("anything <s>") is None


def _recipe(folder: Path, model: Path, rows: Rows) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return recipe_text(model, path).replace("  eval: {fraction: 0.25}\n", "  eval: {count: 2}\n")


MANY: Rows = [
    {"prompt": f"What is {i} plus one?", "chosen": f"It is {i + 1}.", "rejected": "It depends on that."}
    for i in range(12)
]


def test_a_run_reports_what_data_sees(work: Any, tiny_model: Path, tmp_path: Path) -> None:
    outcome = work(_recipe(tmp_path, tiny_model, [*MANY, *({**row, "rejected": "None"} for row in MANY)]))
    assert outcome.exit_code == 0
    warned = [event["finding"]["what"] for event in outcome.events if event["event"] == "finding"]
    report = json.loads(outcome.run.data_report.read_text())["splits"]["train"]
    (found,) = [finding for finding in report["findings"] if finding["code"] == "D433"]
    assert "11 of 22 rows (train)" in found["what"]
    assert found["what"] in warned
    shown = re.sub("`([^`]+)`", r"<code>\1</code>", found["what"].split(":")[0])
    assert shown in outcome.run.report.read_text()


@pytest.mark.parametrize("read", ["--read-data", "--no-data"])
def test_a_plan_reports_what_data_sees(tiny_model: Path, tmp_path: Path, read: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(_recipe(tmp_path, tiny_model, [*MANY, {**MANY[0], "prompt": "null"}]), encoding="utf-8")
    result = CliRunner().invoke(app, ["plan", str(path), "--json", read])
    assert result.exit_code == 0, result.output
    codes = [finding["code"] for finding in json.loads(result.stdout)["warnings"]]
    assert ("D433" in codes) == (read == "--read-data")


def test_a_run_and_a_plan_refuse_what_is_wrong_in_all_rows(work: Any, tiny_model: Path, tmp_path: Path) -> None:
    text = _recipe(tmp_path, tiny_model, [{**row, "rejected": "None"} for row in MANY])
    outcome = work(text)
    assert (outcome.exit_code, outcome.codes) == (4, ["D433"])
    assert CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--json"]).exception.exit_code == 4
    assert work(text, "accept_advice=[D433]").exit_code == 0
