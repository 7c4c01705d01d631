"""Logins of container registries, as `docker login` and `podman login` store them. Nothing is asked or stored here."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_DOCKER_HUB = "https://index.docker.io/v1/"
"""The key under which `docker login` stores the login of docker.io."""
_HELPER = re.compile(r"[A-Za-z0-9][\w.-]*")
_TIMEOUT_S = 30


class Login(NamedTuple):
    """A user with a password, or a token that is exchanged for others."""

    user: str
    password: str
    is_identity_token: bool = False


def find_login(host: str) -> Login | None:
    """The stored login of a registry; None if there is none."""
    for config in _configs():
        login = _from_helper(config, host) or _from_file(config, host)
        if login is not None:
            return login
    return None


def _configs() -> Iterator[dict[str, Any]]:
    folder = os.environ.get("DOCKER_CONFIG")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    paths = [
        os.environ.get("REGISTRY_AUTH_FILE"),
        Path(folder) / "config.json" if folder else Path.home() / ".docker" / "config.json",
        Path(runtime) / "containers" / "auth.json" if runtime else None,
    ]
    for path in paths:
        if path is None:
            continue
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            yield config


def _from_helper(config: dict[str, Any], host: str) -> Login | None:
    """The login that a program such as docker-credential-pass gives."""
    helpers = config.get("credHelpers")
    name = helpers.get(host) if isinstance(helpers, dict) else None
    name = name or config.get("credsStore")
    program = shutil.which(f"docker-credential-{name}") if _HELPER.fullmatch(str(name or "")) else None
    if program is None:
        return None
    asked = _DOCKER_HUB if host == "docker.io" else host
    try:
        done = subprocess.run([program, "get"], input=asked, capture_output=True, text=True, timeout=_TIMEOUT_S)
        found = json.loads(done.stdout)
        user, secret = found["Username"], found["Secret"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return Login(user, secret, is_identity_token=user == "<token>")


def _from_file(config: dict[str, Any], host: str) -> Login | None:
    logins = config.get("auths")
    names = [host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    names += [_DOCKER_HUB] if host == "docker.io" else []
    for name in names:
        entry = logins.get(name) if isinstance(logins, dict) else None
        if not isinstance(entry, dict):
            continue
        if entry.get("identitytoken"):
            return Login("<token>", entry["identitytoken"], is_identity_token=True)
        try:
            user, separator, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError):
            continue
        if separator:
            return Login(user, password)
    return None
