"""The shipped templates: what each one writes, what none may lose, and how templates are found and read.

They are rendered with jinja2 alone; tests/integration/test_templates_upstream.py shows that transformers does the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpo_recipes.data import template as module
from dpo_recipes.data.template import Renderer, TemplateFailed, find_template
from dpo_recipes.shipped import template_paths

NAMES = sorted(template_paths())
WITH_TOOLS = {"llama3", "mistral", "qwen2.5", "qwen3"}
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
WHY = {"role": "user", "content": "Why?"}

_CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
_CHATML_TURNS = f"{_CHATML}Hello.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
_QWEN2 = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_QWEN25 = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
_ALPACA = (
    "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nHi\n\n### Response:\n"
)
_VICUNA = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: Hi ASSISTANT:"
)
_LLAMA3 = "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
PROMPTS = {  # the text of a question and the generation prompt; the text after it with an answer and a second question
    "alpaca": (_ALPACA, "Hello.</s>\n\n### Instruction:\nWhy?\n\n### Response:\n"),
    "chatml": (_CHATML, _CHATML_TURNS.removeprefix(_CHATML)),
    "gemma": (
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Hello.<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "hh": ("<s>\n\nHuman: Hi\n\nAssistant:", " Hello.</s>\n\nHuman: Why?\n\nAssistant:"),
    "llama2": ("<s>[INST] Hi [/INST]", " Hello. </s><s>[INST] Why? [/INST]"),
    "llama3": (_LLAMA3, "Hello.<|eot_id|>" + _LLAMA3.removeprefix("<s>").replace("Hi", "Why?")),
    "mistral": ("<s>[INST] Hi[/INST]", " Hello.</s>[INST] Why?[/INST]"),
    "phi3": ("<|user|>\nHi<|end|>\n<|assistant|>\n", "Hello.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n"),
    "plain": ("<s>Hi\n\n", "Hello.</s>Why?\n\n"),
    "qwen2": (_QWEN2 + _CHATML, _CHATML_TURNS.removeprefix(_CHATML)),
    "qwen2.5": (_QWEN25 + _CHATML, _CHATML_TURNS.removeprefix(_CHATML)),
    "qwen3": (_CHATML, _CHATML_TURNS.removeprefix(_CHATML)),
    "vicuna": (_VICUNA, " Hello.</s>USER: Why? ASSISTANT:"),
    "zephyr": ("<|user|>\nHi</s>\n<|assistant|>\n", "Hello.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n"),
}

CALL = {"id": "call00001", "type": "function", "function": {"name": "look_up", "arguments": {"word": "ä"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "found", "tool_call_id": "call00001"}
TOOLS = [{"type": "function", "function": {"name": "look_up", "description": "Finds.", "parameters": {}}}]


@lru_cache
def _compile(text: str) -> Any:
    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(text)


@pytest.fixture(autouse=True)
def _plain_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compile", _compile)


def _renderer(name: str) -> Callable[..., str]:
    return Renderer(find_template(name), {"bos_token": "<s>", "eos_token": "</s>"}).render


def _text_or_refusal(name: str, messages: list[Any], **kwargs: Any) -> tuple[str, bool]:
    try:
        return _renderer(name)(messages, **kwargs), False
    except TemplateFailed as error:
        return "", len(str(error)) > 30  # a refusal says what and why


# --- what each writes ----------------------------------------------------------------------------


def test_every_template_is_covered_here_and_in_the_docs() -> None:
    assert set(PROMPTS) == set(NAMES)
    assert re.findall(r"^### ([a-z].*)$", PAGE, re.MULTILINE) == NAMES
    assert re.findall(r"^\| \[`(.+?)`\]", PAGE, re.MULTILINE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_prompts(name: str) -> None:
    render, (one, second) = _renderer(name), PROMPTS[name]
    assert render([ASK], add_generation_prompt=True) == one
    assert render([ASK, ANSWER, WHY], add_generation_prompt=True) == one + second


@pytest.mark.parametrize("name", NAMES)
def test_the_docs_show_what_is_rendered(name: str) -> None:
    shown = re.search(rf"^### {re.escape(name)}\n\n```text\n(.*?)\n```\n", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == _renderer(name)([SYSTEM, ASK, ANSWER]).rstrip("\n")


def test_the_docs_show_how_to_write_a_template() -> None:
    block = re.search(r"chat_template: \|\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    render = _renderer(block[1].replace("\n  ", "\n"))
    assert render([ASK, ANSWER]) == "user: Hi\nassistant: Hello.</s>\n"
    assert render([ASK], add_generation_prompt=True) == "user: Hi\nassistant:"


@pytest.mark.parametrize("name", ["alpaca", "hh", "plain", "vicuna"])
def test_tokenizers_with_one_token_for_beginning_and_end_put_none_before_a_text(name: str) -> None:
    for tokens in ({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, {"eos_token": "<|endoftext|>"}):
        text = Renderer(find_template(name), tokens).render([ASK, ANSWER])
        assert not text.startswith("<")
        assert text.endswith("Hello.<|endoftext|>")


def test_dates_of_llama_3_1_only_on_demand() -> None:
    text = _renderer("llama3")([SYSTEM, ASK], date_string="1 May 2025")
    assert text.startswith(
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 1 May 2025\n\nBe brief.<|eot_id|>"
    )


def test_calls_of_qwen2_5() -> None:
    text = _renderer("qwen2.5")([SYSTEM, ASK, CALLING, RESULT, RESULT], add_generation_prompt=True)
    assert text.split("Hi<|im_end|>\n")[1] == (
        '<|im_start|>assistant\n<tool_call>\n{"name": "look_up", "arguments": {"word": "ä"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nfound\n</tool_response>\n<tool_response>\nfound\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_calls_of_mistral() -> None:
    assert _renderer("mistral")([SYSTEM, ASK, CALLING, RESULT], tools=TOOLS) == (
        '<s>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "look_up", "description": "Finds.", '
        '"parameters": {}}}][/AVAILABLE_TOOLS][INST] Be brief.\n\nHi[/INST][TOOL_CALLS] [{"name": "look_up", '
        '"arguments": {"word": "ä"}, "id": "call00001"}]</s>[TOOL_RESULTS] {"content": found, "call_id": '
        '"call00001"}[/TOOL_RESULTS]'
    )


# --- Qwen3's reasoning ---------------------------------------------------------------------------

THINKING = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}
_EMPTY = "<think>\n\n</think>\n\n"


def test_qwen3_keeps_the_reasoning_of_the_last_answer_only() -> None:
    text = _renderer("qwen3")([ASK, THINKING, WHY, {"role": "assistant", "content": "<think>So.</think>\nYes."}])
    assert "<|im_start|>assistant\nHello.<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n<think>\nSo.\n</think>\n\nYes.<|im_end|>\n")


def test_qwen3_has_the_empty_block_in_the_answer_or_with_thinking_off_in_the_prompt() -> None:
    render, answered = _renderer("qwen3"), _renderer("qwen3")([ASK, ANSWER])
    assert answered == f"{_CHATML}{_EMPTY}Hello.<|im_end|>\n"
    assert render([ASK], add_generation_prompt=True, enable_thinking=True) == _CHATML
    assert render([ASK], add_generation_prompt=True, enable_thinking=False) == _CHATML + _EMPTY
    assert render([ASK, ANSWER], enable_thinking=False) == answered


# --- what none may do ----------------------------------------------------------------------------

WITHOUT_TOOLS = [[ASK], [SYSTEM, ASK], [ASK, ANSWER, WHY], [SYSTEM, ASK, ANSWER, WHY]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_a_text_with_an_answer_goes_on_where_the_prompt_ends(name: str, kwargs: dict[str, Any]) -> None:
    render = _renderer(name)
    for prompt in WITHOUT_TOOLS:
        for answer in (ANSWER, THINKING)[: 1 if kwargs.get("enable_thinking") is False else 2]:
            text = render([*prompt, answer], **kwargs)
            assert text.startswith(render(prompt, add_generation_prompt=True, **kwargs))
            assert "Hello." in text.removeprefix(render(prompt, add_generation_prompt=True, **kwargs))


def test_qwen3_with_thinking_off_and_an_answer_that_thinks_is_the_exception() -> None:
    render = _renderer("qwen3")
    prompt = render([ASK], add_generation_prompt=True, enable_thinking=False)
    assert not render([ASK, THINKING], enable_thinking=False).startswith(prompt)


@pytest.mark.parametrize("name", sorted(WITH_TOOLS))
def test_answers_that_call_tools_go_on_where_the_prompt_ends(name: str) -> None:
    render = _renderer(name)
    for prompt, answer in (([ASK], [CALLING]), ([ASK], [CALLING, RESULT, ANSWER]), ([ASK, CALLING, RESULT], [ANSWER])):
        text = render([SYSTEM, *prompt, *answer], tools=TOOLS)
        assert text.startswith(render([SYSTEM, *prompt], tools=TOOLS, add_generation_prompt=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_no_message_is_lost_and_a_first_system_message_never_refused(name: str, role: str) -> None:
    system = {"role": role, "content": "Be brief."}
    for messages in ([system, ASK], [system, ASK, ANSWER, WHY], [ASK, ANSWER, system, WHY], [system], [ASK, ASK]):
        text, refused = _text_or_refusal(name, messages)
        assert refused or all(message["content"] in text for message in messages)
        assert not (refused and messages[0] == system and len(messages) > 1)


@pytest.mark.parametrize("name", NAMES)
def test_tools_and_calls_are_written_or_refused(name: str) -> None:
    calls = [ASK, CALLING], None, ["look_up", "ä"]
    results = [ASK, CALLING, RESULT], None, ["look_up", "found"]
    tools = [ASK], TOOLS, ["look_up", "Finds."]
    # Not every format with tools has a form for these two.
    with_text = [ASK, {**CALLING, "content": "Looking."}], None, ["look_up", "Looking."]
    two = [ASK, {**CALLING, "tool_calls": [CALL, CALL]}], None, ["look_up"]
    for case in (calls, results, tools, with_text, two):
        messages, offered, expected = case
        text, refused = _text_or_refusal(name, messages, tools=offered)
        assert refused or all(part in text for part in expected)
        if name not in WITH_TOOLS or case in (calls, results, tools):
            assert refused == (name not in WITH_TOOLS)


@pytest.mark.parametrize("name", ["gemma", "llama2", "mistral"])
def test_turns_that_do_not_alternate_are_refused_where_the_published_templates_do(name: str) -> None:
    for messages in ([ASK, WHY], [ANSWER, WHY], [SYSTEM, ANSWER]):
        with pytest.raises(TemplateFailed, match="alternating turns"):
            _renderer(name)(messages)


def test_mistral_wants_ids_of_nine_characters() -> None:
    with pytest.raises(TemplateFailed, match="9 letters"):
        _renderer("mistral")([ASK, {**CALLING, "tool_calls": [{**CALL, "id": "1"}]}])
    with pytest.raises(TemplateFailed, match="9 letters"):
        _renderer("mistral")([ASK, CALLING, {**RESULT, "tool_call_id": ""}])
