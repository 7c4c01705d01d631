"""A recipe while it is made from a foreign configuration, and what became of each key of that configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dpo_recipes.errors import Finding, SharingError, path_text
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.share.foreign.config import Config, Key, Secret, Unknown
from dpo_recipes.share.foreign.fields import kind_of
from dpo_recipes.share.foreign.listed import Listed
from dpo_recipes.share.foreign.values import Kind, WrongValue, anything, is_off


@dataclass(frozen=True)
class Outcome:
    """What became of one key."""

    how: Literal["mapped", "derived", "listed"]
    """`mapped`: a field of the recipe has its value. `derived`: fields were made from it, perhaps with others.
    `listed`: no field has it."""
    to: tuple[str, ...] = ()
    """The fields of the recipe."""
    note: str = ""
    """How a field was made from it, or why there is none."""
    differs: bool = False
    """Whether the job may have another result than that of the tool because of this key."""


@dataclass(frozen=True)
class Value:
    """A value of the recipe and the comment beside it."""

    value: Any
    comment: str = ""
    is_default: bool = False
    """Whether it is a default of the tool, because the file does not set it."""
    keys: tuple[Key, ...] = ()


@dataclass
class Draft:
    """The recipe so far."""

    config: Config
    tool: str
    """The name and version of the tool, as comments show it."""
    kind: str = ""
    """The objective that a person has asked for; empty if the file has to say it."""
    values: dict[str, Value] = field(default_factory=dict)
    outcomes: dict[DataPath, Outcome] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Differences that follow from no single key, such as a default that cannot be kept."""

    @property
    def keys(self) -> Keys:
        """The keys at the top of the configuration."""
        return Keys(self, (), self.config.data)

    def has(self, to: str) -> bool:
        """Whether a field of the recipe is set."""
        return to in self.values

    def value(self, to: str, default: Any = None) -> Any:
        """The value of a field of the recipe."""
        return self.values[to].value if to in self.values else default

    def put(self, to: str, value: Any, *keys: Key, note: str = "", differs: bool = False) -> None:
        """Set a field from keys. One key with the same value is mapped; otherwise keys are derived."""
        own = " ".join(key.comment for key in keys if key.comment)
        self.values[to] = Value(value, "; ".join(part for part in (note, own) if part), keys=keys)
        is_same = len(keys) == 1 and _same(keys[0].value, value)
        for key in keys:
            self.account(key, "mapped" if is_same and not differs else "derived", to, note=note, differs=differs)

    def default(self, to: str, value: Any, comment: str = "") -> None:
        """Set a field that no key sets to what the tool assumes."""
        if to not in self.values:
            self.values[to] = Value(value, comment, is_default=True)

    def account(
        self,
        key: Key,
        how: Literal["mapped", "derived", "listed"],
        *to: str,
        note: str = "",
        differs: bool = False,
    ) -> None:
        """Record what became of a key, and of all keys in its value if that is a mapping. A key inside a JSON text is
        that of the text. A second record adds its fields to the first one."""
        for path in self._accountable(key.path):
            known, fields, text, changes = self.outcomes.get(path), to, note, differs
            result = how
            if known is not None and known.how != "listed":
                result = "derived" if to and set(to) - set(known.to) else known.how
                fields = tuple(dict.fromkeys((*known.to, *to)))
                text, changes = note or known.note, differs or known.differs
            self.outcomes[path] = Outcome(result, tuple(fields), text, changes)

    def _accountable(self, path: DataPath) -> list[DataPath]:
        """The keys with values at or below a path; or else the one above it."""
        known = self.config.keys
        if path in known:
            return [path]
        below = [at for at in known if at[: len(path)] == path]
        above = [path[:length] for length in range(len(path), 0, -1) if path[:length] in known]
        return below or above[:1] or [path]

    def wrong(self, key: Key, why: str, fix: str = "") -> None:
        """S504: a value that the tool itself would refuse, or that no field can have."""
        shown = "" if isinstance(key.value, Secret | dict | list) else f" (`{str(key.value)[:60]}`)"
        self.findings.append(
            Finding("S504", f"`{key.name}` cannot have this value{shown}", key.where, why, fix or "correct the value")
        )
        self.account(key, "listed", note=why, differs=True)

    def list_rest(self, tables: Iterable[Listed], known: Iterable[str]) -> None:
        """List each key that has no outcome yet, with what that costs."""
        tables, names = list(tables), sorted(known)
        for key in self.config.keys.values():
            if key.path not in self.outcomes:
                note, differs = _why_listed(key, tables, names, self.tool)
                self.account(key, "listed", note=note, differs=differs)

    def raise_findings(self) -> None:
        """Raises `SharingError` S504 and S505 with all that was found."""
        if self.findings:
            raise SharingError(*self.findings)


