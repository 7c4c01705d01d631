"""The input of an encoder: the tokenizer's own form of two texts, such as `[CLS] prompt [SEP] answer [SEP]`."""

from __future__ import annotations

import json
from typing import Any

from dpo_recipes.data.template import Renderer, Template, TemplateFailed, read_template
from dpo_recipes.errors import Finding, RunError

_TEXT = """{{#- The form in which this tokenizer joins two texts; further messages have a separator between them.
special tokens: {special}
end of turn: {end}
-#}}
{{{{- {before} -}}}}
{{%- for message in messages -%}}
    {{{{- message["content"] -}}}}
    {{{{- {after} if loop.last and not add_generation_prompt else {between} -}}}}
{{%- endfor -%}}
"""


def encoder_template(tokenizer: Any) -> Template:
    """A chat template that renders a prompt and its answer to the ids of `tokenizer(prompt, answer)`.

    Raises `RunError` M527 if the tokenizer has no separator.
    """
    encoding = tokenizer("a", "b")  # unlike the backend's own method, it leaves out padding that the file asks for
    parts: list[list[str]] = [[], [], []]
    seen: set[int] = set()
    for token, sequence in zip(encoding.tokens(), encoding.sequence_ids(), strict=True):
        if sequence is None:
            parts[len(seen)].append(token)
        else:
            seen.add(sequence)
    before, between, after = parts
    if not (between and after):
        raise RunError(
            Finding(
                "M527",
                "the tokenizer has no separator between two texts",
                None,
                why="an encoder reads a prompt and an answer as two parts, and this tokenizer would join them without "
                "a mark",
                fix="use the tokenizer.json that belongs to the base: its post-processor adds tokens such as [SEP]",
                at=("model", "path"),
            )
        )
    special = dict.fromkeys([*before, *between, *after])
    written = {"before": before, "between": between, "after": after}
    text = _TEXT.format(
        special=" ".join(special),
        end=after[-1],
        **{name: json.dumps("".join(tokens), ensure_ascii=False) for name, tokens in written.items()},
    )
    return read_template("tokenizer", text, "the form of two texts")


def check_encoder_text(tokenizer: Any, renderer: Renderer) -> None:
    """Raise `RunError` M527 if a template's texts do not begin and end as the tokenizer's own."""
    own = tokenizer.encode("a")
    first, last = tokenizer.convert_ids_to_tokens([own[0], own[-1]])
    why = f"its texts do not start with {first} and end with {last}, as the base expects: the number of an encoder is "
    why += "computed from the first token"
    try:
        text = renderer.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    except TemplateFailed as error:  # for example because there is no end-of-sequence token
        why = f"it cannot render a prompt and its answer: {error}"
    else:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids[:1] == own[:1] and ids[-1:] == own[-1:]:
            return
    raise RunError(
        Finding(
            "M527",
            f"the chat template `{renderer.template.name}` does not fit an encoder",
            None,
            why=why,
            fix="write `chat_template: tokenizer`, which joins a prompt and its answer in the tokenizer's own form",
            at=("chat_template",),
        )
    )
