"""A small server with the part of the Hugging Face hub's protocol that loading models and datasets requires."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _listing(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": _digest(path)}
        for path in files
    ]


LFS_SUFFIXES = (".safetensors", ".parquet", ".gguf")
"""Files of which the metadata of a repository have the SHA-256, as the hub has for large files."""


def _siblings(folder: Path) -> list[dict[str, Any]]:
    siblings = []
    for entry in _listing(folder):
        sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"][:40]}
        if entry["path"].endswith(LFS_SUFFIXES):
            sibling["lfs"] = {"sha256": entry["oid"], "size": entry["size"], "pointerSize": 130}
        siblings.append(sibling)
    return siblings


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Hub(ThreadingHTTPServer):
    """The served folders, and the requests so far."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []
        self.missing_revisions: set[str] = set()
        self.gated: set[str] = set()
        """Repositories, such as `models/someone/tiny`, whose files only some people may read."""
        self.commit = COMMIT
        """What `main` is now. Earlier commits have the same files."""
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> _Hub:
        return cast(_Hub, self.server)

    def do_HEAD(self) -> None:
        self._answer(*self._find(), with_body=False)

    def do_GET(self) -> None:
        self._answer(*self._find(), with_body=True)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        for served, folder in self.hub.repositories.items():
            if (uploaded := _upload(unquote(self.path), f"/api/{served}", folder, asked)) is not None:
                self._answer(200, uploaded, "", with_body=True)
                return
        self._answer(*self._find(asked), with_body=True)

    def _find(self, asked: str = "") -> tuple[int, bytes, str]:
        path = unquote(self.path.partition("?")[0]).strip("/")
        self.hub.requests.append(path)
        for served, folder in self.hub.repositories.items():
            kind, _, repository = served.partition("/")
            files = f"{repository}/resolve/" if kind == "models" else f"{served}/resolve/"
            if path.startswith(files):
                revision, _, name = path.removeprefix(files).partition("/")
                if revision in self.hub.missing_revisions:
                    return 404, b"", "RevisionNotFound"
                if served in self.hub.gated:
                    return 403, b"", "GatedRepo"
                file = folder / name
                return (200, file.read_bytes(), "") if file.is_file() else (404, b"", "EntryNotFound")
            if path == f"api/{served}" or path.startswith(f"api/{served}/"):
                what = path.removeprefix(f"api/{served}").strip("/")
                revision = what.partition("/")[2].partition("/")[0]
                if revision in self.hub.missing_revisions:
                    return 404, b"", "RevisionNotFound"
                commit = revision if len(revision) == len(COMMIT) else self.hub.commit
                return _describe(what, repository, folder, asked, commit)
        return 404, b"", "RepoNotFound"

    def _answer(self, status: int, body: bytes, error: str, *, with_body: bool) -> None:
        start, total, whole = 0, len(body), body
        if status == 200 and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or total - 1)
            status, body = 206, body[start : end + 1]
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", self._commit())
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _commit(self) -> str:
        """The commit in the address, or else that of `main`."""
        named = [part for part in self.path.partition("?")[0].split("/") if re.fullmatch("[0-9a-f]{40}", part)]
        return named[0] if named else self.hub.commit

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _describe(what: str, repository: str, folder: Path, asked: str, commit: str) -> tuple[int, bytes, str]:
    listing = _listing(folder)
    if what.startswith("paths-info"):
        listing = [entry for entry in listing if entry["path"] in unquote(asked)]
    if what.startswith(("tree", "paths-info")):
        return 200, json.dumps(listing).encode(), ""
    if what == "" or what.startswith("revision"):
        siblings = _siblings(folder)
        description = {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        return 200, json.dumps(description).encode(), ""
    return 404, b"", "EntryNotFound"


def _upload(path: str, repository: str, folder: Path, asked: str) -> bytes | None:
    """The answer to an upload, whose files are written to the folder; None if the request is no upload."""
    if path.startswith(f"{repository}/preupload/"):
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(asked)["files"]
        ]
        return json.dumps({"files": files}).encode()
    if not path.startswith(f"{repository}/commit/"):
        return None
    for line in map(json.loads, asked.splitlines()):
        if line["key"] == "file":
            (folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
    return json.dumps({"commitUrl": f"http://127.0.0.1/x/y/commit/{COMMIT}", "commitOid": COMMIT}).encode()


@contextmanager
def serve_hub(repositories: Mapping[str, Path]) -> Iterator[_Hub]:
    """Serve folders under names such as `models/someone/tiny` or `datasets/someone/pairs`; everything else is a 404."""
    with _Hub(repositories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def hub_environment(server: ThreadingHTTPServer, home: Path) -> dict[str, str]:
    """Environment variables that direct huggingface_hub to the server, with a separate cache."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
