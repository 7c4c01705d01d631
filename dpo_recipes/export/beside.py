"""Writes what is saved beside weights: the tokenizer, the generation configuration and the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dpo_recipes.export.card import render_card
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_result import RunResult


def companions(
    folder: Path, bundle: ModelBundle, recipe: Recipe, result: RunResult
) -> list[tuple[str, Callable[[], object]]]:
    """The parts that are saved beside weights, also beside those of an adapter: the name of each, and its save
    function.

    The base of an adapter does not have the template of the tuning. The generation_config.json and the tokenizer in the
    adapter's folder therefore define where a turn ends.
    """
    card = folder / "README.md"
    generation = getattr(bundle.policy, "generation_config", None)  # a model that scores has none
    return [
        ("the tokenizer", lambda: _save_tokenizer(bundle, folder)),
        *([] if generation is None else [("the generation configuration", lambda: generation.save_pretrained(folder))]),
        ("the model card", lambda: card.write_text(render_card(recipe, result, bundle), encoding="utf-8")),
    ]


def _save_tokenizer(bundle: ModelBundle, folder: Path) -> None:
    with ending_turns(bundle):
        bundle.tokenizer.save_pretrained(folder)


@contextmanager
def ending_turns(bundle: ModelBundle) -> Iterator[None]:
    """Temporarily set the tokenizer's end-of-sequence token to the one that ends a turn of the chat template.

    vLLM and llama.cpp always stop at this token. Training uses that of the base.
    """
    tokenizer, own = bundle.tokenizer, bundle.tokenizer.eos_token
    tokenizer.eos_token = turn_end(bundle) or own
    try:
        yield
    finally:
        tokenizer.eos_token = own


def turn_end(bundle: ModelBundle) -> str | None:
    """The special token that ends a turn; None if it is the tokenizer's end-of-sequence token.

    Also None if the template or the tokenizer itself writes the end-of-sequence token, because they would then write
    another one.
    """
    template, tokenizer = bundle.chat.template, bundle.tokenizer
    token = template.end_of_turn
    if not token or token in ("eos_token", tokenizer.eos_token):
        return None
    writes_it = "eos_token" in template.text or getattr(tokenizer, "add_eos_token", False)
    is_special = any(token == str(added) for added in tokenizer.added_tokens_decoder.values())
    return token if is_special and not writes_it else None
