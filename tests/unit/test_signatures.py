"""Signatures with SSH keys: who has signed is shown, a wrong signature is refused, and trust comes from a file."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostile import build, good_files, manifest_of, member
from typer.testing import CliRunner

from dpo_recipes.artifacts.references import find
from dpo_recipes.artifacts.signature import NAMESPACE, Signer, find_signer, sign
from dpo_recipes.artifacts.verify import verify
from dpo_recipes.cli import app
from dpo_recipes.errors import SharingError

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


def _make_key(folder: Path, name: str) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return folder / name


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The private keys of two people."""
    folder = tmp_path_factory.mktemp("keys")
    return _make_key(folder, "anna"), _make_key(folder, "eve")


def _allowed(folder: Path, key: Path, options: str = "") -> Path:
    """An allowed signers file with one key."""
    public = key.with_suffix(".pub").read_text().rpartition(" ")[0]
    path = folder / "allowed_signers"
    path.write_text(f"anna@example.org {options}{public}\n")
    return path


def _signed(folder: Path, signature: bytes, **changes: Any) -> Path:
    path = folder / "signed.recipe.tar"
    path.write_bytes(build(extra=member("signature.ssh", signature), **changes))
    return path


def _signer(path: Path, allowed: Path | None = None) -> Signer:
    artifact = verify(path)
    return find_signer(artifact.manifest_bytes, artifact.signature, allowed, str(path))


def test_a_signer_is_trusted_through_the_file_of_allowed_signers(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, eve = keys
    path = _signed(tmp_path, sign(manifest_of(good_files()), anna))
    trusted = _signer(path, _allowed(tmp_path, anna))
    assert (trusted.state, trusted.name) == ("trusted", "anna@example.org")
    assert trusted.key is not None
    assert trusted.key.startswith("SHA256:")
    assert _signer(path) == Signer("unknown", None, trusted.key)
    assert _signer(path, _allowed(tmp_path, eve)).state == "unknown"
    assert _signer(path, _allowed(tmp_path, anna, 'namespaces="git" ')).state == "unknown"
    monkeypatch.setenv("DPO_RECIPE_ALLOWED_SIGNERS", str(_allowed(tmp_path, anna, f'namespaces="{NAMESPACE}" ')))
    assert _signer(path).state == "trusted"


@pytest.mark.parametrize("fault", ["other_content", "other_namespace", "no_signature", "too_long"])
def test_a_wrong_signature_is_refused_wherever_the_artifact_is_used(
    fault: str, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    content = manifest_of(good_files())
    signatures = {
        "other_content": lambda: sign(content + b" ", keys[0]),
        "other_namespace": lambda: _sign_as(content, keys[0], "git", tmp_path),
        "no_signature": lambda: b"-----BEGIN SSH SIGNATURE-----\n",
        "too_long": lambda: sign(content, keys[0]) + b"\n" * 30_000,
    }
    path = _signed(tmp_path, signatures[fault]())
    with pytest.raises(SharingError, match="S314"):
        find(str(path))


def _sign_as(content: bytes, key: Path, namespace: str, folder: Path) -> bytes:
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


def test_pack_signs_and_verify_can_demand_it(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (_, content) in good_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    anna, eve = keys
    digests = set()
    for target in ("one.recipe.tar", "two.recipe.tar"):
        packed = _run("pack", "recipe/recipe.yaml", "-o", target, "--sign", str(anna), "--json")
        digests.add(json.loads(packed.stdout)["digest"])
    assert len(digests) == 1  # signed by the same key, the same bytes
    allowed = str(_allowed(tmp_path, anna))
    verified = _run("verify", "one.recipe.tar", "--allowed-signers", allowed, "--require-signature")
    assert "signer    signed by anna@example.org (SHA256:" in verified.stdout
    inspected = _run("inspect", "one.recipe.tar", "--json")
    assert json.loads(inspected.stdout)["artifact"]["signer"]["state"] == "unknown"
    other = _run("verify", "one.recipe.tar", "--allowed-signers", str(_allowed(tmp_path, eve)), "--require-signature")
    assert "S315" in str(other.exception)
    _run("pack", "recipe/recipe.yaml", "-o", "unsigned.recipe.tar")
    unsigned = _run("verify", "unsigned.recipe.tar", "--require-signature")
    assert "it is not signed" in str(unsigned.exception)
    gone = _run("verify", "one.recipe.tar", "--allowed-signers", "gone")
    assert "the allowed signers file gone cannot be read" in str(gone.exception)


def test_a_key_that_cannot_sign_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SharingError, match="S208") as raised:
        sign(b"x", tmp_path / "no_key")
    assert "No such file" in str(raised.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SharingError, match="ssh-keygen is not installed"):
        sign(b"x", tmp_path / "no_key")


def test_without_ssh_keygen_a_signature_is_not_called_good(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _signed(tmp_path, sign(manifest_of(good_files()), keys[0]))
    monkeypatch.setenv("PATH", str(tmp_path))
    signer = _signer(path)
    assert signer.state == "unchecked"
    assert "ssh-keygen is not installed here to check it" in str(signer)


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))
