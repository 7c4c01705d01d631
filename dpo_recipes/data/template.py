"""Finds chat templates, reads which tokens they need, and renders them like transformers, but faster."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes

from dpo_recipes.data.message import REASONING_NAMES
from dpo_recipes.errors import DpoRecipeError, RecipeError, RunError
from dpo_recipes.recipe.jinja_syntax import parse_template
from dpo_recipes.recipe.paths import is_inline_template
from dpo_recipes.shipped import template_paths

if TYPE_CHECKING:
    import jinja2

    from dpo_recipes.data.rows import Message

EOS = "eos_token"
"""The value of `Template.end_of_turn` if the tokenizer's own end-of-sequence token ends an answer."""

_HEADER = re.compile(r"\s*\{#[-+]?(.*?)#\}", re.DOTALL)
_HEADER_LINE = re.compile(r"^\s*(special tokens|end of turn):(.*)$", re.MULTILINE)
# <|im_end|> and DeepSeek's <｜User｜>; <start_of_turn>, <end_of_turn>; <s>, </s>, <bos>, <eos>; <think>, </think>.
_TOKEN_FORM = re.compile(r"<[|｜][^\s<>|｜]+[|｜]>|<(?:start|end)_of_\w+>|</?s>|<(?:bos|eos)>|</?think>")


class TemplateFailed(Exception):
    """Raised if a template fails for a conversation; the text is the template's own message."""


@dataclass(frozen=True)
class Template:
    """A chat template and its requirements on the tokenizer."""

    name: str
    """The name of a shipped template, that of a file without `.jinja`, `inline` or `tokenizer`."""
    text: str
    special_tokens: tuple[str, ...]
    """Literals that must be single tokens of the tokenizer, in the order of the template."""
    end_of_turn: str | None
    """The end of an assistant's answer: a literal, `eos_token`, or None if the template does not say."""


def find_template(reference: str) -> Template:
    """The template of a recipe's `chat_template`, unless that is `tokenizer`.

    `reference` is the name of a shipped template, the path of a `.jinja` file, or Jinja text (with `{{` or `{%`).
    Raises `RecipeError` R310 (no such template, unreadable file) and R320 (syntax error, with its line).
    """
    if is_inline_template(reference):
        return read_template("inline", reference, "chat_template")
    path = Path(reference) if reference.endswith(".jinja") else template_paths().get(reference)
    if path is None:
        near = difflib.get_close_matches(reference, template_paths(), n=1, cutoff=0.5)
        raise RecipeError.of(
            "R310",
            f"unknown chat template `{reference}`",
            why=f"it must be `tokenizer`, one of {', '.join(template_paths())}, or a path that ends in .jinja",
            fix=f"did you mean `{near[0]}`?" if near else "choose one of these",
        )
    try:
        # Editors on Windows add a byte order mark, which would become part of every prompt.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError.of(
            "R310",
            f"the chat template {path} cannot be read",
            why=str(error),
            fix="correct the path, or save the file as UTF-8",
        ) from error
    return read_template(path.name.removesuffix(".jinja"), text, str(path))


def template_of_tokenizer(tokenizer: Any) -> Template:
    """The tokenizer's own template, or the one called `default` if it has several.

    transformers uses the template `tool_use`, if there is one, for conversations with tools; here one template renders
    all rows. Literals that look like special tokens but are not tokens of this tokenizer (Zephyr's <|user|>) are not in
    `special_tokens`, since the model was trained on them as text. Raises `RunError` M505 if there is no template, and
    `RecipeError` R320 for a syntax error.
    """
    own = tokenizer.chat_template
    text = own.get("default") if isinstance(own, Mapping) else own
    if not text:
        raise RunError.of(
            "M505",
            "the tokenizer has no chat template" + (" called `default`" if own else ""),
            why=f"it has {', '.join(own)}"
            if isinstance(own, Mapping) and own
            else "base models usually have none, and `chat_template: tokenizer` selects the model's own",
            fix=f"choose a shipped template, for example `chat_template: plain` ({', '.join(template_paths())})",
        )
    template = read_template("tokenizer", text, "the tokenizer's chat template")
    find = tokenizer.backend_tokenizer.token_to_id
    known = tuple(token for token in template.special_tokens if find(token) is not None)
    return replace(template, special_tokens=known)


