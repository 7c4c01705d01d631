"""A base model from a server that speaks the hub's protocol: downloaded once, then used without a network."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny import recipe_text, write_pairs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny"


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[ThreadingHTTPServer]:
    """Serves the tiny model as `someone/tiny`; everything else is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            prefix = f"/{REPOSITORY}/resolve/"
            file = tiny_model / path.removeprefix(prefix).partition("/")[2]
            if path == f"/api/models/{REPOSITORY}" or path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                names = [{"rfilename": child.name} for child in tiny_model.iterdir()]
                body, found = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": names}).encode(), True
            else:
                found = path.startswith(prefix) and file.is_file()
                body = file.read_bytes() if found else b""
            self.send_response(200 if found else 404)
            if not found:
                known = REPOSITORY in path
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_hub_model_is_downloaded_once_and_pinned(
    command: Callable[..., object], hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "hub.yaml").write_text(recipe_text(REPOSITORY, "pairs.jsonl"), encoding="utf-8")
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    first = command("run", "hub.yaml", "--json", env=environment)
    assert first.returncode == 0, first.stderr  # type: ignore[attr-defined]
    result = json.loads(first.stdout)  # type: ignore[attr-defined]
    assert result["model"]["revision"] == COMMIT
    assert f"base_model: {REPOSITORY}" in (Path(result["model_dir"]) / "README.md").read_text()
    hub.shutdown()
    hub.server_close()
    second = command("run", "hub.yaml", "--json", env=environment)
    assert second.returncode == 0, second.stderr  # type: ignore[attr-defined]


def test_a_model_that_the_hub_does_not_know(
    command: Callable[..., object], hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "hub.yaml").write_text(recipe_text("someone/other", "pairs.jsonl"), encoding="utf-8")
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = command("run", "hub.yaml", env=environment)
    assert done.returncode == 6  # type: ignore[attr-defined]
    assert "error[M509]" in done.stderr  # type: ignore[attr-defined]
    assert "Traceback" not in done.stderr  # type: ignore[attr-defined]
