"""Checks texts for special tokens and marks of chat templates, which show that they are already rendered."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.data.template import EOS, Template
from dpo_recipes.errors import Finding

_TURN_MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>"),
)
"""Marks that common templates write between turns, also if they are not special tokens of the tokenizer."""
_ANSWERS_NEXT = re.compile(
    r"(?P<heading>###? ?(?:Response|Assistant|Answer|Output))[ \t]*:\Z"
    r"|\b(?:ASSISTANT|Assistant|AI|Bot|GPT)[ \t]*:\Z|答[:：]\Z"
)
_ASKS = re.compile(r"(?:\b(?:USER|User|Human)|问)[ \t]*[:：]")
"""Templates such as Alpaca's and Vicuna's mark turns by words: a prompt ends with the words that begin an answer."""
_END_MARKS = (
    *("</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "<eos>"),
    *("<|return|>", "<｜end▁of▁sentence｜>"),
)
"""Tokens with which common models end an answer."""


def end_marks(tokenizer: Any, template: Template) -> tuple[str, ...]:
    """The tokens that end an answer with this tokenizer and template, and those of common models."""
    own = (tokenizer.eos_token, template.end_of_turn)
    return (*_END_MARKS, *(end for end in own if end and end != EOS))


class MarkFinder:
    """Finds the first of many marks in a text, in one pass over the text for any number of marks.

    A regular expression searches for the first two characters of marks, of which there are few variants; each match is
    then compared with the whole marks.
    """

    def __init__(self, marks: Iterable[str]) -> None:
        self._marks = frozenset(mark for mark in marks if len(mark) > 1)
        lengths: dict[str, set[int]] = defaultdict(set)
        for mark in self._marks:
            lengths[mark[:2]].add(len(mark))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self._start = re.compile("|".join(map(re.escape, self._lengths)) or "(?!)")

    def first(self, text: str) -> str | None:
        """The first mark in a text, and the longest of several at the same position; None without one."""
        position = 0
        while (found := self._start.search(text, position)) is not None:
            at = found.start()
            for length in self._lengths[found[0]]:
                if text[at : at + length] in self._marks:
                    return text[at : at + length]
            position = at + 1
        return None


class MarkChecks:
    """Checks for D425 (rendered prompts), D426 (answers with an end mark) and D494 (other special tokens)."""

    def __init__(self, notes: Notes, tokenizer: Any, template: Template) -> None:
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special.update(template.special_tokens)
        self._notes = notes
        self._template = template
        self._has_think = "<think>" in special
        self._finder = MarkFinder((special | set(_TURN_MARKS)) - {"<think>", "</think>"})
        self._ends = end_marks(tokenizer, template)

    def look(self, row: Row, texts: Texts, encoded: Encoded) -> None:
        """Record the marks in one row's texts."""
        if row.rendered:
            return
        for message in row.prompt:
            if (mark := self._inner_mark(message)) is not None:
                self._notes.add("D425", mark)
                return
        if (mark := _asks(row.prompt[-1]["content"])) and not texts.prompt.rstrip().endswith(mark):
            self._notes.add("D425", mark)
            return
        for text, answer in zip(texts.answers, row.answers, strict=True):
            for message in answer:
                if (mark := self._inner_mark(message) or self._open_thought(message)) is not None:
                    self._notes.add("D494", mark)
            content = answer[-1]["content"].strip()
            bare = self._without_ends(content)
            if len(bare) < len(content) and (own := _written_after(text, content)):
                self._notes.add("D426", f"{content[len(bare) :].strip()}\0{own}")

    def _inner_mark(self, message: Message) -> str | None:
        """The first mark in a message, unless it only ends an assistant's turn."""
        mark = self._finder.first(message["content"])
        if mark is None or message["role"] != "assistant":
            return mark
        return self._finder.first(self._without_ends(message["content"]))

    def _open_thought(self, message: Message) -> str | None:
        """`<think>` if a text does not close it; a closed `<think>...</think>` is ordinary reasoning."""
        content = message["content"]
        if self._has_think and content.count("<think>") > content.count("</think>"):
            return "<think>"
        return None

    def _without_ends(self, text: str) -> str:
        """A text without the marks and white space at its end."""
        text = text.rstrip()
        while text.endswith(self._ends):
            text = text[: -len(next(end for end in self._ends if text.endswith(end)))].rstrip()
        return text

    def findings(self) -> Iterator[Finding]:
        """The findings for the rows so far."""
        notes, name = self._notes, self._template.name
        if "D425" in notes.seen:
            yield notes.finding(
                "D425",
                f"prompts are already rendered, they contain `{notes.seen['D425'].detail}`",
                why=f"the template `{name}` writes its own marks around them, so the texts would be rendered twice",
                fix="set `format: passthrough` on the source, which tokenizes texts unchanged; or remove the marks "
                "from the data; if they belong there, `accept_advice: [D425]`",
                error="everywhere",
            )
        if "D426" in notes.seen:
            mark, _, own = notes.seen["D426"].detail.partition("\0")
            yield notes.finding(
                "D426",
                f"answers already end with `{mark}`",
                why=f"the template `{name}` also writes `{own}` after each answer, so the turn would end twice; "
                "`format: passthrough` does not fit, since the prompts are not rendered",
                fix=f"remove the mark from the answers, for example `sed -i 's#{mark}\"#\"#g' FILE.jsonl`; if it "
                "belongs there, `accept_advice: [D426]`",
                error="everywhere",
            )
        if "D494" in notes.seen:
            yield notes.finding(
                "D494",
                f"answers contain special tokens (`{notes.seen['D494'].detail}`)",
                why=f"the model reads them as if the template `{name}` had written them",
                fix="remove them from the data; if whole conversations are already rendered, use `format: passthrough`",
                error="never",
            )


def _asks(prompt: str) -> str | None:
    """The words at the end of a prompt that begin an answer, such as `### Response:`. None if there are none."""
    found = _ANSWERS_NEXT.search(prompt.rstrip()[-40:])
    if found is None or (found["heading"] is None and _ASKS.search(prompt) is None):
        return None
    return found[0]


def _written_after(text: str, content: str) -> str:
    """The text that the template writes after an answer."""
    return text[text.rfind(content) + len(content) :].strip() if content in text else ""
