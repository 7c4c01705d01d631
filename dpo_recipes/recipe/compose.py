"""Merges a recipe, its parents (`extends:`) and `--set` overrides into one mapping, and records the origin of every
value."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dpo_recipes.errors import Finding, RecipeError, Where
from dpo_recipes.recipe.load import DataPath, RecipeSource, Span, load_file, parse_yaml

MAX_PARENTS = 20
_SET_STEP = re.compile(r"(?:^|\.)([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]")


_Fail = Callable[..., RecipeError]
"""Makes the error for a value that cannot be placed, from the reason, the fix and the fault's column in the path."""


class Placement(NamedTuple):
    """A value to place in a recipe."""

    name: str
    """Its path as `--set` takes it: `training.learning_rate`."""
    value: Any
    at: DataPath
    """The place in the file that it comes from, in a mapping of names: `("sweep", "grid", "training.learning_rate",
    0)`."""

    @property
    def key_at(self) -> DataPath:
        """The place of its name in the file."""
        return self.at[: self.at.index(self.name) + 1]


@dataclass(frozen=True)
class Origin:
    """The origin of a value. A relative path in the value is relative to `folder`."""

    kind: Literal["file", "parent", "set", "resolved"]
    span: Span
    folder: Path

    @property
    def where(self) -> Where:
        """The place of the value."""
        return self.span.value

    def __str__(self) -> str:
        return f"--set {self.where.text}" if self.where.file == "--set" else str(self.span.best)


@dataclass(frozen=True)
class Composed:
    """A recipe's plain data after inheritance and overrides, not yet validated."""

    file: str
    text: str
    data: dict[str, Any]
    origins: dict[DataPath, Origin]
    step_place: Where | None = None
    """The place of the name of a chain's step, if this is one. Only steps may refer to other steps."""

    def origin_of(self, path: DataPath) -> Origin | None:
        """The origin of the value at `path`, or of the nearest enclosing value that is written in a file; None if
        there is none."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path)

    def where(self, path: DataPath, *, key: bool = False) -> Where:
        """The place to show for `path`: its value, or with `key` its key. A value that is written nowhere has the place
        of the nearest enclosing one."""
        origin = self.origin_of(path)
        if origin is None:
            return Where(self.file)
        return origin.span.best if key or path not in self.origins else origin.where


def compose(path: Path, overrides: list[str] | None = None) -> Composed:
    """Load `path`, its parents and `--set` overrides.

    Mappings are merged key by key; lists and scalars replace inherited ones. A mapping with another `kind` replaces the
    inherited mapping as a whole, because the fields of one kind have no meaning for another.
    Raises `RecipeError` R111 (parent missing), R112 (cycle), R113 (bad override), and those of `load_file`.
    """
    chain = _load_chain(path)
    data: dict[str, Any] = {}
    origins: dict[DataPath, Origin] = {}
    for source, folder in reversed(chain):
        kind = "file" if source is chain[0][0] else "parent"
        own = {key: value for key, value in source.data.items() if key != "extends"}
        _merge(
            data,
            own,
            (),
            origins,
            {at: Origin(kind, span, folder) for at, span in source.spans.items() if at[:1] != ("extends",)},
        )
    own_source = chain[0][0]
    return override(Composed(own_source.file, own_source.text, data, origins), overrides)


def override(composed: Composed, overrides: Sequence[str] | None, prefixes: Sequence[str] = ()) -> Composed:
    """The same data with `--set` overrides. If their paths start with one of the `prefixes`, the rest is the path.

    Raises `RecipeError` R113.
    """
    if not overrides:
        return composed
    data, origins = copy.deepcopy(composed.data), dict(composed.origins)
    for each in overrides:
        _apply_override(each, data, origins, prefixes)
    return replace(composed, data=data, origins=origins)


def merge_over(base: Composed, data: dict[str, Any], origins: dict[DataPath, Origin]) -> Composed:
    """The data of a recipe with others over them, as if these extended the recipe."""
    merged, merged_origins = copy.deepcopy(base.data), dict(base.origins)
    _merge(merged, copy.deepcopy(data), (), merged_origins, origins)
    return replace(base, data=merged, origins=merged_origins)


def _load_chain(path: Path) -> list[tuple[RecipeSource, Path]]:
    chain: list[tuple[RecipeSource, Path]] = []
    seen: list[Path] = []
    where: Where | None = None
    while True:
        try:
            resolved, is_file = path.resolve(), path.is_file()
        except (OSError, RuntimeError, ValueError):  # the name is too long, links form a cycle, or a NUL character
            resolved, is_file = path, False
        if resolved in seen or len(seen) >= MAX_PARENTS:
            raise RecipeError.of(
                "R112",
                "recipes extend each other in a cycle" if resolved in seen else "too many parents",
                where=where,
                why=" -> ".join(step.name for step in [*seen, resolved]),
                fix="remove one `extends:`",
            )
        if where is not None and not is_file:
            raise RecipeError.of(
                "R111",
                f"the parent recipe {path} does not exist",
                where=where,
                why="`extends:` is relative to the recipe that contains it",
                fix="correct the path",
            )
        source = load_file(path)
        seen.append(resolved)
        chain.append((source, resolved.parent))
        parent = source.data.get("extends")
        if parent is None:
            return chain
        where = source.spans[("extends",)].value
        if not isinstance(parent, str):
            raise RecipeError.of(
                "R111",
                "`extends` must be the path of one recipe",
                where=where,
                why="a recipe has one parent; the parent may have its own",
                fix="write `extends: base.yaml`",
            )
        path = chain[-1][1] / parent


def _merge(
    data: dict[str, Any],
    new: dict[str, Any],
    at: DataPath,
    origins: dict[DataPath, Origin],
    new_origins: dict[DataPath, Origin],
) -> None:
    if at in new_origins:
        origins[at] = new_origins[at]
    for key, value in new.items():
        path = (*at, key)
        old = data.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and old.get("kind") == value.get("kind", old.get("kind")):
            _merge(old, value, path, origins, new_origins)
            continue
        for stale in _places(old, path):
            origins.pop(stale, None)
        data[key] = value
        origins.update({place: new_origins[place] for place in _places(value, path)})


def _places(value: Any, path: DataPath) -> Iterator[DataPath]:
    """The path of a value and of all values in it."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in inner:
        yield from _places(child, (*path, step))


