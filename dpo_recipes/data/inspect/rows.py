"""Shows single rows as the model sees them: the text of each token, and whether it is trained on or truncated."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from dpo_recipes.data.encode import Encoder
from dpo_recipes.data.rows import answer_names
from dpo_recipes.data.template import Renderer
from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT, TokenizedSplits, render_row

Mark = Literal["prompt", "trained", "context", "cut"]
"""`context` marks tokens of an answer that are read but not trained on, such as a question of the user in it."""


@dataclass(frozen=True)
class Piece:
    """The text of one token, or of several that share a character. Only `trained` ones are in the loss."""

    text: str
    ids: tuple[int, ...]
    mark: Mark
    special: bool
    """Whether it is a special token of the tokenizer, and not a text that looks like one."""


@dataclass(frozen=True)
class ShownRow:
    """A row, token by token."""

    split: str
    where: str
    parts: dict[str, list[Piece]]
    """The `prompt`, and each answer by its name."""
    label: bool | None = None
    """Whether the one answer of a labelled row is good."""

    def to_json(self) -> dict[str, Any]:
        """The row as plain data, with the number of tokens of each part by their mark."""
        tokens = {name: sum(len(p.ids) for p in pieces if p.mark != "cut") for name, pieces in self.parts.items()}
        marked = {
            mark: {name: sum(len(p.ids) for p in pieces if p.mark == mark) for name, pieces in self.parts.items()}
            for mark in ("context", "cut")
        }
        plain = asdict(self)
        return {**plain.pop("parts"), **plain, "tokens": tokens, **marked}


def show_rows(
    tokenized: TokenizedSplits, tokenizer: Any, renderer: Renderer, split: str, count: int
) -> Iterator[ShownRow]:
    """`count` rows of a split at even distances from the first to the last; the choice is deterministic."""
    dataset = tokenized.datasets[split]
    encoder = Encoder(tokenizer, renderer.template.text)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for index in spread_evenly(len(dataset), count):
        row = tokenized.row(split, index)
        texts = render_row(row, renderer)
        (whole,) = encoder.encode([texts])
        kept = dataset[index]
        prompt_marks = _prompt_marks(whole.prompt_ids, kept[PROMPT])
        if not texts.answers:
            ids = whole.prompt_ids
            prompt = list(_pieces(_token_texts(texts.prompt, ids, tokenizer), ids, prompt_marks, special))
            yield ShownRow(split, row.where, {"prompt": prompt})
            continue
        sides = []
        parts = zip(texts.answers, whole.answer_ids, kept[ANSWERS], kept[CONTEXT], strict=True)
        for text, answer, kept_answer, context in parts:
            marks: list[Mark] = [*prompt_marks, *_answer_marks(len(answer), len(kept_answer), context)]
            ids = [*whole.prompt_ids, *answer]
            pieces = list(_pieces(_token_texts(text, ids, tokenizer), ids, marks, special))
            sides.append(_divided(pieces, len(whole.prompt_ids)))
        named = dict(zip(answer_names(len(sides)), (answer for _, answer in sides), strict=True))
        yield ShownRow(split, row.where, {"prompt": sides[0][0], **named}, row.label)


def spread_evenly(num_rows: int, count: int) -> list[int]:
    """At most `count` indices of rows at even distances from the first to the last, always the same ones."""
    return np.linspace(0, num_rows - 1, min(count, num_rows)).round().astype(int).tolist()


def _prompt_marks(whole: Sequence[int], kept: Sequence[int]) -> list[Mark]:
    """The marks of a prompt, which is truncated at its start, possibly after a first token that is kept."""
    num_cut = len(whole) - len(kept)
    stayed = int(num_cut > 0 and list(whole[num_cut:]) != list(kept))
    return [*_marks("prompt", stayed), *_marks("cut", num_cut), *_marks("prompt", len(kept) - stayed)]


def _answer_marks(whole: int, kept: int, context: Sequence[int]) -> list[Mark]:
    """The marks of an answer's tokens: trained, runs of context, and truncated tokens at its end."""
    marks: list[Mark] = [*_marks("trained", kept), *_marks("cut", whole - kept)]
    for start, stop in zip(context[::2], context[1::2], strict=True):
        marks[start:stop] = _marks("context", stop - start)
    return marks


def _marks(mark: Mark, count: int) -> list[Mark]:
    return [mark for _ in range(count)]


def _pieces(texts: list[str], ids: list[int], marks: Sequence[Mark], special: Container[int]) -> Iterator[Piece]:
    """The pieces of a text, one for each token or for each group of tokens that share a character."""
    group = 0
    groups = []
    for at, token_text in enumerate(texts):
        begins = token_text or at == 0 or marks[at] != marks[at - 1] or ids[at] in special
        group += bool(begins)
        groups.append(group)
    for _, places in groupby(range(len(ids)), key=groups.__getitem__):
        at = list(places)
        yield Piece("".join(texts[i] for i in at), tuple(ids[i] for i in at), marks[at[0]], ids[at[0]] in special)


def _token_texts(text: str, ids: list[int], tokenizer: Any) -> list[str]:
    """The part of the rendered text of each token; characters between two tokens belong to the second."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    if encoding.ids != ids:
        return [tokenizer.decode([number]) for number in ids]
    texts, position = [], 0
    for at, (_, token_end) in enumerate(encoding.offsets):
        end = len(text) if at == len(ids) - 1 else max(token_end, position)
        texts.append(text[position:end])
        position = end
    return texts


def _divided(pieces: list[Piece], num_prompt_ids: int) -> tuple[list[Piece], list[Piece]]:
    """The pieces of the prompt and those of the answer."""
    seen = 0
    for at, piece in enumerate(pieces):
        if seen >= num_prompt_ids:
            return pieces[:at], pieces[at:]
        seen += len(piece.ids)
    return pieces, []
