"""Signatures with SSH keys, by `ssh-keygen -Y` (OpenSSH 8.1 or newer).

The manifest is signed, which has the hash of every other file. People have such keys already, and an allowed signers
file (ssh-keygen(1), ALLOWED SIGNERS) says whose they are; git uses the same file for commits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo_recipes.errors import SharingError

NAMESPACE = "dpo-recipe"
ALLOWED_SIGNERS = "DPO_RECIPE_ALLOWED_SIGNERS"
"""The environment variable with the path of the file that says whose keys are trusted."""
_TIMEOUT_S = 60
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

State = Literal["unsigned", "trusted", "unknown", "unchecked"]


@dataclass(frozen=True)
class Signer:
    """Who has signed an artifact, as far as this machine can tell."""

    state: State
    """`trusted`: by a key of the allowed signers file. `unknown`: by another key. `unchecked`: there is no ssh-keygen
    here."""
    name: str | None = None
    """The name that the allowed signers file gives to the key."""
    key: str | None = None
    """The fingerprint of the key."""

    def to_json(self) -> dict[str, Any]:
        """The signer as plain data."""
        return {"state": self.state, "name": self.name, "key": self.key}

    def __str__(self) -> str:
        return {
            "unsigned": "not signed",
            "trusted": f"signed by {self.name} ({self.key})",
            "unknown": f"signed by an unknown key ({self.key})",
            "unchecked": "signed, but ssh-keygen is not installed here to check it",
        }[self.state]


def sign(content: bytes, key: Path) -> bytes:
    """The signature of a content by a private key, or by an agent that has the key of a public one.

    Raises `SharingError` S208. ssh-keygen asks for a passphrase on the terminal itself.
    """
    program = _ssh_keygen()
    if program is None:
        raise _not_signed(key, "ssh-keygen is not installed; it is part of OpenSSH")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest"
        file.write_bytes(content)
        command = [program, "-Y", "sign", "-f", str(key.expanduser()), "-n", NAMESPACE, str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        signature = Path(folder) / "manifest.sig"
        if done.returncode or not signature.is_file():
            raise _not_signed(key, _last_line(done.stderr))
        return signature.read_bytes()


def find_signer(content: bytes, signature: bytes | None, allowed: Path | None, shown: str) -> Signer:
    """Who has signed a content. `allowed` is an allowed signers file; without one, that of the environment is used.

    Raises `SharingError` S314 (the signature is not one of this content) and S315 (the allowed signers file cannot be
    read).
    """
    if signature is None:
        return Signer("unsigned")
    program = _ssh_keygen()
    if program is None:
        return Signer("unchecked")
    allowed = allowed or _allowed_of_environment()
    if allowed is not None and not os.access(allowed, os.R_OK):
        raise SharingError.of(
            "S315",
            f"the allowed signers file {allowed} cannot be read",
            why="without it, nothing is known of the keys of signers",
            fix=f"correct `--allowed-signers` or {ALLOWED_SIGNERS}; ssh-keygen(1) describes the file",
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        key = _check(program, file, content, shown)
        name = _principal(program, file, content, allowed) if allowed else None
    return Signer("trusted", name, key) if name else Signer("unknown", None, key)


def check_signature(content: bytes, signature: bytes, shown: str) -> None:
    """Raise `SharingError` S314 if a signature is not one of a content, as far as this machine can tell."""
    program = _ssh_keygen()
    if program is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "signature"
            file.write_bytes(signature)
            _check(program, file, content, shown)


def require_trusted(signer: Signer, shown: str) -> None:
    """Raise `SharingError` S315 unless a trusted key has signed."""
    if signer.state != "trusted":
        raise SharingError.of(
            "S315",
            f"{shown} is not signed by a trusted key",
            why=f"it is {signer}",
            fix=f"add its author's key to the file of `--allowed-signers` or {ALLOWED_SIGNERS}, if you know the author",
        )


def _check(program: str, signature: Path, content: bytes, shown: str) -> str:
    """The fingerprint of the key that has made a signature of a content."""
    done = _run([program, "-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)], content)
    fingerprint = _FINGERPRINT.search(done.stdout)
    if done.returncode or fingerprint is None:
        raise SharingError.of(
            "S314",
            f"the signature of {shown} is wrong",
            why=_last_line(done.stderr + done.stdout),
            fix="do not use it; it was changed after it was signed, or signed for another purpose",
        )
    return fingerprint[0]


def _principal(program: str, signature: Path, content: bytes, allowed: Path) -> str | None:
    """The name under which an allowed signers file has the key of a signature, if the key may sign artifacts."""
    found = _run([program, "-Y", "find-principals", "-s", str(signature), "-f", str(allowed)], b"")
    for name in found.stdout.splitlines() if found.returncode == 0 else ():
        options = ["-f", str(allowed), "-I", name, "-n", NAMESPACE, "-s", str(signature)]
        if _run([program, "-Y", "verify", *options], content).returncode == 0:
            return name
    return None


def _run(command: list[str], content: bytes) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, input=content, capture_output=True, timeout=_TIMEOUT_S)
    texts = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(command, done.returncode, *texts)


def _ssh_keygen() -> str | None:
    return shutil.which("ssh-keygen")


def _allowed_of_environment() -> Path | None:
    given = os.environ.get(ALLOWED_SIGNERS)
    return Path(given).expanduser() if given else None


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "ssh-keygen gave no reason"


def _not_signed(key: Path, why: str) -> SharingError:
    return SharingError.of(
        "S208", f"cannot sign with {key}", why=why, fix="name a private SSH key, such as ~/.ssh/id_ed25519"
    )
