"""Chat templates: finding one, knowing the tokens it needs, and rendering with it as transformers does, but faster."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes

from dpo_recipes.errors import DpoRecipeError, RecipeError, RunError
from dpo_recipes.recipe.jinja_syntax import parse_template
from dpo_recipes.recipe.paths import is_inline_template
from dpo_recipes.shipped import template_paths

if TYPE_CHECKING:
    import jinja2

    from dpo_recipes.data.rows import Message

EOS = "eos_token"
"""What `Template.end_of_turn` is when the tokenizer's own end-of-sequence token ends an answer."""

_HEADER = re.compile(r"\s*\{#[-+]?(.*?)#\}", re.DOTALL)
_HEADER_LINE = re.compile(r"^\s*(special tokens|end of turn):(.*)$", re.MULTILINE)
# <|im_end|> and DeepSeek's <｜User｜>; <start_of_turn>, <end_of_turn>; <s>, </s>, <bos>, <eos>; <think>, </think>.
_TOKEN_FORM = re.compile(r"<[|｜][^\s<>|｜]+[|｜]>|<(?:start|end)_of_\w+>|</?s>|<(?:bos|eos)>|</?think>")
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


class TemplateFailed(Exception):
    """A template raised an error on a conversation; its text is the template's own message."""


@dataclass(frozen=True)
class Template:
    """A chat template and what it asks of a tokenizer."""

    name: str
    """A shipped template's name, a file's without `.jinja`, `inline` or `tokenizer`."""
    text: str
    special_tokens: tuple[str, ...]
    """Literals that must be single tokens of the tokenizer, in the order in which the template names them."""
    end_of_turn: str | None
    """What ends an assistant's answer: a literal, `eos_token`, or none where the template does not say."""


def find_template(reference: str) -> Template:
    """The template that a recipe's `chat_template` means, unless that is `tokenizer`.

    `reference` is a shipped template's name, the path of a `.jinja` file, or Jinja text (with `{{` or `{%`).
    Raises `RecipeError` R310 (no such template, a file that cannot be read) and R320 (syntax error, with its line).
    """
    if is_inline_template(reference):
        return read_template("inline", reference, "chat_template")
    path = Path(reference) if reference.endswith(".jinja") else template_paths().get(reference)
    if path is None:
        near = difflib.get_close_matches(reference, template_paths(), n=1, cutoff=0.5)
        raise RecipeError.of(
            "R310",
            f"unknown chat template `{reference}`",
            why=f"it is `tokenizer`, one of {', '.join(template_paths())}, or a path that ends in .jinja",
            fix=f"did you mean `{near[0]}`?" if near else "choose one of these",
        )
    try:
        # Editors on Windows put a byte order mark in front, which would become a part of every prompt.
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
    """The tokenizer's own template; of several named ones the one called `default`.

    transformers takes `tool_use` where there is one and a conversation has tools; here one template renders all rows.
    What looks like a special token and is none for this tokenizer (Zephyr's <|user|>) is text that its model was
    trained on, and left out of `special_tokens`. Raises `RunError` M505 when there is none, and `RecipeError` R320.
    """
    own = tokenizer.chat_template
    text = own.get("default") if isinstance(own, Mapping) else own
    if not text:
        raise RunError.of(
            "M505",
            "the tokenizer has no chat template" + (" called `default`" if own else ""),
            why=f"it has {', '.join(own)}"
            if isinstance(own, Mapping) and own
            else "base models usually have none; `chat_template: tokenizer` asks for the model's own",
            fix=f"choose a shipped one: `chat_template: plain` ({', '.join(template_paths())})",
        )
    template = read_template("tokenizer", text, "the tokenizer's chat template")
    find = tokenizer.backend_tokenizer.token_to_id
    known = tuple(token for token in template.special_tokens if find(token) is not None)
    return replace(template, special_tokens=known)


def read_template(name: str, text: str, file: str) -> Template:
    """A template's text with what its header says; `file` is where errors say they are.

    A header is the comment that the text begins with; its lines `special tokens: ...` (separated by spaces, or
    `none`) and `end of turn: ...` count. Without the first, special tokens are those that `tokens_in` finds.
    Raises `RecipeError` R320.
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
    """What looks like a special token in the texts that a template writes or compares with.

    Looked at are the text outside of tags and every string within them; forms are `<|...|>`, `<｜...｜>`,
    `<start_of_...>`, `<end_of_...>`, `<s>`, `</s>`, `<bos>`, `<eos>`, `<think>` and `</think>`. Square brackets do not
    count: Mistral's [INST] is one token for some of its tokenizers and plain text for others. A token that is put
    together from pieces, such as `'<|' + role + '|>'`, is not found: only a header can name it.
    """
    for node in tree.find_all((nodes.TemplateData, nodes.Const)):
        value = node.data if isinstance(node, nodes.TemplateData) else node.value  # type: ignore[attr-defined]
        if isinstance(value, str):
            yield from _TOKEN_FORM.findall(value)


@lru_cache(maxsize=8)
def _compile(text: str) -> jinja2.Template:
    # Private in transformers 5.23, and the only way to be sure of its sandbox, filters and tags. Should it go, the
    # test that compares `Renderer` with `apply_chat_template` fails here.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(text)


class Renderer:
    """Renders conversations with one template: the text that `apply_chat_template(..., tokenize=False)` gives.

    Faster by the 12 µs that rebuilding messages for the sandbox takes: messages here are plain JSON data already.
    """

    def __init__(
        self,
        template: Template,
        special_tokens_map: Mapping[str, str],
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.template = template
        self.template_kwargs = dict(template_kwargs or {})
        """Variables for every conversation; those that come with one go before them."""
        self._variables = {name: str(token) for name, token in special_tokens_map.items()}
        self._render = _compile(template.text).render

    @property
    def end_of_turn(self) -> str | None:
        """What ends an assistant's answer, as text: the template's own, or else the end-of-sequence token."""
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
        except DpoRecipeError:  # a requested stop that came in the middle
            raise
        except TemplateError as error:
            raise TemplateFailed(str(error)) from error
        except Exception as error:  # a template is somebody's code: adding text to none is a TypeError
            raise TemplateFailed(f"{type(error).__name__}: {error}") from error


def _with_reasoning(message: Message) -> Mapping[str, Any]:
    # As transformers 5.23 does, but under all names: reasoning under any of them is there for every template.
    for name in _REASONING_NAMES:
        if (reasoning := message.get(name)) is not None:
            return {"thinking": reasoning, "reasoning": reasoning, **message, "reasoning_content": reasoning}
    return message
