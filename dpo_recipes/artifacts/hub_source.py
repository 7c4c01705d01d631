"""Recipes on the Hugging Face hub: `hf://[datasets/]OWNER/NAME[@REVISION][/FILE]`.

The file is an artifact, or a recipe that is packed after the download together with the recipes and templates that it
names in the same repository. Without a file, the repository must have one artifact.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from dpo_recipes import hub
from dpo_recipes.artifacts.artifact import SUFFIX, Artifact
from dpo_recipes.artifacts.http import not_reached
from dpo_recipes.errors import SharingError, in_one_line, is_no_space

_FORM = re.compile(
    r"hf://(?P<type>datasets/|models/)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>[^/@\s]+))?(/(?P<file>[^@\s]+))?"
)
_COMMIT = re.compile("[0-9a-f]{40}")
_TEXTS = ("*.yaml", "*.yml", "*.jinja")


class HubSource:
    """One reference to a repository or a file in it."""

    def __init__(self, reference: str) -> None:
        """Raises `SharingError` S401 if it has another form."""
        found = _FORM.fullmatch(reference)
        if found is None or ".." in str(found["file"]).split("/"):
            raise SharingError.of(
                "S401",
                f"{reference} is no reference to a recipe on the hub",
                why="it has the form hf://OWNER/NAME, hf://OWNER/NAME@REVISION/FILE or hf://datasets/OWNER/NAME",
                fix="for example hf://someone/recipes/brief.recipe.tar",
            )
        self.reference = reference
        self.repository: str = found["id"]
        self.repo_type: Literal["model", "dataset"] = "dataset" if found["type"] == "datasets/" else "model"
        self.revision: str | None = found["revision"]
        self.file: str | None = found["file"]
        self._files: list[str] = []

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def find_version(self) -> str:
        """The commit. Raises `SharingError` S402 to S404."""
        from huggingface_hub import HfApi

        self._check_reachable()
        try:
            info: Any = HfApi().repo_info(self.repository, repo_type=self.repo_type, revision=self.revision)
        except Exception as error:  # huggingface_hub and its HTTP library have no common exception class
            raise _hub_error(self.reference, error) from error
        self._files = [sibling.rfilename for sibling in info.siblings or ()]
        return info.sha

    def fetch(self, version: str, folder: Path) -> Path:
        """Download an artifact, or a recipe with all recipes and templates of the repository. Raises `SharingError`
        S402 to S404 and S407."""
        from huggingface_hub import hf_hub_download, snapshot_download

        file = self.file or self._only_artifact()
        options: dict[str, Any] = {"repo_type": self.repo_type, "revision": version, "local_dir": folder}
        try:
            if file.endswith((".yaml", ".yml")):
                snapshot_download(self.repository, allow_patterns=list(_TEXTS), **options)
            fetched = hf_hub_download(self.repository, file, **options)
        except Exception as error:  # as above
            raise _hub_error(self.reference, error) from error
        return Path(fetched)

    def push(self, artifact: Artifact, *, may_move: bool) -> str:
        """Commit an artifact to the repository, which must exist, and return the reference with the commit. The hub
        keeps what the file was before. Raises `SharingError` S402 to S404."""
        from huggingface_hub import HfApi

        self._check_reachable()
        file = self.file or f"{artifact.manifest.name}{SUFFIX}"
        try:
            done = HfApi().upload_file(
                path_or_fileobj=artifact.path,
                path_in_repo=file,
                repo_id=self.repository,
                repo_type=self.repo_type,
                revision=self.revision,
                commit_message=f"{artifact.manifest.name}: sha256:{artifact.digest}",
            )
        except Exception as error:  # as above
            raise _hub_error(self.reference, error) from error
        kind = "datasets/" if self.repo_type == "dataset" else ""
        return f"hf://{kind}{self.repository}@{done.oid}/{file}"

    def _check_reachable(self) -> None:
        if hub.go_offline_if_unreachable():
            raise not_reached(self.reference, f"{hub.endpoint()} does not answer")

    def _only_artifact(self) -> str:
        found = [name for name in self._files if name.endswith(SUFFIX)]
        if len(found) == 1:
            return found[0]
        if found:
            raise SharingError.of(
                "S407",
                f"there are {len(found)} artifacts at {self.reference}",
                why=f"they are {', '.join(found[:5])}",
                fix=f"name one of them: {self.reference}/{found[0]}",
            )
        recipes = [name for name in self._files if name.endswith((".yaml", ".yml"))]
        raise SharingError.of(
            "S404",
            f"there is no artifact at {self.reference}",
            why=f"its recipes are {', '.join(recipes[:5])}" if recipes else f"no file ends in {SUFFIX}",
            fix=f"name one of them: {self.reference}/{recipes[0]}" if recipes else "check the name of the repository",
        )


def _hub_error(reference: str, error: Exception) -> SharingError | OSError:
    """The error of a person's mistake, by the class and the status of the library's exception."""
    if isinstance(error, OSError) and is_no_space(error):
        return error
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    why = in_one_line(error)
    if "LocalEntryNotFoundError" in names:  # the file is neither here nor was the hub reached
        return not_reached(reference, why)
    if "GatedRepoError" in names or status == 403 or (status == 401 and "RepositoryNotFoundError" not in names):
        return SharingError.of(
            "S403",
            f"the hub refuses access to {reference}",
            why=why,
            fix="log in with `hf auth login`, and ask for access on the page of the repository",
        )
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"} or status == 404:
        return SharingError.of(
            "S404",
            f"there is no {reference}",
            why=why,
            fix="check the name, the revision and the file; a private repository needs `hf auth login`",
        )
    return not_reached(reference, why)
