"""What stands beside saved weights: the tokenizer, how text is generated, and the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpo_recipes.export.card import render_card
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe


def companions(
    folder: Path, bundle: ModelBundle, recipe: Recipe, result: dict[str, Any]
) -> list[tuple[str, Callable[[], object]]]:
    """What is saved beside weights of every kind, an adapter's too: the name of each, and what saves it.

    An adapter's base knows nothing of the template that it was tuned with: generation_config.json and the tokenizer in
    the adapter's folder tell loaders where a turn ends.
    """
    card = folder / "README.md"
    return [
        ("the tokenizer", lambda: _save_tokenizer(bundle, folder)),
        ("the generation configuration", lambda: bundle.policy.generation_config.save_pretrained(folder)),
        ("the model card", lambda: card.write_text(render_card(recipe, result, bundle), encoding="utf-8")),
    ]


def _save_tokenizer(bundle: ModelBundle, folder: Path) -> None:
    with ending_turns(bundle):
        bundle.tokenizer.save_pretrained(folder)


@contextmanager
def ending_turns(bundle: ModelBundle) -> Iterator[None]:
    """Within it the tokenizer's end-of-sequence token is the one that ends a turn of the chat template: vLLM and
    llama.cpp stop there, whatever else they read. Training keeps the base's own."""
    tokenizer, own = bundle.tokenizer, bundle.tokenizer.eos_token
    tokenizer.eos_token = turn_end(bundle) or own
    try:
        yield
    finally:
        tokenizer.eos_token = own


def turn_end(bundle: ModelBundle) -> str | None:
    """The special token that ends a turn, where it is another than the tokenizer's end of a sequence.

    None also where the template, or the tokenizer itself, writes the end-of-sequence token: they must go on to write
    the same one.
    """
    template, tokenizer = bundle.chat.template, bundle.tokenizer
    token = template.end_of_turn
    if not token or token in ("eos_token", tokenizer.eos_token):
        return None
    writes_it = "eos_token" in template.text or getattr(tokenizer, "add_eos_token", False)
    is_special = any(token == str(added) for added in tokenizer.added_tokens_decoder.values())
    return token if is_special and not writes_it else None