def _why_listed(key: Key, tables: list[Listed], names: list[str], tool: str) -> tuple[str, bool]:
    if isinstance(key.value, Secret):
        return "a secret is not copied; set it in the environment, for example as HF_TOKEN", False
    if key.value is None or key.value in ("", [], {}):
        return "it is empty, which is as if it were absent", False
    table = next((table for table in tables if table.names_key(key.path)), None)
    if table is not None:
        if table.is_feature and is_off(key.value):
            return "it is off, so nothing is lost", False
        if isinstance(key.value, Unknown):
            return f"{table.cost} Its value `{key.value.text}` is not known here", table.differs
        return table.cost, table.differs
    if isinstance(key.value, Unknown):
        return f"its value `{key.value.text}` is known only where the file is used", True
    last = next((step for step in reversed(key.path) if isinstance(step, str)), "")
    near = difflib.get_close_matches(last, names, n=1, cutoff=0.8)
    hint = f"; did you mean `{near[0]}`?" if near and near[0] != last else ""
    return f"not known as a key of {tool}{hint}", True


@dataclass(frozen=True)
class Keys:
    """The keys of one mapping of the configuration."""

    draft: Draft
    at: DataPath
    data: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        """Whether one of these keys has a value that is known."""
        return any(self._known(name) for name in names)

    def _known(self, name: str) -> bool:
        value = self.data.get(name)
        return value is not None and value != "" and not isinstance(value, Secret | Unknown)

    def key(self, name: str) -> Key:
        """The key of this name, which the mapping has."""
        path = (*self.at, name)
        return self.draft.config.keys.get(path) or Key(path, self.data[name], self.draft.config.where(path))

    def get(self, name: str, kind: Kind = anything, default: Any = None) -> Any:
        """The value of a key, converted; the default if it is absent, empty or unknown, or if it cannot be converted,
        which is recorded as a finding."""
        if not self._known(name):
            return default
        try:
            return kind(self.data[name])
        except WrongValue as error:
            self.draft.wrong(self.key(name), f"it must be {error}")
            return default

    def sub(self, name: str) -> Keys:
        """The keys of a mapping inside this one; no keys if it is absent or not a mapping."""
        inner = self.data.get(name)
        return Keys(self.draft, (*self.at, name), inner if isinstance(inner, dict) else {})

    def items(self, name: str) -> Iterator[Keys]:
        """The keys of each mapping in a list."""
        inner = self.data.get(name)
        for index, item in enumerate(inner if isinstance(inner, list) else []):
            if isinstance(item, dict):
                yield Keys(self.draft, (*self.at, name, index), item)

    def under(self, name: str) -> list[Key]:
        """All keys with values at or below a key."""
        start = (*self.at, name)
        return [key for path, key in self.draft.config.keys.items() if path[: len(start)] == start]

    def map(self, name: str, to: str, kind: Kind | None = None, note: str = "") -> bool:
        """Set a field of the recipe to the value of a key, if the key has one."""
        if not self._known(name):
            return False
        value = self.get(name, kind or kind_of(to))
        if value is None:
            return False
        self.draft.put(to, value, self.key(name), note=note)
        return True

    def map_all(self, table: Mapping[str, str]) -> None:
        """Set the fields of a table of names, each to the value of its key. The first of several keys of one field
        counts; the others are listed."""
        for name, to in table.items():
            if not self._known(name):
                continue
            if self.draft.has(to) and not self.draft.values[to].is_default:
                first = self.draft.values[to].keys[0].name
                self.derive([name], to, note=f"`{first}` says the same field")
            else:
                self.map(name, to)

    def derive(self, names: Iterable[str], *to: str, note: str = "", differs: bool = False) -> None:
        """Record that fields were made from keys; names that the mapping lacks are left out."""
        for name in names:
            for key in self.under(name) if name in self.data else ():
                if not isinstance(key.value, Secret):
                    self.draft.account(key, "derived", *to, note=note, differs=differs)

    def list(self, name: str, note: str, *, differs: bool) -> None:
        """Record that no field has a key."""
        for key in self.under(name) if name in self.data else ():
            self.draft.account(key, "listed", note=note, differs=differs)


def _same(given: Any, value: Any) -> bool:
    if isinstance(given, bool) or isinstance(value, bool):
        return given is value or (isinstance(given, str) and isinstance(value, bool))
    if isinstance(given, str) and isinstance(value, int | float):
        return True
    return given == value


def name_of(path: DataPath) -> str:
    """A path as text."""
    return path_text(path)