def read_template(name: str, text: str, file: str) -> Template:
    """Parse a template's text and header; `file` is the location that errors name.

    The header is the comment at the start of the text. Its lines `special tokens: ...` (separated by spaces, or
    `none`) and `end of turn: ...` are read. Without the first, special tokens are those that `tokens_in` finds.
    Raises `RecipeError` R320 for a syntax error.
    """
    tree = parse_template(text, file)
    header = _HEADER.match(text)
    lines = dict(_HEADER_LINE.findall(header[1])) if header else {}
    if "special tokens" in lines:
        tokens = tuple(token for token in lines["special tokens"].split() if token != "none")
    else:
        tokens = tuple(dict.fromkeys(tokens_in(tree)))
    return Template(name, text, tokens, lines.get("end of turn", "").strip() or None)


def tokens_in(tree: nodes.Template) -> Iterator[str]:
    """Literals that look like special tokens in the texts of a template.

    These are searched in the text outside of tags and in every string inside them, in the forms `<|...|>`, `<｜...｜>`,
    `<start_of_...>`, `<end_of_...>`, `<s>`, `</s>`, `<bos>`, `<eos>`, `<think>` and `</think>`. Square brackets do not
    count: Mistral's [INST] is one token of some of its tokenizers and plain text for others. A token that a template
    concatenates, such as `'<|' + role + '|>'`, is not found and must be named in a header.
    """
    for node in tree.find_all((nodes.TemplateData, nodes.Const)):
        value = node.data if isinstance(node, nodes.TemplateData) else node.value  # type: ignore[attr-defined]
        if isinstance(value, str):
            yield from _TOKEN_FORM.findall(value)


@lru_cache(maxsize=8)
def _compile(text: str) -> jinja2.Template:
    # The function is private in transformers 5.23, but the only way to get its sandbox, filters and tags. If it is
    # removed, the test that compares `Renderer` with `apply_chat_template` fails.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(text)


class Renderer:
    """Renders conversations with one template to the same text as `apply_chat_template(..., tokenize=False)`.

    It saves 12 µs for each conversation, because it does not copy messages for the sandbox: they are plain JSON data.
    """

    def __init__(
        self,
        template: Template,
        special_tokens_map: Mapping[str, str],
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.template = template
        self.template_kwargs = dict(template_kwargs or {})
        """Variables for every conversation; those of a single conversation take precedence."""
        self._variables = {name: str(token) for name, token in special_tokens_map.items()}
        self._render = _compile(template.text).render

    @property
    def end_of_turn(self) -> str | None:
        """The text that ends an assistant's answer: the template's end of turn, or else the end-of-sequence token."""
        own = self.template.end_of_turn
        return self._variables.get(EOS) if own in (None, EOS) else own

    def render(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        **template_kwargs: Any,
    ) -> str:
        """The text of a conversation. Raises `TemplateFailed`."""
        if not messages:
            raise TemplateFailed("the conversation has no messages")
        try:
            return self._render(
                {
                    **self._variables,
                    **self.template_kwargs,
                    **template_kwargs,
                    "messages": [_with_reasoning(message) for message in messages],
                    "tools": tools,
                    "documents": template_kwargs.get("documents"),
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except DpoRecipeError:  # a stop was requested while rendering
            raise
        except TemplateError as error:
            raise TemplateFailed(str(error)) from error
        except Exception as error:  # templates are arbitrary code: adding text to None is a TypeError
            raise TemplateFailed(f"{type(error).__name__}: {error}") from error


def _with_reasoning(message: Message) -> Mapping[str, Any]:
    # transformers 5.23 does this too. Here reasoning under any name is available under all of them in every template.
    for name in REASONING_NAMES:
        if (reasoning := message.get(name)) is not None:
            return {"thinking": reasoning, "reasoning": reasoning, **message, "reasoning_content": reasoning}
    return message
