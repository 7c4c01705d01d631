"""Applies the recipe's chat template to a tokenizer: checks or adds special tokens and finds the end-of-turn ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dpo_recipes.data.checks.template import end_token_ids
from dpo_recipes.data.encoder_template import check_encoder_text, encoder_template
from dpo_recipes.data.template import Renderer, Template, find_template, template_of_tokenizer
from dpo_recipes.errors import DataError


@dataclass(frozen=True)
class Chat:
    """A template that is ready to render for one tokenizer."""

    template: Template
    renderer: Renderer
    end_ids: frozenset[int]
    """Ids at which the model stops answering."""
    added_ids: list[int] = field(default_factory=list)
    """Ids of the special tokens that were added because the tokenizer lacked them."""


def apply_template(
    tokenizer: Any,
    reference: str,
    add_special_tokens: bool | None,
    template_kwargs: Mapping[str, Any] | None = None,
    *,
    is_encoder: bool = False,
) -> Chat:
    """Set the recipe's template on the tokenizer, and add the tokens that it needs if the recipe allows that.

    For an encoder, `tokenizer` is the tokenizer's form of two texts unless it has a chat template. Raises `DataError`
    D421 if tokens are missing and `add_special_tokens` is not set, and `RunError` M505 if the reference is `tokenizer`
    and the tokenizer of a decoder has no template, and M527 if the texts do not fit an encoder.
    """
    if reference != "tokenizer":
        template = find_template(reference)
    elif is_encoder and not tokenizer.chat_template:
        template = encoder_template(tokenizer)
    else:
        template = template_of_tokenizer(tokenizer)
    if is_encoder:  # before tokens of the wrong template are missed
        check_encoder_text(tokenizer, Renderer(template, tokenizer.special_tokens_map, template_kwargs))
    added: list[str] = []
    if add_special_tokens is not False:
        added = missing_tokens(tokenizer, template)
        if added and not add_special_tokens:
            raise DataError.of(
                "D421",
                f"the tokenizer lacks {', '.join(added)}, which the chat template `{template.name}` writes",
                why="each would be several tokens of ordinary text, and no token would mark the end of an answer",
                fix="set `model.add_special_tokens: true` (they are added, trained and saved with the model), or "
                "`false` (they remain ordinary text), or choose the model's own template",
            )
    if added:
        tokenizer.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
    tokenizer.chat_template = template.text
    return Chat(
        template,
        Renderer(template, tokenizer.special_tokens_map, template_kwargs),
        frozenset(end_token_ids(tokenizer, template)),
        tokenizer.convert_tokens_to_ids(added),
    )


def chat_of_saved(
    tokenizer: Any, name: str, template_kwargs: Mapping[str, Any] | None, end_ids: int | list[int] | None
) -> Chat:
    """The chat of a run from its saved tokenizer, which has the text of the template. `name` is that of the template,
    and `end_ids` are those of the saved generation configuration.

    The file of a template may have changed since the run, so it is not read. Raises `RunError` M505.
    """
    template = replace(template_of_tokenizer(tokenizer), name=name)
    ends = [end_ids] if isinstance(end_ids, int) else end_ids or []
    return Chat(
        template,
        Renderer(template, tokenizer.special_tokens_map, template_kwargs),
        frozenset(end_token_ids(tokenizer, template) | set(ends)),
    )


def missing_tokens(tokenizer: Any, template: Template) -> list[str]:
    """The special tokens of a template that the tokenizer does not encode as a single token."""
    return [token for token in template.special_tokens if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
