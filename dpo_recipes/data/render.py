"""Rows as the texts that a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dpo_recipes.data.context import TurnsNotFound, find_context
from dpo_recipes.data.encode import Texts
from dpo_recipes.data.rows import Message, PreferenceRow
from dpo_recipes.data.template import Renderer, TemplateFailed
from dpo_recipes.errors import DataError


def render_row(row: PreferenceRow, renderer: Renderer, *, finds_context: bool = False) -> Texts:
    """The texts of a row's prompt and answers as the model reads them.

    `finds_context` says to look for the turns of others in the answers. Raises `DataError` D420, and D429 where they
    cannot be told from the model's own.
    """
    if row.rendered:
        prompt = _joined(row.prompt)
        return Texts(prompt, (prompt + _joined(row.chosen), prompt + _joined(row.rejected)))
    try:
        answers = tuple(
            renderer.render([*row.prompt, *answer], tools=row.tools, **row.template_kwargs)
            for answer in (row.chosen, row.rejected)
        )
        texts = Texts(render_prompt(row, renderer), answers)
    except TemplateFailed as error:
        raise DataError.of(
            "D420",
            f"the chat template cannot render {row.where}",
            why=str(error),
            fix="choose another `chat_template`, or correct the messages it refuses",
        ) from error
    return _with_context(row, texts, renderer) if finds_context and len(row.chosen) + len(row.rejected) > 2 else texts


def _with_context(row: PreferenceRow, texts: Texts, renderer: Renderer) -> Texts:
    extras = {"tools": row.tools, **row.template_kwargs}
    answers = zip((row.chosen, row.rejected), texts.answers, strict=True)
    try:
        spans = tuple(find_context(row.prompt, answer, text, renderer, extras) for answer, text in answers)
    except TurnsNotFound as error:
        raise DataError.of(
            "D429",
            f"the assistant's turns cannot be found in what the template renders of {row.where}: {error}",
            why=f"`{renderer.template.name}` drops or rewrites it where other turns follow, so what the user says in "
            "the answers cannot be left out of the loss",
            fix="choose another `chat_template`, or train on all turns with `data.train_on_turns: all`",
        ) from error
    return replace(texts, context=spans)


def render_prompt(row: PreferenceRow, renderer: Renderer) -> str:
    """What the model is given to answer. Raises `TemplateFailed`."""
    if row.rendered:
        return _joined(row.prompt)
    return renderer.render(row.prompt, add_generation_prompt=True, tools=row.tools, **row.template_kwargs)


def messages_in_texts(row: PreferenceRow, texts: Texts) -> Iterator[tuple[Sequence[Message], str]]:
    """The messages of a row together with the rendered text that they should stand in; those of the prompt once where
    both texts begin with it."""
    is_shared = all(text.startswith(texts.prompt) for text in texts.answers)
    if is_shared:
        yield row.prompt, texts.prompt
    for text, answer in zip(texts.answers, (row.chosen, row.rejected), strict=True):
        yield answer if is_shared else [*row.prompt, *answer], text


def _joined(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)
