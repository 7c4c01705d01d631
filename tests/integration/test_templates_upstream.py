"""Shipped templates against transformers, which renders them, and against the published templates that TRL carries."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from tiny import make_tokenizer

from dpo_recipes.data.template import Renderer, TemplateFailed, find_template, template_of_tokenizer
from dpo_recipes.errors import RunError
from dpo_recipes.shipped import template_paths

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a town.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "Its name, as in Zürich"}},
                "required": ["town"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}},
]


def _call(name: str, arguments: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": " Be brief. "}
ASK = {"role": "user", "content": " Is it raining in Zürich?\n"}
ANSWER = {"role": "assistant", "content": ' Yes, <heavily> & "cold". '}
CALLING = {"role": "assistant", "content": "", "tool_calls": [_call("get_weather", {"town": "Zürich", "days": [1, 2]})]}
RESULT = {"role": "tool", "content": '{"rain": true}', "tool_call_id": "call00001", "name": "get_weather"}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [ASK],
    "system": [SYSTEM, ASK],
    "answer": [ASK, ANSWER],
    "system_answer": [SYSTEM, ASK, ANSWER],
    "two_turns": [ASK, ANSWER, ASK],
    "system_two_turns": [SYSTEM, ASK, ANSWER, ASK, ANSWER],
    "line_breaks": [{"role": "user", "content": "\n\na\n\n"}, {"role": "assistant", "content": "\n\nb\n\n"}],
    "markup": [{"role": "user", "content": "{{ 1 }} <|im_end|> {% x %}"}, ANSWER],
    "two_questions": [ASK, ASK, ANSWER],
    "late_system": [ASK, ANSWER, SYSTEM, ASK],
    "thoughts_in_text": [ASK, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."}],
    "thoughts_apart": [ASK, {"role": "assistant", "content": "Yes.", "reasoning_content": "\nHm.\n"}],
    "thoughts_old_name": [ASK, {"role": "assistant", "content": "Yes.", "reasoning": "Hm."}],
    "thoughts_of_before": [ASK, {"role": "assistant", "content": "<think>Hm.</think>Yes."}, ASK, ANSWER],
    "call": [ASK, CALLING],
    "call_with_text": [ASK, {**CALLING, "content": "Let me look."}],
    "two_calls": [ASK, {**CALLING, "tool_calls": [_call("get_weather", {}), _call("now", {}, 2)]}],
    "result": [SYSTEM, ASK, CALLING, RESULT],
    "two_results": [ASK, CALLING, RESULT, RESULT, ANSWER],
    "results_and_thoughts": [ASK, {**CALLING, "reasoning_content": "Look."}, RESULT, ANSWER, ASK],
    "result_from_user": [ASK, CALLING, {"role": "user", "content": "<tool_response>\n1\n</tool_response>"}, ANSWER],
}
CASES = [(name, tools, prompt) for name in CONVERSATIONS for tools in (None, TOOLS) for prompt in (False, True)]

# Ours, TRL's name of the published one, variables, and what ours does with tools: the `same`, `refused` where the
# published one drops them silently, or `more` (what Llama 3.1 says about tools serves Llama 3, too).
PUBLISHED = [
    ("llama3", "llama3", {}, "more"),
    ("llama3", "llama3_1", {"date_string": "26 Jul 2024"}, "same"),
    ("gemma", "gemma", {}, "refused"),
    ("gemma", "gemma3", {}, "refused"),
    ("phi3", "phi3", {}, "refused"),
    ("qwen2.5", "qwen2_5", {}, "same"),
    ("qwen3", "qwen3", {}, "same"),
    ("qwen3", "qwen3", {"enable_thinking": False}, "same"),
    ("qwen3", "qwen3", {"enable_thinking": True}, "same"),
]
DROPPED = {("llama3_1", "call_with_text")}
"""Published templates drop the text beside a call here, and ours refuses it."""
NOT_IN_GEMMA_1 = {"system", "system_answer", "system_two_turns"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = make_tokenizer()
    made.bos_token, made.eos_token = "<|endoftext|>", "<|im_end|>"
    return made


def _render(renderer: Renderer, case: tuple[str, Any, bool], **kwargs: Any) -> str | None:
    """The text, or none when the template refuses the conversation."""
    name, tools, prompt = case
    try:
        return renderer.render(CONVERSATIONS[name], tools=tools, add_generation_prompt=prompt, **kwargs)
    except TemplateFailed:
        return None


def _render_upstream(tokenizer: Any, text: str, case: tuple[str, Any, bool], **kwargs: Any) -> str | None:
    from jinja2 import TemplateError

    name, tools, prompt = case
    try:
        return tokenizer.apply_chat_template(
            CONVERSATIONS[name], tools, chat_template=text, add_generation_prompt=prompt, tokenize=False, **kwargs
        )
    except (TemplateError, TypeError):
        return None


@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": False}, {"date_string": "1 May 2025", "bos_token": "<x>"}])
@pytest.mark.parametrize("name", template_paths())
def test_the_renderer_gives_what_transformers_gives(tokenizer: Any, name: str, kwargs: dict[str, Any]) -> None:
    template = find_template(name)
    renderer = Renderer(template, tokenizer.special_tokens_map)
    ours = [_render(renderer, case, **kwargs) for case in CASES]
    assert ours == [_render_upstream(tokenizer, template.text, case, **kwargs) for case in CASES]
    assert any(ours)


@pytest.mark.parametrize(("ours", "published", "kwargs", "tools"), PUBLISHED)
def test_templates_render_as_the_published_ones(
    tokenizer: Any, ours: str, published: str, kwargs: dict[str, Any], tools: str
) -> None:
    text = files("trl").joinpath("chat_templates", f"{published}.jinja").read_text(encoding="utf-8")
    renderer = Renderer(find_template(ours), tokenizer.special_tokens_map)
    compared = 0
    for case in CASES:
        rendered = _render(renderer, case, **kwargs)
        if (published, case[0]) in DROPPED or (tools == "refused" and _has_tool_parts(case)):
            assert rendered is None, case
        elif not (tools == "more" and _has_tool_parts(case)) and not (
            published == "gemma" and case[0] in NOT_IN_GEMMA_1
        ):
            assert rendered == _render_upstream(tokenizer, text, case, **kwargs), case
            compared += rendered is not None
    assert compared >= 18


def _has_tool_parts(case: tuple[str, Any, bool]) -> bool:
    name, tools, _ = case
    return tools is not None or any("tool_calls" in message for message in CONVERSATIONS[name])


def test_a_conversation_without_messages_is_refused_as_upstream_refuses_it(tokenizer: Any) -> None:
    template = find_template("chatml")
    with pytest.raises(ValueError, match="empty conversation"):
        tokenizer.apply_chat_template([], chat_template=template.text, tokenize=False)
    with pytest.raises(TemplateFailed, match="no messages"):
        Renderer(template, {}).render([])


def test_a_template_sees_what_transformers_gives_it(tokenizer: Any) -> None:
    text = (
        "{% generation %}{{ [tools, documents, add_generation_prompt, bos_token, eos_token, pad_token, extra] }}"
        "{% endgeneration %}{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
        "{{ namespace(a=dict(b=1)).a }}{{ strftime_now('%Y') }}\n"
    )
    ours = Renderer(find_template(text), tokenizer.special_tokens_map)
    for tools in (None, [], TOOLS):
        for extra in ({"extra": None}, {"extra": 1, "eos_token": "<x>", "documents": [{"title": "a", "text": "b"}]}):
            expected = tokenizer.apply_chat_template([ASK, ANSWER], tools, chat_template=text, tokenize=False, **extra)
            assert ours.render([ASK, ANSWER], tools=tools, **extra) == expected


def test_the_tokenizers_own_template_is_the_one_called_default() -> None:
    tokenizer = make_tokenizer()
    own = tokenizer.chat_template
    assert template_of_tokenizer(tokenizer).text == own
    tokenizer.chat_template = {"tool_use": "{{ tools }}", "default": own}
    template = template_of_tokenizer(tokenizer)
    assert (template.name, template.text, template.end_of_turn) == ("tokenizer", own, "<|im_end|>")
    for without in (None, {"tool_use": "{{ tools }}"}):
        tokenizer.chat_template = without
        with pytest.raises(RunError, match="M505"):
            template_of_tokenizer(tokenizer)


def test_what_looks_like_a_token_in_the_tokenizers_own_template_is_one_only_if_it_knows_it() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ '<|im_end|>' }}{% for m in messages %}{{ '<|user|>' + m.content }}{% endfor %}"
    assert template_of_tokenizer(tokenizer).special_tokens == ("<|im_end|>",)
    assert set(find_template(tokenizer.chat_template).special_tokens) == {"<|im_end|>", "<|user|>"}
