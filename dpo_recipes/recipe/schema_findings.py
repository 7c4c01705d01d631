"""Converts pydantic's validation errors to findings: what is wrong, where, why, and the most similar valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from dpo_recipes.errors import Finding, Where, path_text
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.foreign_names import FOREIGN_KINDS, FOREIGN_NAMES
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.chain import NOT_IN_A_STEP, Chain, StepHead
from dpo_recipes.recipe.schema_fields import describe, field_names, first_kind, labels_with, listed_fields, section_at
from dpo_recipes.recipe.secret_checks import is_secret_key, secret_finding
from dpo_recipes.section import Section

_RANGE_WORDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


class _Subject(NamedTuple):
    """What is validated: the data, and the section that they should be."""

    composed: Composed
    root: type[Section]

    def describe(self, place: DataPath) -> str | None:
        """The description of the field at a path."""
        return describe(place, self.composed.data, self.root)


def schema_findings(error: ValidationError, composed: Composed, root: type[Section] = Recipe) -> Iterable[Finding]:
    """Findings R202 to R207 and R381, one for each place in the data that violates the schema of the section `root`."""
    subject = _Subject(composed, root)
    by_place: dict[DataPath, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_place.setdefault(_data_path(detail, composed.data), []).append(detail)
    parents = {place[:length] for place in by_place for length in range(len(place))}
    for place, details in by_place.items():
        # A union reports one error for each of its branches; the error of a nested value is the most specific one.
        is_branch = len(details) == 1 and len(details[0]["loc"]) > len(place)
        if not (is_branch and place in parents):
            yield _finding(place, details, subject)


def _data_path(detail: Any, data: Any) -> DataPath:
    """Pydantic's location without the names of union branches, which are not keys of the recipe."""
    path: list[str | int] = []
    loc: tuple[str | int, ...] = detail["loc"]
    for position, step in enumerate(loc):
        is_missing_key = detail["type"] == "missing" and position == len(loc) - 1
        if isinstance(data, dict) and isinstance(step, str):
            if step in data:
                data = data[step]
            elif step != "[key]" and not is_missing_key:
                continue
        elif isinstance(data, list) and isinstance(step, int):
            data = data[step]
        elif step != "[key]":
            continue
        path.append(step)
    return tuple(path)


def _finding(place: DataPath, details: list[Any], subject: _Subject) -> Finding:
    kind, composed = details[0]["type"], subject.composed
    if kind == "extra_forbidden":
        return _unknown_key(place, subject)
    if kind == "missing":
        return _missing(place, subject)
    value = details[0]["input"]
    where, name = composed.where(place), path_text(place)
    if place and place[-1] == "[key]":
        return _wrong_key(place[:-1], details, subject)
    if len(details) > 1:
        return _union(place, details, subject)
    if kind == "literal_error":
        return _unknown_choice(place, value, details, composed)
    if kind in _RANGE_WORDS:
        words, key = _RANGE_WORDS[kind]
        return Finding(
            "R206",
            f"`{name}` is {value!r}, but must be {words} {_number(details[0]['ctx'][key])}",
            where,
            subject.describe(place),
            "choose a value in that range",
        )
    if kind in ("string_pattern_mismatch", "string_too_short", "too_short", "finite_number"):
        return Finding(
            "R207", f"`{name}` cannot be {_shown(value)}", where, subject.describe(place), _form_hint(details[0])
        )
    return Finding(
        "R205",
        f"`{name}` must be {_expected(details[0])}, not {_shown(value)}",
        where,
        subject.describe(place),
        _type_hint(details[0], value),
    )


def _wrong_key(place: DataPath, details: list[Any], subject: _Subject) -> Finding:
    """A key of a mapping whose keys are names."""
    key, parent, composed = details[0]["input"], place[:-1], subject.composed
    if details[0]["type"] != "string_pattern_mismatch":
        return _unknown_choice(parent, key, details, composed, is_key=True)
    what = f"`{path_text(parent)}` cannot have the key {_shown(key)}"
    return Finding("R207", what, composed.where(place, key=True), subject.describe(parent), _form_hint(details[0]))


def _union(place: DataPath, details: list[Any], subject: _Subject) -> Finding:
    value, composed = details[0]["input"], subject.composed
    if isinstance(value, str) and any(detail["type"] == "literal_error" for detail in details):
        return _unknown_choice(place, value, [d for d in details if d["type"] == "literal_error"], composed)
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    return Finding(
        "R205",
        f"`{path_text(place)}` must be {expected}, not {_shown(value)}",
        composed.where(place),
        subject.describe(place),
        "write one of these",
    )


def _unknown_key(place: DataPath, subject: _Subject) -> Finding:
    composed = subject.composed
    key, section = str(place[-1]), section_at(place[:-1], composed.data, subject.root)
    if is_secret_key(key):
        return secret_finding(f"`{path_text(place)}` is a secret", composed.where(place, key=True))
    known = [*StepHead.model_fields, *_of_a_step(subject)] if _is_step(place, subject) else field_names(section)
    inside = f"in `{path_text(place[:-1])}`" if place[:-1] else f"at the top of the {_whole(subject)}"
    why = f"{inside[3:] if place[:-1] else f'a {_whole(subject)}'} takes {', '.join(known)}"
    return Finding(
        "R203",
        f"unknown key `{key}` {inside}",
        composed.where(place, key=True),
        why,
        _key_hint(key, known, place[:-1], subject),
    )


