"""Guesses the layout of columns that fit no format and suggests how to read them, for the error D402."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.column_use import kind_of
from dpo_recipes.data.structured_text import PYTHON_ADVICE, is_message, is_python
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.column_map import decoded

_NAMES = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "user", "context", "problem", "task", "message"),
    "chosen": (
        *("chosen", "preferred", "better", "good", "winner", "win", "positive", "pos", "accepted", "best", "correct"),
        *("chosen_response", "response_chosen", "preferred_output", "answer_chosen", "y_w", "output_good"),
    ),
    "rejected": (
        *("rejected", "dispreferred", "worse", "bad", "loser", "lose", "negative", "neg", "declined", "worst", "wrong"),
        *("rejected_response", "response_rejected", "non_preferred_output", "answer_rejected", "y_l", "incorrect"),
    ),
}
_ANSWER_LISTS = ("responses", "answers", "completions", "output", "outputs", "candidates", "generations", "options")
_SINGLE_ANSWERS = ("response", "answer", "completion", "output")
_ASKING = frozenset(("prompt", "question", "instruction", "query", "input"))
_MAX_NAME_CHARS = 40


def likely_layout(columns: Mapping[str, Any], shape: RowShape) -> str | None:
    """A suggestion of how to read a row whose columns fit no format, or None if its layout is unknown. `shape` is what
    the rows should become."""
    hints = (_header_hint, _python_hint, _object_hint, _names_hint, _sides_hint, _list_hint)
    hints += {"pair": (_talk_hint,), "labelled": (_label_hint,), "completion": (_answer_hint,), "prompt": ()}[shape]
    return next((hint for find in hints if (hint := find(columns))), None)


def _header_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if the column names are sentences: the CSV file has no header, and its first line is a row."""
    names = [name for name in columns if name]
    sentences = [name for name in names if len(name) > _MAX_NAME_CHARS or name.rstrip().endswith((".", "?", "!"))]
    if len(sentences) * 2 < max(1, len(names)) or not all(isinstance(value, str) for value in columns.values()):
        return None
    return "the first line looks like a row: add a header line before it, such as `prompt,chosen,rejected`"


def _python_hint(columns: Mapping[str, Any]) -> str | None:
    name = next((name for name, value in columns.items() if is_python(value)), None)
    return name and f"`{name}` contains a list or object in Python syntax, but must be JSON; {PYTHON_ADVICE}"


def _object_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if answers are objects, or the JSON of objects, that contain a conversation."""
    parts = {}
    for name in ("prompt", "chosen", "rejected", "completion"):
        value = decoded(columns.get(name))
        talk = next((key for key in ("messages", "conversations", "content") if _is_part(value, key)), None)
        if talk and not is_message(value):
            parts[name] = f"{name}.{talk}"
    if not parts:
        return None
    first = next(iter(parts))
    keys = ", ".join(f"`{key}`" for key in decoded(columns[first]))
    return f"`{first}` is an object with {keys}; name the parts to read: `columns: {_mapping(parts)}`"


def _is_part(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and bool(value.get(key))


def _names_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if the columns are those of a preference under other names."""
    plain = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in columns}
    found = {}
    for ours, names in _NAMES.items():
        theirs = [plain[name] for name in names if name in plain]
        if ours == "prompt" and not _ASKING.intersection(plain):
            theirs = [name for name, value in columns.items() if _is_talk(value)] + theirs
        if theirs:
            found[ours] = theirs[0]
    if not {"chosen", "rejected"} <= found.keys() or all(ours == theirs for ours, theirs in found.items()):
        return None
    return f"this looks like a preference with other column names: `columns: {_mapping(found)}`"


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], Mapping) and is_message(value[0])


def _sides_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if two texts have the same name up to a final `a` and `b`, `0` and `1`, or `1` and `2`."""
    texts = {name.lower(): name for name, value in columns.items() if isinstance(value, str) and name}
    numbers = {name.lower(): name for name, value in columns.items() if isinstance(value, int | float) and name}
    pair = _sides(texts)
    if pair is None:
        return None
    prompt = next((column for column in (*_NAMES["prompt"], "history", "post") if column in columns), "...")
    both = f"`{pair[0]}` and `{pair[1]}` look like two answers"
    verdict = next((name for name in columns if kind_of(name) == "verdict"), None)
    if verdict is not None:
        sides = {f"response_{name[-1].lower()}": name for name in pair}
        mapped = _mapping({"prompt": prompt, **sides, "winner": verdict})
        return f"{both}; if `{verdict}` names the better one: `columns: {mapped}`"
    mapped = _mapping({"prompt": prompt, "chosen": pair[0], "rejected": pair[1]})
    scores = _sides(numbers)
    if scores is None:
        return f"{both}; if the first is always the better one: `columns: {mapped}`"
    return (
        f"{both}; use the file as two sources, one with `columns: {mapped}` and `filter: {scores[0]} > {scores[1]}`, "
        "and one with both reversed"
    )


def _sides(names: Mapping[str, str]) -> tuple[str, str] | None:
    """The first two names, by their lower case, that differ only in the side that they end with."""
    for plain, name in names.items():
        for first, second in (("a", "b"), ("0", "1"), ("1", "2")):
            other = names.get(plain[:-1] + second)
            if plain.endswith((f"_{first}", f"response{first}", f"answer{first}")) and other is not None:
                return name, other
    return None


def _list_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if one column is a list of answers, whose order may say which is better."""
    name = next((name for name in _ANSWER_LISTS if isinstance(decoded(columns.get(name)), list)), None)
    if name is None or len(decoded(columns[name])) < 2:
        return None
    prompt = next((column for column in _NAMES["prompt"] if column in columns), "...")
    mapped = _mapping({"prompt": prompt, "chosen": f"{name}.0", "rejected": f"{name}.1"})
    return f"`{name}` is a list of answers; if the better one is first: `columns: {mapped}`"


def _talk_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if each row has a single answer or conversation, which is not a preference."""
    single = next((name for name in ("messages", "conversations", *_SINGLE_ANSWERS) if name in columns), None)
    if single is None or any(name in columns for name in ("chosen", "rejected")):
        return None
    return (
        f"`{single}` has one answer per row; a preference needs a better and a worse one, and "
        "`objective: {kind: sft}` imitates single answers"
    )


def _answer_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if each row has a question and one answer under other names."""
    found = _question_and_answer(columns)
    return f"this looks like a question and its answer: `columns: {_mapping(found)}`" if found else None


def _label_hint(columns: Mapping[str, Any]) -> str | None:
    """A hint if each row has a question and one answer, and a column that may be its label."""
    found = _question_and_answer(columns)
    labels = [name for name, value in columns.items() if isinstance(value, bool) or kind_of(name) == "verdict"]
    if found is None or not labels:
        return None
    mapped = _mapping({**found, "label": labels[0]})
    return f"if `{labels[0]}` says whether the answer is good: `columns: {mapped}`"


def _question_and_answer(columns: Mapping[str, Any]) -> dict[str, str] | None:
    plain = {name.strip().lower(): name for name, value in columns.items() if isinstance(value, str)}
    prompt = next((plain[name] for name in _NAMES["prompt"] if name in plain), None)
    answer = next((plain[name] for name in _SINGLE_ANSWERS if name in plain and plain[name] != prompt), None)
    return None if prompt is None or answer is None else {"prompt": prompt, "completion": answer}


def _mapping(columns: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{ours}: {theirs}" for ours, theirs in columns.items()) + "}"
