"""Faults that a chat template and a tokenizer bring into the data, looked for in every row while it is tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.rows import Message, PreferenceRow
from dpo_recipes.data.template import Template
from dpo_recipes.errors import Finding

_END_IDS = 4
"""An answer's last ids among which its end token is looked for: templates put a line break or two after it."""


@dataclass
class _Seen:
    """How many rows have a fault, and what the first of them looks like."""

    count: int = 0
    where: str = ""
    detail: str = ""


class TemplateChecks:
    """Looks at each row of a split; `findings` says what was seen."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self._bos = tokenizer.bos_token_id
        self._ends = end_token_ids(tokenizer, template)
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
        self._template = template
        self._markers = [token for token in (*template.special_tokens, tokenizer.eos_token) if token]
        self._seen: dict[str, _Seen] = {}
        self._noted: set[str] = set()  # codes of the row that is looked at: it counts once for each
        self._num_rows = 0

    def look(self, row: PreferenceRow, texts: Texts, encoded: Encoded) -> None:
        """Note the faults of one row."""
        self._num_rows += 1
        self._noted.clear()
        ids = encoded.prompt_ids
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            self._note("D422", row.where)
        elif self._adds_bos and ids[:1] != [self._bos]:
            self._note("D493", row.where)
        if not all(self._ends.intersection(answer[-_END_IDS:]) for answer in encoded.answer_ids):
            self._note("D423", row.where)
        if encoded.lost_prompt_ids:
            self._note("D491", row.where, f"{encoded.lost_prompt_ids} tokens")
        if not row.rendered:
            self._look_for_losses(row, texts)

    def _look_for_losses(self, row: PreferenceRow, texts: Texts) -> None:
        for text, answer in zip(texts.answers, (row.chosen, row.rejected), strict=True):
            for message in (*row.prompt, *answer):
                content = message["content"]
                if content.strip() not in text:  # templates strip contents
                    self._note("D492", row.where, f"a message of `{message['role']}`")
                if any(marker in content for marker in self._markers):
                    marker = next(marker for marker in self._markers if marker in content)
                    self._note("D494", row.where, f"`{marker}`")
                for name in _tool_names(message):
                    if name not in text:
                        self._note("D424", row.where, f"a call of `{name}`")
            for tool in row.tools or ():
                name = tool_name(tool)
                if name and name not in text:
                    self._note("D424", row.where, f"the tool `{name}`")

    def _note(self, code: str, where: str, detail: str = "") -> None:
        if code not in self._noted:
            self._noted.add(code)
            self._seen.setdefault(code, _Seen(where=where, detail=detail)).count += 1

    def findings(self, split: str) -> list[Finding]:
        """What was seen, errors first."""
        found = [_finding(code, seen, self._num_rows, split, self._template) for code, seen in self._seen.items()]
        return sorted(found, key=lambda finding: (finding.severity != "error", finding.code))


def end_token_ids(tokenizer: Any, template: Template) -> set[int]:
    """The ids that end an answer: the end-of-sequence token, and the template's end of turn where it is one token."""
    ids = {tokenizer.eos_token_id}
    if template.end_of_turn and template.end_of_turn != "eos_token":
        end = tokenizer.backend_tokenizer.token_to_id(template.end_of_turn)
        ids.add(tokenizer.eos_token_id if end is None else end)
    return ids


def tool_name(tool: Any) -> str | None:
    """The name of a function in its JSON schema, bare or within `{"type": "function", "function": ...}`."""
    if isinstance(tool, dict):
        inner = tool.get("function", tool)
        name = inner.get("name") if isinstance(inner, dict) else None
        return name if isinstance(name, str) else None
    return None


def _tool_names(message: Message) -> Sequence[str]:
    return [name for call in message.get("tool_calls", ()) if (name := tool_name(call))]


def _finding(code: str, seen: _Seen, num_rows: int, split: str, template: Template) -> Finding:
    rows = f"{seen.count} of {num_rows} rows ({split}), the first is {seen.where}"
    everywhere = seen.count == num_rows
    name = template.name
    match code:
        case "D422":
            return Finding(
                code,
                f"prompts begin with two tokens for the beginning of a text: {rows}",
                why=f"the template `{name}` writes one and so does the data, or it writes two",
                fix="take it out of the data or the template",
            )
        case "D423":
            return Finding(
                code,
                f"answers do not end with a token that ends a turn: {rows}",
                why=f"the template `{name}` writes none that the tokenizer knows as one token; a model trained so "
                "never stops",
                fix="choose a template whose end of turn the tokenizer has, or set `model.add_special_tokens: true`",
                severity="error" if everywhere else "warning",
            )
        case "D424":
            return Finding(
                code,
                f"the template drops {seen.detail}: {rows}",
                why=f"`{name}` has no form for tools, and the model would learn answers without them",
                fix="choose a template with tools, such as qwen2.5 or llama3, or leave these rows out",
            )
        case "D491":
            return Finding(
                code,
                f"answers do not go on where the generation prompt ends: {rows}, {seen.detail}",
                why=f"the template `{name}` renders a finished answer differently from one that is asked for; the "
                "differing tokens are trained on as part of the answer",
                fix="harmless where it is a few tokens; look at rows with `dpo-recipe data RECIPE --show 5`",
                severity="warning",
            )
        case "D492":
            return Finding(
                code,
                f"the template drops or rewrites {seen.detail}: {rows}",
                why=f"its text is not in what `{name}` renders",
                fix="look with `dpo-recipe data RECIPE --show 5`; choose another template if it should be there",
                severity="warning",
            )
        case "D494":
            return Finding(
                code,
                f"texts hold special tokens of the template ({seen.detail}): {rows}",
                why=f"they are read as if `{name}` had written them: is the data rendered already?",
                fix="use `format: passthrough` for texts that are rendered; else take the tokens out of the data",
                severity="warning",
            )
        case _:
            return Finding(
                code,
                f"prompts do not begin with the token for the beginning of a text: {rows}",
                why=f"the tokenizer puts one before every text, but the template `{name}` writes none",
                fix="choose the model's own template, or begin yours with {{ bos_token }}",
                severity="warning",
            )
