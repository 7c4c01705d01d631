"""The files of a repository on the hub by commit and SHA-256, from the hub's metadata or from the cache.

Files in LFS, as all weights are, have their SHA-256 in the metadata of the repository, so they are not downloaded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dpo_recipes import hub
from dpo_recipes.cache import file_sha256
from dpo_recipes.errors import DpoRecipeError, SharingError, causes, in_one_line
from dpo_recipes.share.lock_file import LockedFile

RepoType = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    id: str
    kind: RepoType
    commit: str

    def cached(self, name: str) -> Path | None:
        """The path of a file in the cache of this machine, or None."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.id, name, revision=self.commit, repo_type=self.kind)
        return Path(found) if isinstance(found, str) else None

    def fetch(self, name: str) -> Path:
        """The path of a file, which is downloaded if it is not in the cache. Raises `SharingError` S110 to S112."""
        from huggingface_hub import hf_hub_download

        found = self.cached(name)
        if found is not None:
            return found
        with hub_errors(self.id, self.commit):
            if is_offline():
                raise offline_error(self.id, self.commit, name)
            return Path(hf_hub_download(self.id, name, revision=self.commit, repo_type=self.kind))

    def names(self) -> list[str]:
        """The names of all files; offline, of those in the cache. Raises `SharingError` S110 to S112."""
        if not is_offline():
            return [sibling.rfilename for sibling in self._info().siblings or ()]
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.id, repo_type=self.kind)
        snapshot = folder / "snapshots" / self.commit
        found = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        if not found:
            raise offline_error(self.id, self.commit)
        return sorted(found)

    def describe(self, names: Collection[str], *, by_metadata: bool = True) -> dict[str, LockedFile]:
        """Size and digest of some of the files. Without `by_metadata`, all of them are downloaded and read. Raises
        `SharingError` S110 to S112."""
        found: dict[str, LockedFile] = {}
        known = self._in_lfs() if by_metadata and not all(map(self.cached, names)) and not is_offline() else {}
        for name in sorted(names):
            path = self.cached(name)
            if path is None and name in known:
                found[name] = known[name]
                continue
            path = path or self.fetch(name)
            found[name] = LockedFile(size=path.stat().st_size, sha256=file_sha256(path))
        return found

    def _in_lfs(self) -> dict[str, LockedFile]:
        siblings = self._info().siblings or ()
        return {each.rfilename: LockedFile(size=each.lfs.size, sha256=each.lfs.sha256) for each in siblings if each.lfs}

    def _info(self) -> Any:
        return _info(self.id, self.kind, self.commit)


def find_repository(repo_id: str, kind: RepoType, revision: str | None) -> Repository:
    """A repository at the commit that a branch, a tag or a commit names now; offline, at the commit that was downloaded
    last. Raises `SharingError` S110 to S112."""
    if not is_offline():
        return Repository(repo_id, kind, _info(repo_id, kind, revision).sha)
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if revision is not None and _COMMIT.fullmatch(revision):
        return Repository(repo_id, kind, revision)
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind)
    try:
        return Repository(repo_id, kind, (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip())
    except OSError:
        raise offline_error(repo_id, revision) from None


def is_offline() -> bool:
    """Whether the hub must not be asked, or does not answer."""
    from huggingface_hub import constants

    return hub.go_offline_if_unreachable() or bool(constants.HF_HUB_OFFLINE)


@cache
def _info(repo_id: str, kind: RepoType, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    with hub_errors(repo_id, revision):
        return HfApi().repo_info(repo_id, revision=revision, repo_type=kind, files_metadata=True)


def offline_error(repo_id: str, revision: str | None, name: str | None = None) -> SharingError:
    """S112: something is not in the cache, and there is no network."""
    at = f" at {revision}" if revision else ""
    return SharingError.of(
        "S112",
        f"{f'{name} of ' if name else ''}{repo_id}{at} is not in the cache, and the hub cannot be asked",
        why=f"{hub.endpoint()} does not answer, or HF_HUB_OFFLINE is set",
        fix=f"run this where the hub answers, or copy the cache of such a machine: `hf download {repo_id}`",
    )


@contextlib.contextmanager
def hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into `SharingError`: S110 (gone), S111 (gated or private), S112 (no answer)."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except DpoRecipeError:
        raise
    except Exception as error:
        chain = list(causes(error))
        if any(isinstance(cause, GatedRepoError) for cause in chain):
            what, code = f"{repo_id} is gated", "S111"
            fix = "accept its terms on its page, then log in with `hf auth login`"
        elif any(isinstance(cause, RevisionNotFoundError) for cause in chain):
            what, code = f"{repo_id} has no revision {revision}", "S110"
            fix = "its owner has removed the commit or rewritten the history: restore the files from a copy, or lock "
            fix += "another commit with `dpo-recipe lock`"
        elif any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
            what, code = f"{repo_id} is not on the hub", "S110"
            fix = "check the id; a private repository needs `hf auth login`"
        else:
            what, code = f"the hub did not describe {repo_id}", "S112"
            fix = "check the network (`dpo-recipe doctor`), and try again"
        raise SharingError.of(code, what, why=in_one_line(error), fix=fix) from error
