"""Encodes rendered conversations to token ids, in batches, and each shared prompt only once.

The ids of an answer are those of prompt + answer after the prefix that they share with the prompt's own ids, as in
`DPOTrainer._prepare_dataset` of TRL 1.16, so the ids equal TRL's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Texts:
    """A prompt that ends with the generation prompt, and the whole conversation with each of its answers."""

    prompt: str
    answers: tuple[str, ...]
    context: tuple[tuple[tuple[int, int], ...], ...] = ()
    """The spans of context in each answer (see `context`); empty if no answer has any."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt and its answers; `prompt_ids` is the prefix of all of them."""

    prompt_ids: list[int]
    answer_ids: tuple[list[int], ...]
    answer_context: tuple[list[int], ...]
    """The context of each answer as a flat list of starts and ends of runs, as indices in the answer's ids."""
    lost_prompt_ids: int = 0
    """The number of ids at the end of the prompt that not all answers continue; they become part of the answers."""


class Encoder:
    """Encodes batches of texts that one template rendered, with one fast tokenizer."""

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.first_token_id = first_token_id(tokenizer)
        self.last_token_id: int | None = None if tokenizer.cls_token_id is None else tokenizer.sep_token_id
        """The id of the token after the whole input of an encoder; None for a decoder's tokenizer."""
        added = list(self._backend.get_added_tokens_decoder().values())
        variables = (tokenizer.bos_token, tokenizer.eos_token)
        self._cuts = cutting_tokens(self._backend, added, [template_text, *filter(None, variables)])
        self._cuts_at_words = can_cut_at_words(self._backend, added)
        self._known: dict[str, list[int]] = {}

    def encode(self, batch: Sequence[Texts]) -> list[Encoded]:
        """The ids of every prompt and answer of a batch.

        Tokenizers first split a text at special tokens, and common ones then split it between words. The parts before
        and after such a position can be encoded separately without changing an id. The prefix that the texts of a row
        share up to the last such position is therefore encoded once, and the short end of a prompt, which is often the
        same in all rows, once for the whole data.
        """
        heads = [self._shared_head(texts) for texts in batch]
        tails = [text[len(head) :] for texts, head in zip(batch, heads, strict=True) for text in texts.answers]
        self._learn({texts.prompt[len(head) :] for texts, head in zip(batch, heads, strict=True)})
        ids = iter(self._encode_all([*heads, *tails]))
        head_ids = [next(ids) for _ in heads]
        encoded = [
            _encoded(ids_of_head, self._known[texts.prompt[len(head) :]], [next(ids) for _ in texts.answers])
            for texts, head, ids_of_head in zip(batch, heads, head_ids, strict=True)
        ]
        return [
            self._with_context(of_row, texts) if any(texts.context) else of_row
            for texts, of_row in zip(batch, encoded, strict=True)
        ]

    def _with_context(self, encoded: Encoded, texts: Texts) -> Encoded:
        whole = self._backend.encode_batch(list(texts.answers), add_special_tokens=False)
        runs = (
            context_runs(encoding.offsets[len(encoded.prompt_ids) :], spans)
            for encoding, spans in zip(whole, texts.context, strict=True)
        )
        return replace(encoded, answer_context=tuple(runs))

    def _shared_head(self, texts: Texts) -> str:
        shared = texts.prompt
        if not all(answer.startswith(shared) for answer in texts.answers):
            shared = common_text([texts.prompt, *texts.answers])
        cut = max((shared.rfind(token) + len(token) for token in self._cuts if token in shared), default=0)
        return shared[: max(cut, _last_word(shared))] if self._cuts_at_words else shared[:cut]

    def _learn(self, texts: set[str]) -> None:
        """Cache the ids of ends of prompts. There are few after a special token, else up to one for each row."""
        if len(self._known) > 10_000:
            self._known.clear()
        unknown = [text for text in texts if text not in self._known]
        self._known.update(zip(unknown, self._encode_all(unknown), strict=True))

    def _encode_all(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def first_token_id(tokenizer: Any) -> int | None:
    """The id of the token before a text: the beginning-of-sequence token, or an encoder's [CLS]."""
    return tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def _encoded(head: list[int], prompt_end: list[int], answer_ends: list[list[int]]) -> Encoded:
    shared = min((_common_prefix(prompt_end, end) for end in answer_ends), default=len(prompt_end))
    return Encoded(
        head + prompt_end[:shared],
        tuple(end[shared:] for end in answer_ends),
        answer_context=tuple([] for _ in answer_ends),
        lost_prompt_ids=len(prompt_end) - shared,
    )


def context_runs(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """The runs of tokens inside some spans of a text, as a flat list of starts and ends.

    A token that extends beyond a span is not part of the run, since it has a character of the assistant's turn.
    """
    runs: list[int] = []
    remaining = list(reversed(spans))
    position = 0
    for place, (begin, end) in enumerate(offsets):
        # Tokenizers that trim offsets give an empty range to a token that consists of spaces.
        start = begin if begin < end else min(position, end)
        position = max(position, end)
        while remaining and remaining[-1][1] <= start:
            remaining.pop()
        if remaining and remaining[-1][0] <= start and end <= remaining[-1][1]:
            if runs and runs[-1] == place:
                runs[-1] = place + 1
            else:
                runs += [place, place + 1]
    return runs


def common_text(texts: Sequence[str]) -> str:
    """The longest common prefix of texts."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _common_prefix(first: list[int], second: list[int]) -> int:
    """The length of the common prefix of two lists, by bisection: comparing slices is much faster than a loop."""
    same, different = 0, min(len(first), len(second)) + 1
    step = different - 1
    while same + 1 < different:
        if first[same : same + step] == second[same : same + step]:
            same += step
        else:
            different = same + step
        step = max(1, (different - same) // 2)
    return same


def cutting_tokens(backend: Any, added: Sequence[Any], written: Sequence[str]) -> list[str]:
    """The special tokens in `written` after which a text can be split without changing an id.

    `added` are all added tokens of the tokenizer, thousands for Gemma 3. `written` is the template and the tokens of
    its variables; other tokens are too rare in texts to be worth a search.

    tokenizers 0.23 first finds added tokens (`AddedVocabulary::extract_and_normalize`), then normalizes and splits
    each part between them separately. A Metaspace that only marks the first part of a text depends on the position, so
    no text can be split. A token that strips its neighbours, or overlaps another added token, does not allow a split.
    """
    if '"first"' in json.dumps(_state(backend.pre_tokenizer)):
        return []
    vocabulary = _JoinedTokens({token.content for token in added})
    return [
        token.content
        for token in added
        if any(token.content in text for text in written)
        and token.special
        and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        and not vocabulary.can_hide(token.content)
    ]


class _JoinedTokens:
    """All added tokens in one string, so that a few searches compare a token with all of them."""

    def __init__(self, tokens: set[str]) -> None:
        signs = set().union(*tokens)
        self._gap = next(sign for sign in map(chr, range(sys.maxunicode)) if sign not in signs)
        self._text = self._gap.join(["", *tokens, ""])

    def can_hide(self, token: str) -> bool:
        """Whether an added token contains `token`, or overlaps with its start or end.

        A token that is itself a prefix or suffix of `token` does not matter: the longest token wins.
        """
        count, gap = self._text.count, self._gap
        starts = (token[:n] for n in range(1, len(token)))
        ends = (token[n:] for n in range(1, len(token)))
        return (
            count(token) > 1
            or any(count(start + gap) > count(gap + start + gap) for start in starts)
            or any(count(gap + end) > count(gap + end + gap) for end in ends)
        )


_WORD_SPLITS = (
    # The patterns of Llama 3 (and cl100k) and of Qwen2. ByteLevel has GPT-2's pattern built in.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # noqa: E501
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def can_cut_at_words(backend: Any, added: Iterable[Any]) -> bool:
    """Whether a text can be split between a letter and a space before another letter, without changing an id.

    This is possible if a known pattern splits the text from left to right, in which a run of letters ends at a space
    and a space belongs to the letters after it, if no earlier step joins both sides, and if no added token contains a
    space.
    """
    if _state(backend.normalizer) not in (None, {"type": "NFC"}):
        return False
    if any(" " in token.content or token.lstrip or token.rstrip for token in added):
        return False
    steps = _state(backend.pre_tokenizer) or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    return sum(map(_parts_words, steps)) == 1 and all(_parts_words(step) or _keeps_words(step) for step in steps)


def _state(part: Any) -> Any:
    """The state of one part of a tokenizer as in tokenizer.json, which would take megabytes as a whole."""
    return None if part is None else json.loads(part.__getstate__())


def _parts_words(step: dict[str, Any]) -> bool:
    if step.get("type") == "ByteLevel":
        return step["use_regex"] and not step["add_prefix_space"]
    return (
        step.get("type") == "Split"
        and step["pattern"].get("Regex") in _WORD_SPLITS
        and step["behavior"] == "Isolated"
        and not step["invert"]
    )


def _keeps_words(step: dict[str, Any]) -> bool:
    """Whether a step never joins or moves the characters on both sides of a space."""
    return step.get("type") == "Digits" or (step.get("type") == "ByteLevel" and not step["add_prefix_space"])


def _last_word(text: str) -> int:
    """The position of the last space between two ASCII letters, or 0 without one."""
    place = len(text)
    while (place := text.rfind(" ", 0, place)) > 0:
        around = text[place - 1] + text[place + 1 : place + 2]
        if len(around) == 2 and around.isascii() and around.isalpha():
            return place
    return 0
