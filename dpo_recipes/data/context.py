"""Finds the context in an answer's text: the turns of the user or a tool, and the template's text around them.

An answer of several turns contains what a user or a tool said in between, which the model reads and does not generate.
The assistant's turns are trained on as if the conversation ended with each of them: from the end of the generation
prompt to the end of the turn, including its end mark. Everything else after the first turn is context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from dpo_recipes.data.encode import common_text
from dpo_recipes.data.message import Message
from dpo_recipes.data.template import Renderer, TemplateFailed

CharacterSpan = tuple[int, int]
"""The start and end of a part of a text, in characters."""
_MARK = "\ue0f7turn\ue0f8"
"""A marker of private-use characters, which texts do not contain by chance."""


class TurnsNotFound(Exception):
    """Raised if the assistant's turns cannot be located in a rendered text; the text names the turn."""


def find_context(
    prompt: Sequence[Message], answer: Sequence[Message], text: str, renderer: Renderer, extras: dict[str, Any]
) -> tuple[CharacterSpan, ...]:
    """The spans of context in the `text` of a prompt and its answer, in order; empty for an answer of one turn.

    `extras` are the other inputs of the template: `tools` and its variables. The start and end of a turn are found by
    rendering the conversation up to there. Some templates render a turn differently if others follow it (Qwen3 drops
    its reasoning, Mistral moves the tools); then the turn is found by a marker in its content. Raises `TurnsNotFound`.
    """
    if len(answer) < 2:
        return ()
    return tuple(_Turns([*prompt, *answer], text, renderer, extras).between(len(prompt)))


class _Turns:
    """The turns of one conversation in its rendered text."""

    def __init__(self, messages: Sequence[Message], text: str, renderer: Renderer, extras: dict[str, Any]) -> None:
        self._messages = messages
        self._text = text
        self._renderer = renderer
        self._extras = extras

    def between(self, first: int) -> Iterator[CharacterSpan]:
        """The spans between the assistant's turns, from the message `first` on."""
        own = [place for place in range(first, len(self._messages)) if self._messages[place]["role"] == "assistant"]
        for place, following in pairwise(own):
            end = self._end(place)
            start = self._start(following, end)
            if start < end:
                raise TurnsNotFound(f"message {following + 1} begins before message {place + 1} ends")
            if start > end:
                yield end, start

    def _start(self, place: int, earliest: int) -> int:
        """The start of a turn: the end of its generation prompt."""
        asked = self._render(self._messages[:place], add_generation_prompt=True)
        if asked is not None and self._text.startswith(asked):
            return len(asked)
        position = self._find(place, at_end=False)
        before = self._render(self._messages[:place])
        if asked is None or before is None or not asked.startswith(before) or asked == before:
            return position
        header = asked[len(before) :]
        at = self._text.rfind(header, earliest, position)
        return position if at < 0 else at + len(header)

    def _end(self, place: int) -> int:
        """The end of a turn, including the text that the template writes after the last turn of a conversation."""
        finished = self._render(self._messages[: place + 1])
        if finished is not None and self._text.startswith(finished):
            return len(finished)
        position = self._find(place, at_end=True)
        last = self._render(_marked(self._messages[: place + 1], place, at_end=True)) or ""
        return position + self._end_mark(last.rpartition(_MARK)[2], self._text[position:])

    def _end_mark(self, last: str, here: str) -> int:
        """The number of characters that end a turn, from the text after a last turn and the text after this one."""
        shared = len(common_text([last, here]))
        mark = self._renderer.end_of_turn
        if shared == len(last) or not mark or (at := here.find(mark, 0, shared)) < 0:
            return shared
        return at + len(mark)

    def _find(self, place: int, *, at_end: bool) -> int:
        """The start or end of a message's content in the text, from a rendering with a marker in it."""
        for strip in (False, True):  # templates that strip contents would keep the spaces beside the marker
            marked = self._render(_marked(self._messages, place, at_end=at_end, strip=strip)) or ""
            before, mark, after = marked.partition(_MARK)
            if mark and before + after == self._text:
                return len(before)
        raise TurnsNotFound(f"message {place + 1}, of `{self._messages[place]['role']}`")

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str | None:
        """The rendered text, or None if the template refuses a conversation that ends there."""
        try:
            return self._renderer.render(messages, add_generation_prompt=add_generation_prompt, **self._extras)
        except TemplateFailed:
            return None


def _marked(messages: Sequence[Message], place: int, *, at_end: bool, strip: bool = False) -> list[Message]:
    """The messages with a marker at the start or end of one content, or of the first or last tool call's name."""
    message: Message = {**messages[place]}
    calls = message.get("tool_calls")
    if calls and (at_end or not message["content"].strip()):
        which = len(calls) - 1 if at_end else 0
        function = calls[which]["function"]
        name = f"{function['name']}{_MARK}" if at_end else f"{_MARK}{function['name']}"
        changed = {**calls[which], "function": {**function, "name": name}}
        message["tool_calls"] = [*calls[:which], changed, *calls[which + 1 :]]
    else:
        content = message["content"].strip() if strip else message["content"]
        message["content"] = f"{content}{_MARK}" if at_end else f"{_MARK}{content}"
    return [*messages[:place], message, *messages[place + 1 :]]