def _is_step(place: DataPath, subject: _Subject) -> bool:
    """Whether a path is that of a key of a step itself."""
    return len(place) == 1 and subject.composed.step_place is not None


def _of_a_step(subject: _Subject) -> list[str]:
    """The keys of a step that its kind has."""
    return [name for name in field_names(subject.root) if name not in NOT_IN_A_STEP]


def _whole(subject: _Subject) -> str:
    """What the data are as a whole."""
    return "step" if subject.composed.step_place else subject.root.__name__.lower()


def _key_hint(key: str, known: list[str], section: DataPath, subject: _Subject) -> str:
    if key == "<<":
        return "YAML 1.2 has no merge key: share values through `extends:`"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if near:
        return f"did you mean `{near[0]}`?"
    if subject.root is not Recipe:
        is_of_a_step = subject.root is Chain and key in field_names(Recipe)
        return "write it in a step, or in the recipe that a step names" if is_of_a_step else "remove it"
    if labels := labels_with(section, key):
        return f"`{key}` belongs to `{'` or `'.join(labels)}`"
    if key in FOREIGN_NAMES and not FOREIGN_NAMES[key].endswith(f".{key}"):
        return f"here it is `{FOREIGN_NAMES[key]}`"
    elsewhere = [path_text((*place, name)) for place, name in listed_fields() if name == key]
    if elsewhere:
        return f"`{key}` belongs at `{elsewhere[0]}`"
    near = difflib.get_close_matches(key, sorted({name for _, name in listed_fields()}), n=1, cutoff=0.8)
    if near:
        return f"did you mean `{next(path_text((*p, n)) for p, n in listed_fields() if n == near[0])}`?"
    return "remove it"


def _missing(place: DataPath, subject: _Subject) -> Finding:
    composed, parent, key = subject.composed, place[:-1], str(place[-1])
    what = f"`{path_text(place)}` is missing"
    example = {
        "schema": "schema: 1",
        "name": "name: my-dpo",
    }
    if key == "kind":
        example["kind"] = f"kind: {first_kind(parent)}"
    return Finding(
        "R202",
        what,
        composed.where(parent, key=True) if parent else composed.step_place or Where(composed.file),
        subject.describe(place),
        f"add `{example.get(key, key + ': ...')}`",
    )


def _unknown_choice(
    place: DataPath, value: Any, details: list[Any], composed: Composed, *, is_key: bool = False
) -> Finding:
    choices = _choices(details[0]["ctx"]["expected"])
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    what = (
        f"unknown key `{value}` in `{path_text(place)}`"
        if is_key
        else f"`{path_text(place)}` cannot be {_shown(value)}"
    )
    at = (*place, value) if is_key else place
    if place == ("objective", "kind") and value in FOREIGN_KINDS:
        return Finding("R204", what, composed.where(at), *FOREIGN_KINDS[value])
    return Finding(
        "R204",
        what,
        composed.where(at, key=is_key),
        f"it is one of {', '.join(choices)}",
        f"did you mean `{near[0]}`?" if near else "choose one of these",
    )


def _choices(expected: str) -> list[str]:
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def _expected(detail: Any) -> str:
    words: dict[str, str] = {
        "string_type": "text",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
    }
    if detail["type"] == "literal_error":
        return detail["ctx"]["expected"].replace("'", "`")
    if detail["type"] in _RANGE_WORDS:
        words_of, key = _RANGE_WORDS[detail["type"]]
        return f"{words_of} {_number(detail['ctx'][key])}"
    return words.get(detail["type"]) or str(detail["msg"])


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _form_hint(detail: Any) -> str:
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        return f"it must match {detail['ctx']['pattern']}"
    return {"finite_number": "write a finite number", "too_short": "give at least one item"}.get(kind, "give a value")


def _type_hint(detail: Any, value: Any) -> str:
    if value is None:
        return "give a value, or remove the key to use the default"
    if isinstance(value, str) and _expected(detail) in ("a number", "a whole number"):
        return "write the number without quotes, with a dot for decimals" if value[:1].isdigit() else "write a number"
    if isinstance(value, str) and detail["type"] == "bool_type":
        return "write `true` or `false`: YAML 1.2 reads yes, no, on and off as text"
    if detail["type"] == "list_type":
        return "start each item with `- `, or write [a, b]"
    if isinstance(value, int | float | bool) and detail["type"] == "string_type":
        return f'quote it: "{value}"'
    if isinstance(value, str) and detail["type"].startswith("model"):
        return "write its fields on indented lines below the key"
    return "correct the value"


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = f"`{value}`" if isinstance(value, int | float) else f"`{value[:60]}`" if value else "an empty text"
    return f"the text {text}" if isinstance(value, str) and value else text
