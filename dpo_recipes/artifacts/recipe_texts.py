"""What the recipes in an artifact, or on their way into one, may not say: tags, secrets, and paths of one machine."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dpo_recipes.artifacts.names import leads_out
from dpo_recipes.errors import Finding, RecipeError, SharingError, Where
from dpo_recipes.recipe.load import DataPath, RecipeSource, load_text
from dpo_recipes.recipe.paths import is_inline_template
from dpo_recipes.recipe.secret_checks import has_secret, is_secret_key

_ABSOLUTE = re.compile(r"[/~]|[A-Za-z]:[\\/]|file:|\\\\")
_PROSE = {"summary"}
"""Fields whose text is no path."""


@dataclass(frozen=True)
class RecipeText:
    """A recipe as plain data, with its folder in the artifact, relative to that of all recipes."""

    source: RecipeSource
    folder: str

    @property
    def file(self) -> str:
        """Its name in messages."""
        return self.source.file


def read_recipe(raw: bytes, name: str, folder: str) -> RecipeText:
    """Parse a recipe of an artifact as strictly as one on disk. Raises `SharingError` S310."""
    try:
        return RecipeText(load_text(raw.decode("utf-8-sig"), name), folder)
    except UnicodeDecodeError as error:
        raise SharingError.of(
            "S310", f"{name} is not UTF-8 text", why=str(error), fix="ask its author to save it as UTF-8"
        ) from error
    except RecipeError as error:
        raise SharingError(
            *(replace(finding, code="S310", why=_with_code(finding)) for finding in error.findings)
        ) from error


def check_texts(recipe: RecipeText) -> Iterator[Finding]:
    """S311 for secrets, and S312 for absolute paths, home folders and paths that lead out of the artifact."""
    spans = recipe.source.spans
    for at, value in _leaves(recipe.source.data):
        key, text = at[-1], value if isinstance(value, str) else ""
        where = spans[at].best if at in spans else Where(recipe.file)
        if any(isinstance(step, str) and is_secret_key(step) for step in at):
            yield _secret(f"`{key}` in {recipe.file} is a key for a secret", where)
        elif has_secret(text):
            yield _secret(f"`{key}` in {recipe.file} has a secret in its value", where)
        elif (why := _why_not_portable(at, text, recipe.folder)) is not None:
            yield Finding(
                "S312",
                f"`{key}` in {recipe.file} has a path that means nothing on another machine",
                spans[at].value if at in spans else where,
                why,
                "write a path relative to the recipe, a hub id or a URL; values of one machine can be given with "
                "`--set` when it is run",
            )


def templates_in(recipe: RecipeText) -> Iterator[tuple[str, str]]:
    """The chat templates whose text stands in a recipe, with a name for each."""
    for at, value in _leaves(recipe.source.data):
        # A key of `set` or of a sweep is a path, such as `objective.rewards[0].chat_template`.
        is_template = any(isinstance(step, str) and step.endswith("chat_template") for step in at)
        if is_template and isinstance(value, str) and is_inline_template(value):
            line = recipe.source.spans[at].value.line
            yield f"{recipe.file}:{line}", value


def _why_not_portable(at: DataPath, text: str, folder: str) -> str | None:
    if at[-1] in _PROSE or is_inline_template(text) or "\n" in text:
        return None
    if _ABSOLUTE.match(text) and len(text) > 1:
        return "it is an absolute path or one in a home folder"
    parts = text.replace("\\", "/").split("/")
    if ".." in parts and at[-1] == "output_dir":
        return "runs would be written outside of the folder in which the command is started"
    if ".." in parts and leads_out(folder, text):
        return "it leads out of the artifact"
    return None


def _leaves(value: Any, at: DataPath = ()) -> Iterator[tuple[DataPath, Any]]:
    """The values that are neither mappings nor lists, and empty ones, with their paths."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*at, index))
    elif at:
        yield at, value


def _secret(what: str, where: Where) -> Finding:
    return Finding(
        "S311",
        what,
        replace(where, text=None),
        "whoever gets the artifact could use it",
        "remove it, and if it was shared, revoke it. Services read their keys from environment variables",
    )


def _with_code(finding: Finding) -> str:
    return f"{finding.why} ({finding.code})" if finding.why else finding.code


def folder_of(name: str, root: str) -> str:
    """The folder of a file below `root`, relative to it."""
    return posixpath.dirname(posixpath.relpath(name, root))
