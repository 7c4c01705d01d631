"""What a template does with `add_generation_prompt`, and why an answer does not continue where its prompt ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_recipes.data.encode import Texts, common_text
from dpo_recipes.data.rows import Message, PreferenceRow
from dpo_recipes.data.template import Renderer, TemplateFailed

_ASKED, _ANSWERED, _ASKED_AGAIN = "first question", "first answer", "second question"
_SHOWN_CHARS = 40


@dataclass(frozen=True)
class GenerationPrompt:
    """What is wrong with a template's generation prompt; both texts are empty where nothing is."""

    always: str = ""
    """The generation prompt that a template writes after finished answers as well, since it ignores the flag."""
    header: str = ""
    """What answers begin with in a template that writes no generation prompt: it is trained on."""


def probe_generation_prompt(renderer: Renderer, end_marks: Sequence[str]) -> GenerationPrompt:
    """Compare what a template writes with and without `add_generation_prompt`, in three small conversations."""
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
    except TemplateFailed:  # it wants other conversations: rows will show what it does with theirs
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


def why_lost(row: PreferenceRow, texts: Texts, renderer: Renderer) -> tuple[str, str]:
    """What does not fit where the prompt of a row ends and its answers begin, and why."""
    shared, answer = min((common_text([texts.prompt, text]), text) for text in texts.answers)
    if shared == texts.prompt:
        return (
            "the end of the prompt and the beginning of the answer share a token",
            "the tokenizer joins characters of both sides, and the shared token is trained on as part of the answer",
        )
    asked, finished = _shown(texts.prompt[len(shared) :]), _shown(answer[len(shared) :])
    if row.rendered or len(shared) >= len(_without_generation_prompt(row, texts, renderer)):
        return (
            f"the generation prompt ends with `{asked}`, where a finished answer has `{finished}`",
            f"the template `{renderer.template.name}` renders a finished answer differently from one that is asked "
            "for; the differing tokens are trained on as part of the answer",
        )
    return (
        f"the prompt is rendered differently when an answer follows: `{asked}` becomes `{finished}`",
        f"the template `{renderer.template.name}` looks at later messages when it renders earlier ones; all from there "
        "on is trained on as part of the answer",
    )


def _without_generation_prompt(row: PreferenceRow, texts: Texts, renderer: Renderer) -> str:
    """The prompt as far as it is the same without the generation prompt."""
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
    """A text without the marks and spaces that it begins with."""
    text = text.lstrip()
    while mark := next((mark for mark in marks if text.startswith(mark)), ""):
        text = text.removeprefix(mark).lstrip()
    return text.rstrip()


def _shown(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return shown.replace("\n", "\\n")
