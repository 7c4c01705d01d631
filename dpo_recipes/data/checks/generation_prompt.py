"""Checks how a template uses `add_generation_prompt`, and explains why an answer does not continue its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_recipes.data.encode import Texts, common_text
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.data.template import Renderer, TemplateFailed

_ASKED, _ANSWERED, _ASKED_AGAIN = "first question", "first answer", "second question"
_SHOWN_CHARS = 40


@dataclass(frozen=True)
class GenerationPrompt:
    """Faults of a template's generation prompt; both texts are empty if there is none."""

    always: str = ""
    """The generation prompt of a template that ignores the flag and also writes it after finished answers."""
    header: str = ""
    """The text before each answer of a template without a generation prompt, which is trained on."""


def probe_generation_prompt(renderer: Renderer, end_marks: Sequence[str]) -> GenerationPrompt:
    """Compare the texts of three small conversations with and without `add_generation_prompt`."""
    asked, answered, again = (
        Message(role=role, content=text)
        for role, text in (("user", _ASKED), ("assistant", _ANSWERED), ("user", _ASKED_AGAIN))
    )
    try:
        prompt = renderer.render([asked], add_generation_prompt=True)
        if prompt != renderer.render([asked]):
            return GenerationPrompt()
        whole = renderer.render([asked, answered])
        longer = renderer.render([asked, answered, again])
    except TemplateFailed:  # the template refuses these conversations; the checks of rows apply to others
        return GenerationPrompt()
    if not all(text in whole and text in longer for text in (_ASKED, _ANSWERED)):
        return GenerationPrompt()
    after_question = _after(prompt, _ASKED)
    before_answer = _after(whole, _ASKED).partition(_ANSWERED)[0]
    after_answer = _after(whole, _ANSWERED)
    repeated = _without_marks(_common_end(after_question, after_answer), end_marks)
    if repeated and not _after(longer, _ANSWERED).startswith(after_answer.rstrip()):
        return GenerationPrompt(always=repeated)
    return GenerationPrompt(header=before_answer.removeprefix(after_question).strip())


def why_lost(row: Row, texts: Texts, renderer: Renderer) -> tuple[str, str]:
    """What differs between the end of a row's prompt and the text with an answer, and why."""
    shared, answer = min((common_text([texts.prompt, text]), text) for text in texts.answers)
    if shared == texts.prompt:
        return (
            "the end of the prompt and the start of the answer share a token",
            "the tokenizer merges characters of both, and the shared token is trained on as part of the answer",
        )
    asked, finished = _shown(texts.prompt[len(shared) :]), _shown(answer[len(shared) :])
    if row.rendered or len(shared) >= len(_without_generation_prompt(row, texts, renderer)):
        return (
            f"the generation prompt ends with `{asked}`, but before a finished answer the text is `{finished}`",
            f"the template `{renderer.template.name}` renders the start of a finished answer differently from the "
            "generation prompt; the differing tokens are trained on as part of the answer",
        )
    return (
        f"the prompt is rendered differently when an answer follows: `{asked}` becomes `{finished}`",
        f"the template `{renderer.template.name}` renders earlier messages depending on later ones; all tokens from "
        "the first difference on are trained on as part of the answer",
    )


def _without_generation_prompt(row: Row, texts: Texts, renderer: Renderer) -> str:
    """The part of the prompt that is the same without the generation prompt."""
    try:
        plain = renderer.render(row.prompt, tools=row.tools, **row.template_kwargs)
    except TemplateFailed:
        return texts.prompt
    return common_text([plain, texts.prompt])


def _after(text: str, part: str) -> str:
    return text.partition(part)[2]


def _common_end(first: str, second: str) -> str:
    return common_text([first[::-1], second[::-1]])[::-1]


def _without_marks(text: str, marks: Sequence[str]) -> str:
    """A text without the marks and white space at its start."""
    text = text.lstrip()
    while mark := next((mark for mark in marks if text.startswith(mark)), ""):
        text = text.removeprefix(mark).lstrip()
    return text.rstrip()


def _shown(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return shown.replace("\n", "\\n")
