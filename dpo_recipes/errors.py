"""One exception tree. Every fault a person can cause carries a code, a place, a reason and a way out."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

# Exit codes of the command line. 1 means a bug in dpo-recipe: an exception that is not in this tree.
EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_RECIPE = 3
EXIT_DATA = 4
EXIT_FIT = 5
EXIT_RUN = 6
EXIT_SHARING = 7
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: stopped on request; the same command resumes
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells write it: stopped at once

EXIT_CODE_BY_LETTER = {
    "U": EXIT_USAGE,
    "R": EXIT_RECIPE,
    "D": EXIT_DATA,
    "F": EXIT_FIT,
    "M": EXIT_RUN,
    "T": EXIT_RUN,
    "S": EXIT_SHARING,
    "I": EXIT_RESUMABLE,
}


@dataclass(frozen=True)
class Where:
    """A place in a text: 1-based line and column, `length` characters long; a line of 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0
    length: int = 1
    text: str | None = None
    """The source line itself, so that a finding can be shown after the file has changed or was removed."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Reference:
    """A publication that supports the reason of a finding."""

    name: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}, {self.url}"


@dataclass(frozen=True)
class Finding:
    """Something wrong (`error`) or doubtful (`warning`) that a person can act on."""

    code: str
    what: str
    where: Where | None = None
    why: str | None = None
    fix: str | None = None
    severity: Literal["error", "warning"] = "error"
    at: tuple[str | int, ...] | None = None
    """Path of the recipe's value that it is about. Stages know this path only; whoever has the recipe's text turns it
    into `where` with `located`."""

    def located(self, find: Callable[[tuple[str | int, ...]], Where]) -> Finding:
        """The finding with its place in the recipe's text, which `find` gives for a path (`Composed.where`)."""
        return self if self.where is not None or self.at is None else replace(self, where=find(self.at))

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data; `where` becomes file, line and column."""
        plain = asdict(self)
        plain["where"] = None if self.where is None else asdict(self.where)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Finding:
        """The inverse of `to_json`; findings cross the process boundary this way."""
        where, at = plain.get("where"), plain.get("at")
        return cls(**{**plain, "where": Where(**where) if where else None, "at": tuple(at) if at else None})

    def render(self) -> str:
        """The finding as a person reads it, with the source line and a caret under the fault."""
        lines = [f"{self.severity}[{self.code}]: {self.what}"]
        if self.where is not None:
            lines += _render_where(self.where)
        elif self.at is not None:
            lines.append(f"  --> {path_text(self.at)}")
        if self.why:
            lines.append(f"why: {self.why}")
        lines.append(
            f"hint: {self.fix}   (dpo-recipe explain {self.code})"
            if self.fix
            else f"hint: dpo-recipe explain {self.code}"
        )
        return "\n".join(lines)


def printable(text: str) -> str:
    """A text without characters that control a terminal or are invisible: they are written as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _printable_finding(finding: Finding) -> Finding:
    texts = {
        name: None if value is None else printable(value)
        for name, value in (("what", finding.what), ("why", finding.why), ("fix", finding.fix))
    }
    where = finding.where
    if where is not None:
        shown = None if where.text is None else printable(where.text.replace("\t", " "))
        where = replace(where, file=printable(where.file), text=shown)
    return replace(finding, where=where, **texts)


def path_text(path: tuple[str | int, ...]) -> str:
    """A path in a recipe as `--set` takes it: `data.train[0].path`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _render_where(where: Where) -> list[str]:
    if where.text is None or not where.line:
        return [f"  --> {where}"]
    gutter = " " * len(str(where.line))
    # Very long lines are cut around the fault: a terminal that wraps would tear the caret off its text.
    start = max(0, where.column - 61) if len(where.text) > 100 else 0
    shown = where.text[start : start + 100].replace("\t", " ")
    caret_at = where.column - 1 - start
    carets = "^" * max(1, min(where.length, len(shown) - caret_at))
    return [
        f"{gutter} --> {where}",
        f"{gutter}  |",
        f"{where.line} | {shown}",
        f"{gutter}  | {' ' * caret_at}{carets}",
    ]


class DpoRecipeError(Exception):
    """The root: one or more findings that end the command. The letter of the first code determines the exit code."""

    def __init__(self, *findings: Finding) -> None:
        if not findings:
            raise ValueError("an error needs at least one finding")
        self.findings = findings
        super().__init__("\n\n".join(finding.render() for finding in findings))

    @classmethod
    def of(
        cls,
        code: str,
        what: str,
        *,
        where: Where | None = None,
        at: tuple[str | int, ...] | None = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> Self:
        """An error of one finding."""
        return cls(Finding(code, what, where, why, fix, at=at))

    def located(self, find: Callable[[tuple[str | int, ...]], Where]) -> Self:
        """The same error with the place of each finding in the recipe's text."""
        return type(self)(*(finding.located(find) for finding in self.findings))

    @property
    def exit_code(self) -> int:
        """The process exit code, by the kind of the first finding."""
        return EXIT_CODE_BY_LETTER[self.findings[0].code[0]]


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from or while handling, outermost first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def in_one_line(error: BaseException) -> str:
    """The class of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library ran out of memory, on any device; each library words it differently."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__}: {error}".lower()
    return "out of memory" in text or "outofmemory" in text or "can't allocate memory" in text


def is_no_space(error: BaseException) -> bool:
    """Whether the disk or a quota is full; libraries pass the system's message on."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def is_lack_of_machine(error: BaseException) -> bool:
    """Whether memory or disk space ran out, and whatever failed is not at fault itself."""
    return any(is_out_of_memory(cause) or is_no_space(cause) for cause in causes(error))


class RecipeError(DpoRecipeError):
    """The recipe is wrong (R codes, exit 3) or the command that named it (U codes, exit 2)."""


class DataError(DpoRecipeError):
    """The data is wrong: D codes, exit 4."""


class RunError(DpoRecipeError):
    """The model could not be built or the run failed: M and T codes, exit 6."""


class FitError(DpoRecipeError):
    """The job does not fit the device (F7xx codes)."""


class SharingError(DpoRecipeError):
    """A recipe cannot be locked, packed, verified, fetched or reproduced: S codes, exit 7.

    Its texts may quote what a stranger has written, so characters that could control a terminal are escaped.
    """

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*map(_printable_finding, findings))


class Interrupted(DpoRecipeError):
    """A person or a scheduler stopped the run, which can be resumed: I codes, exit 75, or 130 if it stopped at once."""

    @property
    def exit_code(self) -> int:
        """As for all errors, but for the one code of a run that had no time to save."""
        return EXIT_INTERRUPTED if self.findings[0].code == "I130" else super().exit_code
