"""Checks whether a template drops reasoning, of the trained answers or of earlier turns."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.render import messages_in_texts
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.data.template import Template
from dpo_recipes.errors import Finding

_OPEN, _CLOSE = "<think>", "</think>"


def divide_reasoning(content: str) -> tuple[str, str] | None:
    """The reasoning and the answer of a text that starts with `<think>...</think>`; None for any other text.

    The opening `<think>` may be missing, since some generation prompts end with it.
    """
    reasoning, closed, rest = content.partition(_CLOSE)
    reasoning = reasoning.lstrip().removeprefix(_OPEN)
    if not closed or _OPEN in reasoning or _OPEN in rest or _CLOSE in rest:
        return None
    return reasoning.strip(), rest.strip()


def texts_of(message: Message) -> tuple[str, str]:
    """A message's reasoning, which is empty if there is none, and the rest of its text."""
    divided = divide_reasoning(message["content"]) if message["role"] == "assistant" else None
    own = message.get("reasoning_content", "").strip()
    if divided is None:
        return own, message["content"].strip()
    return own or divided[0], divided[1]


class ReasoningChecks:
    """Checks for D427 (answers lose their reasoning) and D495 (earlier turns lose theirs)."""

    def __init__(self, notes: Notes, template: Template) -> None:
        self._notes = notes
        self._template = template

    def look(self, row: Row, texts: Texts, encoded: Encoded) -> None:
        """Record the messages of one row whose reasoning is not in the rendered text."""
        if row.rendered:
            return
        for messages, text in messages_in_texts(row, texts):
            for message in messages:
                if "reasoning_content" not in message and _CLOSE not in message["content"]:
                    continue
                reasoning = texts_of(message)[0]
                if reasoning and reasoning not in text:
                    is_trained = any(message is answer[-1] for answer in row.answers)
                    self._notes.add("D427" if is_trained else "D495", _name_of(message))

    def findings(self) -> Iterator[Finding]:
        """The findings for the rows so far."""
        notes, name = self._notes, self._template.name
        if "D427" in notes.seen:
            yield notes.finding(
                "D427",
                f"the template `{name}` drops the reasoning of answers ({notes.seen['D427'].detail})",
                why="the model would learn to answer without it, and answers that only differ in it become equal",
                fix="choose a template that writes reasoning, such as qwen3, or remove it from the data; if it should "
                "be dropped, `accept_advice: [D427]`",
                error="everywhere",
            )
        if "D495" in notes.seen:
            yield notes.finding(
                "D495",
                f"the template `{name}` drops the reasoning of earlier turns ({notes.seen['D495'].detail})",
                why="such templates only keep the reasoning after the last question, also in inference; D427 reports "
                "dropped reasoning of the trained answers",
                fix="nothing to do if the model is used with this template; else choose one that keeps it",
                error="never",
            )


def _name_of(message: Message) -> str:
    return "`reasoning_content`" if message.get("reasoning_content") else "`<think>...</think>`"
