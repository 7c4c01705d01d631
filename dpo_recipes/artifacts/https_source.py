"""Artifacts and recipes behind an address with their SHA-256: `https://host/file#sha256=<64 digits>`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from dpo_recipes.artifacts.http import check_status, download, request
from dpo_recipes.errors import SharingError
from dpo_recipes.recipe.paths import url_file_name

_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")


class HttpsSource:
    """One address. The digest makes it safe to fetch from any server, and nothing to ask for twice."""

    is_pinned = True

    def __init__(self, reference: str) -> None:
        """Raises `SharingError` S401 if the digest is missing."""
        self.reference = reference
        self.url, fragment = urldefrag(reference)
        found = _FRAGMENT.fullmatch(fragment)
        if found is None or not urlsplit(self.url).hostname:
            raise SharingError.of(
                "S401",
                f"{reference} has no digest",
                why="what is behind an address can change at any time",
                fix=f"write {self.url}#sha256=DIGEST, with the 64 digits that `sha256sum FILE` prints",
            )
        self.sha256 = found[1]

    def find_version(self) -> str:
        """The digest."""
        return self.sha256

    def fetch(self, version: str, folder: Path) -> Path:
        """Download the file. Raises `SharingError` S402 to S406."""
        shown = self.url
        with request("GET", self.url, shown, stream=True) as response:
            check_status(response, shown)
            target = folder / (url_file_name(self.url) or "artifact")
            download(response, target, version, shown)
        return target
