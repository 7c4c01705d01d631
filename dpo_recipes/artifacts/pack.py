"""Packs a recipe with everything that it consists of into one file: the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dpo_recipes.artifacts.artifact import SUFFIX, Artifact
from dpo_recipes.artifacts.container import write_container
from dpo_recipes.artifacts.gather import Gathered, LocalPath, data_files, gather
from dpo_recipes.artifacts.manifest import MANIFEST, RECIPE_FOLDER, SIGNATURE, FileEntry, Manifest, Need, Role
from dpo_recipes.artifacts.names import why_not_allowed
from dpo_recipes.artifacts.recipe_texts import check_texts, folder_of, read_recipe
from dpo_recipes.artifacts.run_files import RunToPack, adapter_files, adapter_folder, result_files
from dpo_recipes.artifacts.signature import sign
from dpo_recipes.artifacts.verify import verify
from dpo_recipes.errors import RecipeError, SharingError, Where, is_no_space
from dpo_recipes.recipe.schema.recipe import NAME

DATA_LIMIT_MB = 50.0
"""Larger data belong on the hub or behind a URL."""


@dataclass(frozen=True)
class PackOptions:
    """What is packed beside the recipe."""

    data_licence: str | None = None
    """The terms of the data in local files, which are packed if it is given."""
    data_limit_mb: float = DATA_LIMIT_MB
    run: RunToPack | None = None
    """The run whose results and report are packed."""
    with_adapter: bool = False
    """Pack the adapter of the run, and one that the recipe continues."""
    signing_key: Path | None = None
    inside: Path | None = None
    """The folder that a recipe of a stranger may not lead out of."""


@dataclass
class _Contents:
    """The files of the artifact by their names, and what the recipe needs beside them."""

    files: dict[str, tuple[Role, Path | bytes]] = field(default_factory=dict)
    needs: list[Need] = field(default_factory=list)


def pack(recipe: Path, target: Path | None, options: PackOptions) -> Artifact:
    """Pack a recipe that is valid. Without a `target`, the file is `NAME.recipe.tar` in the current folder. What was
    packed is verified before it gets its name.

    Raises `RecipeError` U401 (the file exists with another content) and U402 (it cannot be written), and
    `SharingError` S201 to S208, and those of `verify`.
    """
    found = gather(recipe)
    name = _name_of_recipe(found)
    if options.inside is not None and not found.root.is_relative_to(options.inside.resolve()):
        raise SharingError.of(
            "S312",
            f"the recipe `{name}` names files outside of its own folder",
            why=f"together they are in {found.root}",
            fix="do not use it; a recipe from elsewhere names files of its own repository only",
        )
    contents = _contents(found, options)
    if options.run is not None and options.run.recipe_name != name:
        raise SharingError.of(
            "S206",
            f"the run {options.run.run.path.name} is not one of the recipe `{name}`",
            why=f"its recipe is `{options.run.recipe_name}`",
            fix="name a run of this recipe; `dpo-recipe runs` lists them",
        )
    manifest = Manifest(
        name=name,
        summary=str(found.composed.data.get("summary") or ""),
        recipe=_name_of(found.main, found.root),
        files={each: _entry(role, content) for each, (role, content) in sorted(contents.files.items())},
        needs=sorted(contents.needs, key=lambda need: need.path),
        data_licence=options.data_licence if any(role == "data" for role, _ in contents.files.values()) else None,
        run=options.run.run.path.name if options.run else None,
    )
    target = target or Path(f"{name}{SUFFIX}")
    if target.is_dir():
        target /= f"{name}{SUFFIX}"
    return _write(target, manifest, {each: content for each, (_, content) in contents.files.items()}, options)


def _name_of_recipe(found: Gathered) -> str:
    """The name of the recipe. One from elsewhere may have none: it is not validated before it is packed."""
    data = found.composed.data
    name = data.get("name")
    if not isinstance(name, str) or re.fullmatch(NAME, name) is None or not isinstance(data.get("model", {}), dict):
        raise SharingError.of(
            "S310",
            f"{_shown(found.main)} is not a recipe",
            why="a recipe has a `name` and the sections `model` and `data`, or `steps`",
            fix="`dpo-recipe validate` says what is wrong with it",
        )
    return name


def _contents(found: Gathered, options: PackOptions) -> _Contents:
    root, contents = found.root, _Contents()
    findings = []
    for path in [*found.recipes, *([found.lock] if found.lock else [])]:
        role: Role = "lock" if path == found.lock else "recipe"
        name = _name_of(path, root)
        raw = path.read_bytes()
        contents.files[name] = (role, raw)
        findings += check_texts(read_recipe(raw, _shown(path), folder_of(name, RECIPE_FOLDER)))
    if findings:
        raise SharingError(*findings)
    for path, where in found.templates.items():
        if not path.is_file():
            raise _missing(path, where)
        contents.files[_name_of(path, root)] = ("template", path)
    _add_named(found, options, contents)
    base = str((found.composed.data.get("model") or {}).get("path") or "")
    if options.run is not None:
        contents.files |= {name: ("result", content) for name, content in result_files(options.run)}
        if options.with_adapter:
            contents.files |= {name: ("adapter", content) for name, content in adapter_files(options.run, base)}
    elif options.with_adapter and not any(role == "adapter" for role, _ in contents.files.values()):
        raise SharingError.of(
            "S205",
            "there is no adapter to pack",
            why="the recipe continues no adapter in a local folder, and no run is named",
            fix="name the run that has trained it: `--with-results RUN --with-adapter`",
        )
    return contents


def _add_named(found: Gathered, options: PackOptions, contents: _Contents) -> None:
    """Add data and adapters that are asked for; the rest is needed on the machine that runs the artifact."""
    root, left = found.root, options.data_limit_mb * 1e6
    for local in found.named:
        target = _name_of(local.path, root)
        if local.kind == "adapter" and options.with_adapter and local.path.is_dir():
            files = adapter_folder(local.path, target, str(found.composed.data["model"]["path"]))
            contents.files |= {name: ("adapter", content) for name, content in files}
        elif local.kind == "data" and options.data_licence is not None:
            files = data_files(local.path)
            left -= sum(file.stat().st_size for file in files)
            if left < 0:
                raise _too_much_data(local, options.data_limit_mb)
            contents.files |= {_name_of(file, root): ("data", file) for file in files}
        else:
            is_file = local.path.is_file()
            sha256 = _sha256(local.path) if is_file and local.kind in ("data", "function") else None
            size = local.path.stat().st_size if is_file else None
            contents.needs.append(Need(path=target, kind=local.kind, sha256=sha256, bytes=size))


def _write(target: Path, manifest: Manifest, contents: Mapping[str, Path | bytes], options: PackOptions) -> Artifact:
    """Write the artifact beside its place, verify it, and give it its name."""
    raw = manifest.to_bytes()
    signature = sign(raw, options.signing_key) if options.signing_key else None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".partial", dir=target.parent)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file, ExitStack() as stack:
                write_container(_streams(raw, contents, signature, stack), file)
                file.flush()
                os.fsync(file.fileno())
            packed = verify(partial, str(target))
            _rename(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        fix = "free some space" if is_no_space(error) else "choose another place with `--output`"
        raise RecipeError.of("U402", f"cannot write {target}", why=error.strerror or str(error), fix=fix) from error
    return Artifact(**{**vars(packed), "path": target})


def _streams(
    manifest: bytes, contents: Mapping[str, Path | bytes], signature: bytes | None, stack: ExitStack
) -> Iterator[tuple[str, IO[bytes], int]]:
    yield MANIFEST, io.BytesIO(manifest), len(manifest)
    for name, content in sorted(contents.items()):
        if isinstance(content, bytes):
            yield name, io.BytesIO(content), len(content)
        else:
            file = stack.enter_context(content.open("rb"))
            yield name, file, os.fstat(file.fileno()).st_size
    if signature is not None:
        yield SIGNATURE, io.BytesIO(signature), len(signature)


def _rename(partial: Path, target: Path) -> None:
    """Nothing is overwritten, unless it is the same."""
    if target.exists():
        if _sha256(target) == _sha256(partial):
            return
        raise RecipeError.of(
            "U401",
            f"{target} exists already",
            why="it has another content, and nothing is overwritten",
            fix="choose another file with `--output`, or move it away",
        )
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    partial.rename(target)


def _entry(role: Role, content: Path | bytes) -> FileEntry:
    if isinstance(content, bytes):
        return FileEntry(role=role, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return FileEntry(role=role, bytes=content.stat().st_size, sha256=_sha256(content))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_of(path: Path, root: Path) -> str:
    """The name of a file in the artifact. Raises `SharingError` S202 if it cannot have one."""
    name = f"{RECIPE_FOLDER}/{path.relative_to(root).as_posix()}"
    why = why_not_allowed(name)
    if why is not None:
        raise SharingError.of(
            "S202", f"{path} cannot be packed under the name {name!r}", why=why, fix="rename the file or folder"
        )
    return name


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _missing(path: Path, where: Where) -> SharingError:
    return SharingError.of(
        "S201",
        f"the file {path} does not exist",
        where=where,
        why="the recipe names it, so it belongs in the artifact",
        fix="correct the path",
    )


def _too_much_data(local: LocalPath, limit_mb: float) -> SharingError:
    return SharingError.of(
        "S203",
        f"the data are too large to pack: with {local.path.name} they have more than {limit_mb:g} MB",
        where=local.where,
        why="an artifact is fetched as a whole, by everyone who looks at it",
        fix="publish the data on the hub or behind a URL and name that in the recipe, or raise `--data-limit`",
    )
