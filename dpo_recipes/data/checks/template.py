"""Checks rendered texts for faults of the chat template and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dpo_recipes.data.checks.generation_prompt import probe_generation_prompt, why_lost
from dpo_recipes.data.checks.marks import end_marks
from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.checks.reasoning import texts_of
from dpo_recipes.data.encode import Encoded, Texts, first_token_id
from dpo_recipes.data.render import messages_in_texts
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.data.template import EOS, Renderer, Template
from dpo_recipes.errors import Finding

_END_IDS = 4
"""The number of an answer's last ids that may include its end token: some templates write line breaks after it."""
_LOOK = "inspect rows with `dpo-recipe data RECIPE --show 5`"


class TemplateChecks:
    """Checks starts and ends of texts, generation prompts, and that messages and tools are rendered."""

    def __init__(self, notes: Notes, tokenizer: Any, renderer: Renderer) -> None:
        self._notes = notes
        self._bos = first_token_id(tokenizer)
        self._ends = end_token_ids(tokenizer, renderer.template)
        self._end = renderer.template.end_of_turn or EOS
        self._end = tokenizer.eos_token if self._end == EOS else self._end
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
        self._renderer = renderer
        self._name = renderer.template.name
        self._generation_prompt = probe_generation_prompt(renderer, end_marks(tokenizer, renderer.template))
        self._lost = "", ""

    def look(self, row: Row, texts: Texts, encoded: Encoded) -> None:
        """Record the faults of one row."""
        ids = encoded.prompt_ids
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            self._notes.add("D422")
        elif self._adds_bos and ids[:1] != [self._bos]:
            self._notes.add("D493")
        if encoded.lost_prompt_ids:
            if "D491" not in self._notes.seen:
                self._lost = why_lost(row, texts, self._renderer)
            self._notes.add("D491", f"{encoded.lost_prompt_ids} tokens")
        if self._generation_prompt.header and not row.rendered:
            self._notes.add("D496")
        if self._generation_prompt.always and not row.rendered:
            self._notes.add("D428")
        elif not all(self._ends.intersection(answer[-_END_IDS:]) for answer in encoded.answer_ids):
            self._notes.add("D423", "rendered" if row.rendered else "")
        if not row.rendered:
            self._look_for_losses(row, texts)

    def _look_for_losses(self, row: Row, texts: Texts) -> None:
        for messages, text in messages_in_texts(row, texts):
            for message in messages:
                if message["content"].strip() not in text and texts_of(message)[1] not in text:
                    self._notes.add("D492", f"a message of `{message['role']}`")  # templates strip contents
                for name in _tool_names(message):
                    if name not in text:
                        self._notes.add("D424", f"a call of `{name}`")
            for tool in row.tools or ():
                name = tool_name(tool)
                if name and name not in text:
                    self._notes.add("D424", f"the tool `{name}`")

    def findings(self) -> Iterator[Finding]:
        """The findings for the rows so far."""
        for code, seen in self._notes.seen.items():
            make = getattr(self, f"_{code.lower()}", None)
            if make is not None:
                yield make(seen.detail)

    def _d422(self, _: str) -> Finding:
        return self._notes.finding(
            "D422",
            "prompts start with two beginning-of-sequence tokens",
            why=f"the template `{self._name}` writes one and so does the data, or it writes two",
            fix="remove one from the data or the template",
            error="always",
        )

    def _d423(self, detail: str) -> Finding:
        why = f"the template `{self._name}` writes none that is one token of this tokenizer"
        fix = "choose a template whose end of turn the tokenizer has, or set `model.add_special_tokens: true`"
        if detail == "rendered":
            why = "texts of `format: passthrough` are tokenized unchanged"
            fix = f"write `{self._end}` at the end of each `chosen` and `rejected`"
        return self._notes.finding(
            "D423",
            "answers do not end with a token that ends a turn",
            why=f"{why}; the trained model would never stop",
            fix=fix,
            error="everywhere",
        )

    def _d424(self, detail: str) -> Finding:
        return self._notes.finding(
            "D424",
            f"the template drops {detail}",
            why=f"`{self._name}` does not render tools, so the model would learn the answers without them",
            fix="choose a template that supports tools, such as qwen2.5 or llama3, or drop these rows",
            error="always",
        )

    def _d428(self, _: str) -> Finding:
        return self._notes.finding(
            "D428",
            f"the template `{self._name}` also writes the generation prompt after finished answers",
            why=f"it ignores `add_generation_prompt`, so `{self._generation_prompt.always}` would be trained on as "
            "the end of each answer",
            fix="put that part of the template between {% if add_generation_prompt %} and {% endif %}, or choose "
            "another template",
            error="always",
        )

    def _d491(self, detail: str) -> Finding:
        what, why = self._lost
        return self._notes.finding(
            "D491",
            f"{what} ({detail})",
            why=why,
            fix=f"a few tokens are harmless; {_LOOK}",
            error="never",
        )

    def _d492(self, detail: str) -> Finding:
        return self._notes.finding(
            "D492",
            f"the template drops or rewrites {detail}",
            why=f"its text is not in the output of `{self._name}`",
            fix=f"{_LOOK}; choose another template if the text should be there",
            error="never",
        )

    def _d493(self, _: str) -> Finding:
        return self._notes.finding(
            "D493",
            "prompts do not start with the beginning-of-sequence token",
            why=f"the tokenizer adds one to every text, but the template `{self._name}` writes none",
            fix="choose the model's own template, or start yours with {{ bos_token }}",
            error="never",
        )

    def _d496(self, _: str) -> Finding:
        return self._notes.finding(
            "D496",
            f"the template `{self._name}` writes no generation prompt",
            why=f"each answer starts with `{self._generation_prompt.header}`, which is trained on as part of it",
            fix="end the template with {% if add_generation_prompt %}"
            f"{self._generation_prompt.header}{{% endif %}}, or choose another one",
            error="never",
        )


def end_token_ids(tokenizer: Any, template: Template) -> set[int]:
    """The ids that end an answer: the end-of-sequence token, and the template's end of turn if it is one token."""
    ids = {tokenizer.eos_token_id}
    if template.end_of_turn and template.end_of_turn != EOS:
        ids.add(tokenizer.backend_tokenizer.token_to_id(template.end_of_turn))
    return ids - {None}  # encoders have no end-of-sequence token


def tool_name(tool: Any) -> str | None:
    """The name of a function from its JSON schema, with or without `{"type": "function", "function": ...}` around it;
    None if there is none."""
    if isinstance(tool, dict):
        inner = tool.get("function", tool)
        name = inner.get("name") if isinstance(inner, dict) else None
        return name if isinstance(name, str) else None
    return None


def _tool_names(message: Message) -> Sequence[str]:
    return [name for call in message.get("tool_calls", ()) if (name := tool_name(call))]
