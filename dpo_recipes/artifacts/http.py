"""HTTP with the library requests: errors that a person understands, and downloads that are checked as they arrive."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dpo_recipes import __version__
from dpo_recipes.artifacts.container import MAX_BYTES, too_large
from dpo_recipes.errors import SharingError

if TYPE_CHECKING:
    import requests

_CONNECT_S, _READ_S = 10, 60
_HERE = ("localhost", "127.0.0.1", "::1")


def is_here(host: str) -> bool:
    """Whether a host, with or without a port, is this machine, where HTTP without encryption is safe."""
    return (urlsplit(f"//{host}").hostname or "") in _HERE


def request(method: str, url: str, shown: str, session: requests.Session | None = None, **options: Any) -> Any:
    """The response to a request, whatever its status. `shown` is the reference in errors.

    Raises `SharingError` S402 if there is no answer.
    """
    import requests

    ask = (session or requests).request
    options.setdefault("headers", {}).setdefault("User-Agent", f"dpo-recipe/{__version__}")
    try:
        return ask(method, url, timeout=(_CONNECT_S, _READ_S), **options)
    except requests.RequestException as error:
        raise not_reached(shown, _reason(error)) from error


def check_status(response: Any, shown: str) -> None:
    """Raise `SharingError` S402 (the server fails), S403 (it refuses) or S404 (it has no such thing)."""
    status, host = response.status_code, urlsplit(response.url).netloc
    if status < 400:
        return
    if status in (401, 403):
        raise SharingError.of(
            "S403",
            f"{host} refuses access to {shown}",
            why=f"it answers {status} {response.reason}",
            fix="log in as docs/sharing.md says (`docker login` for a registry, `hf auth login` for the hub), and "
            "check that your account may read or write this",
        )
    if status in (404, 410):
        raise not_there(shown, f"{host} answers {status} {response.reason}")
    raise not_reached(shown, f"{host} answers {status} {response.reason}")


def download(response: Any, target: Path, sha256: str | None, shown: str) -> None:
    """Write the body of a response to a file.

    Raises `SharingError` S305 (too large), S405 (its SHA-256 is another one), S406 (incomplete), and `OSError`.
    """
    import requests

    digest, num_bytes = hashlib.sha256(), 0
    expected = response.headers.get("Content-Length")
    try:
        with target.open("wb") as file:
            for chunk in response.iter_content(2**20):
                num_bytes += len(chunk)
                if num_bytes > MAX_BYTES:
                    raise too_large(shown, f"it has more than {MAX_BYTES / 2**30:.0f} GiB")
                digest.update(chunk)
                file.write(chunk)
    except requests.RequestException as error:
        raise incomplete(shown, response.raw.tell(), expected) from error
    if expected is not None and not response.headers.get("Content-Encoding") and num_bytes < int(expected):
        raise incomplete(shown, num_bytes, expected)
    check_digest(digest.hexdigest(), sha256, shown)


def check_digest(found: str, expected: str | None, shown: str) -> None:
    """Raise `SharingError` S405 if the SHA-256 of something is not the expected one."""
    if expected is not None and found != expected:
        raise SharingError.of(
            "S405",
            f"{shown} is not what it should be",
            why=f"its SHA-256 is {found}, and {expected} was expected",
            fix="do not use it; the server or something on the way has changed it. Ask its author for the digest",
        )


def not_reached(shown: str, why: str) -> SharingError:
    """S402: nobody answers."""
    return SharingError.of(
        "S402",
        f"cannot reach {shown}",
        why=why,
        fix="check the address and the network; what was fetched before is used without a network",
    )


def not_there(shown: str, why: str) -> SharingError:
    """S404: the server has no such thing."""
    return SharingError.of(
        "S404",
        f"there is no {shown}",
        why=why,
        fix="check the name and the tag; private things also look absent without a login",
    )


def incomplete(shown: str, num_bytes: int, expected: str | int | None) -> SharingError:
    """S406: a download has ended too early."""
    of = f" of {int(expected):,}" if expected else ""
    return SharingError.of(
        "S406",
        f"the download of {shown} has ended too early",
        why=f"{num_bytes:,}{of} bytes have arrived",
        fix="run the command again; nothing of it was kept",
    )


def _reason(error: Exception) -> str:
    """The innermost reason, without addresses of Python objects."""
    text = str(error)
    for marker in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if marker in text:
            return marker.lower()
    return f"{type(error).__name__}: {text.partition('(Caused by')[0].strip() or 'no message'}"[:200]
