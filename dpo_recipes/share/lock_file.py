"""The file of a lock, `NAME.lock.yaml` beside the recipe: what is in it, and how it is read and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dpo_recipes import __version__
from dpo_recipes.errors import RecipeError, SharingError, Where
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.load import RecipeSource, load_file
from dpo_recipes.run_dir import write_text_atomically
from dpo_recipes.run_result import describe_invalid
from dpo_recipes.shipped import LOCK_SUFFIX

LOCK_VERSION = 1
LockUse = Literal["strict", "inputs", "off"]
"""`strict`: everything must be as locked. `inputs`: packages may have other versions. `off`: the lock is not read."""
Device = Literal["cuda", "mps", "cpu"]
_HEADER = "# Made by `dpo-recipe lock`, which makes it again. A change by hand is refused.\n"
_SHA256 = r"^[0-9a-f]{64}$"


def _below(name: str) -> str:
    """A name below a folder. A lock may come from somebody else, so no name leads out of the folder."""
    if not name or name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ValueError("not the name of a file below a folder")
    return name


FileName = Annotated[str, AfterValidator(_below)]


class _Part(BaseModel):
    """A part of a lock. Unknown keys are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


class LockedFile(_Part):
    """The size of a file in bytes, and the digest of its content."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class LockedInput(_Part):
    """One input of a job by its content."""

    source: Literal["hub", "local", "pypi", "url", "text"]
    """Where it comes from. `text`: a chat template that the recipe has in it, or that is part of dpo-recipe."""
    id: str | None = None
    """The id on the hub or the address; None for local files, whose place may be another one elsewhere."""
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Of a hub repository."""
    files: dict[FileName, LockedFile]
    """The files that are loaded, by their names in the repository or folder."""


class LockedRows(_Part):
    """The rows of a split after conversion, selection and splitting, before they are tokenized."""

    rows: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)
    """Of all rows in their order, without their locations."""


class LockedJob(_Part):
    """A single run, or a step of a chain."""

    kind: str
    """The kind of the step; `train` for a single run."""
    values: dict[str, Any]
    """All settings that determine the result, parents and defaults included. A local path is only `local`."""
    inputs: dict[str, LockedInput]
    """By their places in the settings, such as `data.train[0].path`."""
    rows: dict[str, LockedRows]
    """By split. Empty for a step that does not train, and if a step before it makes the rows."""


class MadeOn(_Part):
    """The machine that the lock was made on."""

    device: Device
    name: str
    system: str
    python: str


class Lock(_Part):
    """The content of a lock. It has either a `recipe` or `steps`."""

    lock: Literal[1] = LOCK_VERSION
    name: str
    """The name of the recipe or the chain."""
    recipe_sha256: str = Field(pattern=_SHA256)
    """Of the values of all jobs."""
    made_with: str
    """The version of dpo-recipe."""
    made_on: MadeOn
    packages: dict[str, str]
    """The versions of the packages that decide results."""
    recipe: LockedJob | None = None
    steps: dict[str, LockedJob] | None = None
    sha256: str = ""
    """Of everything else in the lock."""

    @property
    def jobs(self) -> Mapping[str, LockedJob]:
        """The jobs by the names of their steps; a single run has an empty name."""
        return self.steps if self.steps is not None else {"": self.recipe} if self.recipe is not None else {}

    def text(self) -> str:
        """The YAML text of the lock."""
        plain = self.model_dump(mode="json", exclude_none=True, exclude={"sha256"})
        return _HEADER + dump_plain({**plain, "sha256": digest_of(plain)})

    def write(self, path: Path) -> None:
        """Write the lock atomically. Raises `SharingError` S104."""
        try:
            write_text_atomically(path, self.text())
        except OSError as error:
            raise SharingError.of(
                "S104",
                f"cannot write the lock {path}",
                why=error.strerror or str(error),
                fix="change the permissions of the folder, or copy the recipe into a folder of yours",
            ) from error


def lock_path(recipe: Path) -> Path:
    """The path of the lock of a recipe: `mine.lock.yaml` beside `mine.yaml`."""
    return recipe.with_name(recipe.stem + LOCK_SUFFIX)


def digest_of(plain: Any) -> str:
    """The SHA-256 of plain data, whatever the order of their keys."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_values(jobs: Mapping[str, LockedJob]) -> str:
    """The digest of the settings of all jobs."""
    return digest_of({name: {"kind": job.kind, "values": job.values} for name, job in jobs.items()})


def read_lock(path: Path) -> Lock:
    """Read a lock. Raises `SharingError` S101 (damaged), S102 (from a newer version), S103 (changed by hand)."""
    try:
        source = load_file(path)
    except RecipeError as error:
        first = error.findings[0]
        why = "it is empty, or no mapping" if first.code == "R107" else first.what
        raise _damaged(path, why, first.where) from error
    version = source.data.get("lock")
    if isinstance(version, int) and version > LOCK_VERSION:
        raise SharingError.of(
            "S102",
            f"{path.name} is a lock of version {version}",
            where=_place(source, "lock"),
            why=f"dpo-recipe {__version__} reads locks of version {LOCK_VERSION}; this one was made with dpo-recipe "
            f"{source.data.get('made_with', 'of a later version')}",
            fix="upgrade dpo-recipe, or make the lock again here with `dpo-recipe lock`",
        )
    try:
        lock = Lock.model_validate(source.data)
    except ValidationError as error:
        at = error.errors(include_url=False)[0]["loc"]
        raise _damaged(path, describe_invalid(error), _place(source, *at)) from error
    if (lock.recipe is None) == (lock.steps is None):
        raise _damaged(path, "it has neither one `recipe` nor `steps`", Where(source.file))
    plain = {key: value for key, value in source.data.items() if key != "sha256"}
    if lock.sha256 != digest_of(plain) or lock.recipe_sha256 != sha256_of_values(lock.jobs):
        raise SharingError.of(
            "S103",
            f"{path.name} was changed after it was made",
            where=_place(source, "sha256"),
            why="its content does not have the digest in its last line",
            fix="restore the file, or make it again with `dpo-recipe lock`",
        )
    return lock


def _place(source: RecipeSource, *at: str | int) -> Where:
    """The place of a value, or of the nearest enclosing one."""
    while at and at not in source.spans:
        at = at[:-1]
    return source.spans[at].value if at else Where(source.file)


def _damaged(path: Path, why: str, where: Where | None) -> SharingError:
    fix = "restore the file, or make it again with `dpo-recipe lock`"
    return SharingError.of("S101", f"the lock {path.name} is damaged", where=where, why=why, fix=fix)
