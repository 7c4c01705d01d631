"""Talks to OCI registries (https://github.com/opencontainers/distribution-spec, version 1.1), manifests and blobs."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from dpo_recipes.artifacts.docker_credentials import Login, find_login
from dpo_recipes.artifacts.http import (
    check_digest,
    check_status,
    download,
    incomplete,
    is_here,
    not_reached,
    not_there,
    request,
)
from dpo_recipes.errors import SharingError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = ", ".join([OCI_MANIFEST, OCI_INDEX, "application/vnd.docker.distribution.manifest.v2+json"])
_MAX_MANIFEST_BYTES = 4_000_000
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_API_HOSTS = {"docker.io": "registry-1.docker.io"}
"""Registries whose interface is at another host than their name says."""


class RegistryClient:
    """One repository of a registry."""

    def __init__(self, host: str, repository: str, shown: str) -> None:
        """`shown` is the reference in errors. On this machine HTTP is used, as docker does it."""
        import requests

        self._host, self._repository, self._shown = host, repository, shown
        self._base = f"{'http' if is_here(host) else 'https'}://{_API_HOSTS.get(host, host)}"
        self._session = requests.Session()
        self._authorization: str | None = None

    def read_manifest(self, reference: str) -> tuple[str, bytes]:
        """The digest and the content of the manifest that a tag or digest names.

        Raises `SharingError` S402 to S406; S405 also if the registry says another digest than the content has.
        """
        found = self._read_manifest(reference)
        if found is None:
            raise not_there(self._shown, f"{self._host} has no such name or tag")
        return found

    def find_digest(self, tag: str) -> str | None:
        """The digest to which a tag leads; None if there is no such tag. Raises `SharingError` S402, S403, S405."""
        found = self._read_manifest(tag)
        return None if found is None else found[0]

    def _read_manifest(self, reference: str) -> tuple[str, bytes] | None:
        with self._ask("GET", self._url("manifests", reference), headers={"Accept": _ACCEPT}, stream=True) as response:
            if response.status_code == 404:
                return None
            check_status(response, self._shown)
            content = self._read_small(response)
            promised = response.headers.get("Docker-Content-Digest", "").removeprefix("sha256:") or None
        digest = hashlib.sha256(content).hexdigest()
        expected = reference.removeprefix("sha256:") if reference.startswith("sha256:") else None
        for each in (expected, promised):
            check_digest(digest, each, f"the manifest of {self._shown}")
        return f"sha256:{digest}", content

    def read_blob(self, digest: str, num_bytes: int, target: Path) -> None:
        """Download a blob. Raises `SharingError` S402 to S406 and `OSError`."""
        with self._ask("GET", self._url("blobs", digest), stream=True) as response:
            check_status(response, self._shown)
            download(response, target, digest.removeprefix("sha256:"), self._shown)
        found = target.stat().st_size
        if found != num_bytes:
            raise incomplete(self._shown, found, num_bytes)

    def write_blob(self, content: IO[bytes], digest: str, num_bytes: int) -> None:
        """Upload a blob, unless the registry has it. Raises `SharingError` S402, S403, S404 and S411."""
        if self._ask("HEAD", self._url("blobs", digest)).status_code == 200:
            return
        begun = self._ask("POST", self._url("blobs", "uploads/"), headers={"Content-Length": "0"})
        check_status(begun, self._shown)
        place = urljoin(begun.url, begun.headers.get("Location", ""))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(num_bytes)}
        done = self._ask("PUT", place, params={"digest": digest}, data=content, headers=headers)
        self._check_stored(done)

    def write_manifest(self, tag: str, content: bytes) -> str:
        """Upload a manifest under a tag and return its digest. Raises `SharingError` S402, S403, S404, S405, S411."""
        done = self._ask("PUT", self._url("manifests", tag), data=content, headers={"Content-Type": OCI_MANIFEST})
        self._check_stored(done)
        digest = hashlib.sha256(content).hexdigest()
        promised = done.headers.get("Docker-Content-Digest", "").removeprefix("sha256:") or None
        check_digest(digest, promised, f"the manifest of {self._shown}")
        return f"sha256:{digest}"

    def _check_stored(self, response: Any) -> None:
        if response.status_code in (400, 405, 413, 415, 416, 422, 507):
            raise SharingError.of(
                "S411",
                f"{self._host} does not store {self._shown}",
                why=f"it answers {response.status_code} {response.reason}: {response.text[:200].strip()}",
                fix="check that it is an OCI registry that takes artifacts of this size and type",
            )
        check_status(response, self._shown)

    def _url(self, kind: str, name: str) -> str:
        return f"{self._base}/v2/{self._repository}/{kind}/{name}"

    def _ask(self, method: str, url: str, **options: Any) -> Any:
        """A request, and once more with a login if the registry wants one."""
        response = self._send(method, url, options)
        if response.status_code != 401 or not self._authenticate(response, writes=method in ("POST", "PUT")):
            return response
        if hasattr(options.get("data"), "seek"):
            options["data"].seek(0)
        response.close()
        return self._send(method, url, options)

    def _send(self, method: str, url: str, options: dict[str, Any]) -> Any:
        is_ours = self._authorization is not None and urlsplit(url).netloc == urlsplit(self._base).netloc
        # As `auth`, because requests would replace a header by what ~/.netrc has for the host.
        auth = _Authorization(self._authorization) if is_ours and self._authorization else None
        return request(method, url, self._shown, self._session, auth=auth, **options)

    def _authenticate(self, response: Any, *, writes: bool) -> bool:
        """Answer a registry that wants a login. Returns whether it is worth asking again."""
        challenge = response.headers.get("WWW-Authenticate", "")
        kind, _, rest = challenge.partition(" ")
        login = find_login(self._host)
        if kind.lower() == "basic" and login is not None and self._authorization is None:
            self._authorization = _basic(login)
            return True
        if kind.lower() != "bearer":
            return False
        before = self._authorization
        self._authorization = f"Bearer {self._find_token(dict(_PARAMETER.findall(rest)), login, writes=writes)}"
        return self._authorization != before

    def _find_token(self, challenge: dict[str, str], login: Login | None, *, writes: bool) -> str:
        """A token for this repository from the service that the registry names."""
        realm = challenge.get("realm", "")
        scope = f"repository:{self._repository}:{'pull,push' if writes else 'pull'}"
        wanted = {"scope": scope, **({"service": challenge["service"]} if "service" in challenge else {})}
        parts = urlsplit(realm)
        if parts.scheme != "https" and not is_here(parts.netloc):
            raise not_reached(self._shown, f"{self._host} wants a login at {realm}, which is not encrypted")
        if login is not None and login.is_identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.password, "client_id": "dpo-recipe", **wanted}
            response = request("POST", realm, self._shown, data=form)
        else:
            auth = _Authorization(_basic(login)) if login is not None else None
            response = request("GET", realm, self._shown, params=wanted, auth=auth)
        check_status(response, self._shown)
        try:
            answer = response.json()
            return answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise not_reached(self._shown, f"the login service {parts.netloc} gives no token") from error

    def _read_small(self, response: Any) -> bytes:
        content = b"".join(response.iter_content(2**16)) if self._is_small(response) else b""
        if not content or len(content) > _MAX_MANIFEST_BYTES:
            raise not_reached(self._shown, f"{self._host} sends no manifest of a usual size")
        return content

    def _is_small(self, response: Any) -> bool:
        return int(response.headers.get("Content-Length") or 0) <= _MAX_MANIFEST_BYTES


class _Authorization:
    """Sets the header of a request."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, prepared: Any) -> Any:
        prepared.headers["Authorization"] = self._value
        return prepared


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