def place_values(composed: Composed, placements: Iterable[Placement], source: Composed | None = None) -> Composed:
    """The same recipe with other values, which have the origins of those that they are copied from: in the recipe
    itself, or in another `source`.

    Raises `RecipeError` R113 for all paths that `--set` would refuse too.
    """
    source = source or composed
    data, origins = copy.deepcopy(composed.data), dict(composed.origins)
    findings: list[Finding] = []
    for placement in placements:
        name, value, at = placement
        origin, key = source.origins[at], source.where(placement.key_at, key=True)

        def fail(why: str, fix: str, column: int = 1, *, name: str = name, key: Where = key) -> RecipeError:
            return RecipeError.of("R113", f"cannot set `{name}`", where=key, why=why, fix=fix)

        whole = replace(origin, span=Span(origin.span.value, key))
        inside = {place: found for place, found in source.origins.items() if place[: len(at)] == at and place != at}
        inner = {(): whole, **{place[len(at) :]: found for place, found in inside.items()}}
        try:
            _place(data, origins, _parse_path(name, fail), copy.deepcopy(value), inner, whole, fail)
        except RecipeError as error:
            findings += error.findings
    if findings:
        raise RecipeError(*findings)
    return replace(composed, data=data, origins=origins)


def without_prefix(name: str, prefixes: Sequence[str]) -> str:
    """The path of an override without the first of the prefixes that it has."""
    return name.removeprefix(next((each for each in prefixes if name.startswith(each)), ""))


