"""How a recipe's `chat_template` is found and read: names, files, inline texts, headers, tokens, syntax errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_recipes.data.template import find_template, read_template
from dpo_recipes.errors import RecipeError
from dpo_recipes.shipped import template_paths

Write = Callable[[str, str], Path]
NAMES = sorted(template_paths())
TOKEN = re.compile(r"<\|\w+\|>|<\w+_of_turn>|</?think>|\[/?INST\]")


@pytest.mark.parametrize("name", NAMES)
def test_headers_are_complete(name: str) -> None:
    text = template_paths()[name].read_text(encoding="utf-8")
    header, body = text.split("-#}\n", 1)
    assert header.startswith("{#- ")
    assert re.search(r"^    source: (https://\S+|this project's own)$", header, re.MULTILINE)
    assert re.search(r"^    special tokens: \S.*$", header, re.MULTILINE)
    template = find_template(name)
    assert (template.name, template.text) == (name, text)
    assert template.end_of_turn == "eos_token" or template.end_of_turn in template.special_tokens
    # Zephyr's role marks and Llama 2's [INST] are ordinary text for their tokenizers.
    written = set() if name in ("zephyr", "llama2") else set(TOKEN.findall(body))
    assert written <= set(template.special_tokens)
    if name == "phi3":  # puts its tokens together from the role
        assert template.special_tokens == ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    else:
        assert set(template.special_tokens) == written


def test_names_with_dots_are_names() -> None:
    assert find_template("qwen2.5").name == "qwen2.5"


def test_a_file_is_read_as_it_stands_without_a_byte_order_mark(write: Write) -> None:
    path = write("my.own.jinja", "\ufeff{{ messages }}\n\n")
    assert (find_template(str(path)).name, find_template(str(path)).text) == ("my.own", "{{ messages }}\n\n")


def test_an_inline_text_is_a_template() -> None:
    template = find_template("{% for m in messages %}<|go|>{{ m.content }}{% endfor %}")
    assert (template.name, template.special_tokens, template.end_of_turn) == ("inline", ("<|go|>",), None)


@pytest.mark.parametrize(
    ("header", "tokens", "end"),
    [
        ("{#- Mine.\n    special tokens: <a> [B]\n    end of turn: <a>\n-#}", ("<a>", "[B]"), "<a>"),
        ("\n{# special tokens: none #}", (), None),
        ("{# end of turn: eos_token\n#}", ("<|x|>",), "eos_token"),
        ("{# Nothing said. #}", ("<|x|>",), None),
        ("{{ 1 }}{# special tokens: <a> #}", ("<|x|>",), None),
    ],
)
def test_a_header_counts_where_it_says_something(header: str, tokens: tuple[str, ...], end: str | None) -> None:
    template = read_template("mine", header + "{{ '<|x|>' }}", "mine.jinja")
    assert (template.special_tokens, template.end_of_turn) == (tokens, end)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("<|im_start|>{{ '<|im_end|>\\n' }}<|im_start|>", ("<|im_start|>", "<|im_end|>")),
        (
            "{{ '<start_of_turn>' + role }}{% if x == '<end_of_turn>' %}{% endif %}",
            ("<start_of_turn>", "<end_of_turn>"),
        ),
        ("{{ bos_token }}{{ '<s>[INST] a [/INST]</s>' }}", ("<s>", "</s>")),
        ("{{ '<｜User｜>' }}{{ '<｜begin▁of▁sentence｜>' }}", ("<｜User｜>", "<｜begin▁of▁sentence｜>")),
        ("{{ '<think>' }}{{ x.split('</think>')[1] }}", ("<think>", "</think>")),
        ("{# <|comment|> #}{{ '<|' + role + '|>' }}{{ 'a <b> | c' }}{{ 1 }}", ()),
        ("{% generation %}{{ '<|x|>' }}{% endgeneration %}{% for a in b %}{% break %}{% endfor %}", ("<|x|>",)),
    ],
)
def test_without_a_header_tokens_are_found_by_their_form(text: str, tokens: tuple[str, ...]) -> None:
    assert sorted(find_template(text + "{% set x = 1 %}").special_tokens) == sorted(tokens)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a\n  {% if x %}\nb", 2, "Unexpected end of template"),
        ("{{ a }\n", 1, "unexpected '}'"),
        ("{{ 1 }}\n{% endfor %}", 2, "unknown tag 'endfor'"),
        ("{{ 1 }}\n\n{{ 1 | nosuch }}", 3, "No filter named 'nosuch'"),
        ("{{ 'a }}", 1, "unexpected char"),
        ("{% generation %}", 1, "Unexpected end of template"),
    ],
)
def test_a_syntax_error_is_shown_with_its_line(write: Write, text: str, line: int, message: str) -> None:
    path = write("bad.jinja", text)
    for reference, file in ((str(path), str(path)), (text, "chat_template")):
        with pytest.raises(RecipeError) as caught:
            find_template(reference)
        finding = caught.value.findings[0]
        assert finding.code == "R320"
        assert message.lower() in finding.what.lower()
        assert finding.where is not None
        assert (finding.where.file, finding.where.line) == (file, line)
        assert finding.where.text == text.splitlines()[line - 1]


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"(?s)R310.*qwen2\.5, .*did you mean `chatml`"):
        find_template("chatlm")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jinja").write_bytes(b"{{ '\xe4' }}")
    (tmp_path / "folder.jinja").mkdir()
    for name in ("latin.jinja", "folder.jinja", "nosuch.jinja"):
        with pytest.raises(RecipeError, match="R310"):
            find_template(str(tmp_path / name))


@pytest.mark.parametrize("text", ["{{ " + "(" * 5_000, "{% if x %}" * 5_000, "{{ " + "a + " * 5_000 + "a }}"])
def test_a_template_that_is_nested_too_deeply(text: str) -> None:
    with pytest.raises(RecipeError) as raised:
        find_template(text)
    (finding,) = raised.value.findings
    assert (finding.code, finding.what) == ("R320", "the chat template is nested too deeply")
