"""Renders rows to the texts that a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dpo_recipes.data.context import TurnsNotFound, find_context
from dpo_recipes.data.encode import Texts
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.data.template import Renderer, TemplateFailed
from dpo_recipes.errors import DataError


def render_row(row: Row, renderer: Renderer, *, finds_context: bool = False) -> Texts:
    """The texts of a row's prompt and answers as the model reads them.

    With `finds_context`, turns of the user or a tool in the answers are located. Raises `DataError` D420 if the
    template fails, and D429 if these turns cannot be distinguished from the assistant's.
    """
    if row.rendered:
        prompt = _joined(row.prompt)
        return Texts(prompt, tuple(prompt + _joined(answer) for answer in row.answers))
    try:
        answers = tuple(
            renderer.render([*row.prompt, *answer], tools=row.tools, **row.template_kwargs) for answer in row.answers
        )
        texts = Texts(render_prompt(row, renderer), answers)
    except TemplateFailed as error:
        raise DataError.of(
            "D420",
            f"the chat template cannot render {row.where}",
            why=str(error),
            fix="choose another `chat_template`, or correct the messages that it refuses",
        ) from error
    has_turns = any(len(answer) > 1 for answer in row.answers)
    return _with_context(row, texts, renderer) if finds_context and has_turns else texts


def _with_context(row: Row, texts: Texts, renderer: Renderer) -> Texts:
    extras = {"tools": row.tools, **row.template_kwargs}
    answers = zip(row.answers, texts.answers, strict=True)
    try:
        spans = tuple(find_context(row.prompt, answer, text, renderer, extras) for answer, text in answers)
    except TurnsNotFound as error:
        raise DataError.of(
            "D429",
            f"the assistant's turns cannot be found in the rendered text of {row.where}: {error}",
            why=f"`{renderer.template.name}` drops or rewrites it if other turns follow, so the user's turns in the "
            "answers cannot be masked in the loss",
            fix="choose another `chat_template`, or train on all turns with `data.train_on_turns: all`",
        ) from error
    return replace(texts, context=spans)


def render_prompt(row: Row, renderer: Renderer) -> str:
    """The rendered prompt, with the generation prompt. Raises `TemplateFailed`."""
    if row.rendered:
        return _joined(row.prompt)
    return renderer.render(row.prompt, add_generation_prompt=True, tools=row.tools, **row.template_kwargs)


def messages_in_texts(row: Row, texts: Texts) -> Iterator[tuple[Sequence[Message], str]]:
    """The messages of a row with the rendered text that should contain them.

    The messages of the prompt are only yielded once if all texts start with the prompt.
    """
    is_shared = all(text.startswith(texts.prompt) for text in texts.answers)
    if is_shared:
        yield row.prompt, texts.prompt
    for text, answer in zip(texts.answers, row.answers, strict=True):
        yield answer if is_shared else [*row.prompt, *answer], text


def _joined(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)