def _apply_override(given: str, data: dict[str, Any], origins: dict[DataPath, Origin], prefixes: Sequence[str]) -> None:
    def fail(why: str, fix: str, column: int = 1) -> RecipeError:
        where = Where("--set", 1, column, max(1, len(given)), given)
        return RecipeError.of("R113", f"cannot apply --set {given}", where=where, why=why, fix=fix)

    name, separator, text = given.partition("=")
    if not separator:
        raise fail("it has no `=`", "write `--set training.learning_rate=1e-5`")
    path = _parse_path(without_prefix(name.strip(), prefixes), fail)
    value, spans = parse_yaml(text, "--set")
    offset = len(name) + 1
    folder = Path.cwd()
    key = Where("--set", 1, 1, len(name), given)
    inner = {
        at: Origin("set", Span(Where("--set", 1, span.value.column + offset, span.value.length, given), key), folder)
        for at, span in spans.items()
    }
    whole = Origin("set", Span(Where("--set", 1, offset + 1, max(1, len(text)), given), key), folder)
    _place(data, origins, path, value, inner, whole, fail)


def _place(
    data: dict[str, Any],
    origins: dict[DataPath, Origin],
    path: DataPath,
    value: Any,
    inner: dict[DataPath, Origin],
    whole: Origin,
    fail: _Fail,
) -> None:
    """Store a value at a path. `inner` has the origins of the value and of all values in it, and `whole` is that of the
    mappings that are created on the way."""
    if path[0] == "extends":
        raise fail("parents are read before other values are applied", "write it in the recipe")
    target, parents = _descend(fail, data, path[:-1])
    _store(fail, target, path[-1], value)
    for known in [known for known in origins if known[: len(path)] == path]:
        del origins[known]
    for at in [*parents, path]:
        origins.setdefault(at, whole)
    for at, origin in inner.items():
        origins[(*path, *at)] = origin


def _parse_path(name: str, fail: _Fail) -> DataPath:
    path: list[str | int] = []
    position = 0
    while position < len(name):
        match = _SET_STEP.match(name, position)
        if match is None or (match.group(2) and not path):
            raise fail(
                f"`{name}` is not a path of keys and [indices]",
                "a path is written like `data.train[0].path`",
                position + 1,
            )
        path.append(match.group(1) if match.group(1) else int(match.group(2)))
        position = match.end()
    if not path:
        raise fail("there is no key", "a path is written like `section.key`")
    return tuple(path)


def _descend(fail: _Fail, data: Any, path: DataPath) -> tuple[Any, list[DataPath]]:
    created: list[DataPath] = []
    for depth, step in enumerate(path):
        if isinstance(step, str) and isinstance(data, dict):
            if data.get(step) is None:
                following = path[depth + 1] if depth + 1 < len(path) else None
                data[step] = [] if isinstance(following, int) else {}
                created.append(path[: depth + 1])
            data = data[step]
        elif isinstance(step, int) and isinstance(data, list) and step <= len(data):
            if step == len(data):
                data.append({})
                created.append(path[: depth + 1])
            data = data[step]
        else:
            raise _cannot_enter(fail, data, step)
    return data, created


def _store(fail: _Fail, target: Any, step: str | int, value: Any) -> None:
    if isinstance(step, str) and isinstance(target, dict):
        target[step] = value
    elif isinstance(step, int) and isinstance(target, list) and step <= len(target):
        target[step : step + 1] = [value]
    elif isinstance(step, int) and target == {}:
        raise _cannot_enter(fail, [], step)
    else:
        raise _cannot_enter(fail, target, step)


def _cannot_enter(fail: _Fail, data: Any, step: str | int) -> RecipeError:
    if isinstance(data, list) and isinstance(step, int):
        return fail(
            f"there is no item [{step}]: the list has length {len(data)}",
            "indices start at 0; one past the end appends",
        )
    kind = {dict: "a mapping", list: "a list"}.get(type(data), f"the value {data!r}")
    wanted = f"index [{step}]" if isinstance(step, int) else f"key `{step}`"
    return fail(f"{kind} has no {wanted}", "`dpo-recipe show RECIPE` prints the paths that exist")
