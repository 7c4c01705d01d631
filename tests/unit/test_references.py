"""References: fetched once, verified, and every way in which a server can fail or lie."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_servers import PASSWORD, USER, Answer, docker_registry, host_of, make_certificate, scripted_server
from hostile import RECIPE, build, good_files, with_file
from hub_server import COMMIT, serve_hub
from typer.testing import CliRunner

from dpo_recipes import hub as hub_access
from dpo_recipes.artifacts import store
from dpo_recipes.artifacts.oci_source import LAYER_TYPE, OciSource
from dpo_recipes.artifacts.origin import noting_origin, read_origin
from dpo_recipes.artifacts.pack import PackOptions, pack
from dpo_recipes.artifacts.publish import publish
from dpo_recipes.artifacts.references import find, find_artifact
from dpo_recipes.artifacts.registry_client import OCI_MANIFEST
from dpo_recipes.artifacts.verify import verify
from dpo_recipes.cli import app
from dpo_recipes.cli import evaluate as evaluate_command
from dpo_recipes.errors import SharingError
from dpo_recipes.run_dir import RunDirectory

OTHER = with_file("recipe/data/pairs.jsonl", "data", b'{"prompt": "x", "chosen": "y", "rejected": "z"}\n')


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "good.recipe.tar"
    path.write_bytes(build())
    return path


def _code(reference: str) -> tuple[str, str]:
    with pytest.raises(SharingError) as raised:
        find(reference)
    return raised.value.findings[0].code, str(raised.value)


def _empty_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As on another machine."""
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(folder))


def test_a_pushed_artifact_is_pulled_from_a_real_registry(
    registry: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = publish(verify(artifact), f"oci://{registry}/team/good:v1")
    assert pinned.startswith(f"oci://{registry}/team/good:v1@sha256:")
    assert publish(verify(artifact), f"oci://{registry}/team/good:v1") == pinned  # the same again is nothing new
    _empty_cache(monkeypatch, tmp_path / "elsewhere")
    found = find(pinned)
    assert found.artifact is not None
    assert found.artifact.path.read_bytes() == artifact.read_bytes()
    assert found.is_new_here
    assert found.path.read_text() == RECIPE


def test_a_registry_shows_what_the_artifact_is(registry: str, artifact: Path) -> None:
    source = OciSource(f"oci://{registry}/team/shown:v1")
    source.push(verify(artifact), may_move=False)
    source.find_version()
    assert source._manifest is not None
    manifest = json.loads(source._manifest)
    assert manifest["artifactType"] == "application/vnd.dpo-recipe.artifact.v1"
    assert manifest["layers"][0]["mediaType"] == LAYER_TYPE
    assert manifest["annotations"]["org.opencontainers.image.title"] == "good"


def test_a_pinned_reference_needs_no_network_the_second_time(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker_registry(tmp_path / "registry") as host:
        pinned = publish(verify(artifact), f"oci://{host}/good:v1")
        _empty_cache(monkeypatch, tmp_path / "elsewhere")
        find(pinned)
        find(f"oci://{host}/good:v1")
    assert find(pinned).artifact is not None
    notes: list[str] = []
    assert find(f"oci://{host}/good:v1", notes.append).artifact is not None
    assert "cannot be reached; using what it was on" in notes[0]
    code, text = _code(f"oci://{host}/good:v2")
    assert code == "S402"
    assert "connection refused" in text
    assert "check the address and the network" in text


def test_a_tag_that_has_moved_is_reported_and_asked_about_again(
    registry: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = f"oci://{registry}/team/moving:v1"
    publish(verify(artifact), reference)
    _empty_cache(monkeypatch, tmp_path / "elsewhere")
    first = find_artifact(reference)
    store.allow(first.digest)
    artifact.write_bytes(OTHER)
    with pytest.raises(SharingError, match="S412") as raised:
        publish(verify(artifact), reference)
    assert "--move-tag" in str(raised.value)
    publish(verify(artifact), reference, may_move=True)
    notes: list[str] = []
    found = find(reference, notes.append)
    assert found.is_new_here
    assert notes == [
        f"{reference} has moved: it was sha256:{first.digest} on {store.last_known(reference).seen} and is "  # type: ignore[union-attr]
        f"sha256:{hashlib.sha256(OTHER).hexdigest()} now"
    ]
    assert find(reference, notes.append).path.parent.joinpath("data/pairs.jsonl").read_bytes().endswith(b'"z"}\n')
    assert len(notes) == 1


def test_what_is_no_recipe_or_not_there_is_said(registry: str) -> None:
    assert _code(f"oci://{registry}/team/nothing:v1")[0] == "S404"
    for wrong in ("oci://host", "oci://host/UPPER:v1", "oci://host/a:v1@sha256:123", "oci://host/../a:v1"):
        assert _code(wrong)[0] == "S401", wrong


def test_a_registry_that_wants_a_login(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with docker_registry(tmp_path / "registry", with_login=True) as host:
        reference = f"oci://{host}/good:v1"
        with pytest.raises(SharingError, match="S403") as raised:
            publish(verify(artifact), reference)
        assert "docker login" in str(raised.value)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password wrong\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # which requests would prefer
        pinned = publish(verify(artifact), reference)
        _empty_cache(monkeypatch, tmp_path / "elsewhere")
        assert find(pinned).artifact is not None
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": login[:-4] + "AAAA"}}}))
        assert _code(f"oci://{host}/good:other")[0] == "S403"


def test_a_login_helper_and_a_token_service(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bearer challenge, as most registries send it: the token comes from another address."""
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f'#!/bin/sh\necho \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    answers: dict[str, Answer] = {}
    with scripted_server(answers) as server:
        host = host_of(server)
        challenge = f'Bearer realm="http://{host}/token",service="s",scope="repository:good:pull"'
        answers["/v2/good/manifests/v1"] = Answer(status=401, headers={"WWW-Authenticate": challenge})
        answers["/token?scope=repository%3Agood%3Apull&service=s"] = Answer(b'{"token": "t"}')
        assert _code(f"oci://{host}/good:v1")[0] == "S403"  # this server is never content
        assert server.requests.count("/v2/good/manifests/v1") == 2
        assert len(server.requests) == 3


def _image(layers: list[dict[str, Any]]) -> bytes:
    config = {"mediaType": "application/json", "digest": "sha256:" + "0" * 64, "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}).encode()


def _layer(content: bytes, **changes: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": LAYER_TYPE, "digest": digest, "size": len(content), **changes}


def _registry_answers(image: bytes, content: bytes, blob: Answer | None = None) -> dict[str, Answer]:
    digest = hashlib.sha256(content).hexdigest()
    return {
        "/v2/good/manifests/v1": Answer(image),
        f"/v2/good/blobs/sha256:{digest}": blob or Answer(content),
    }


GOOD = build()
LIES: dict[str, tuple[dict[str, Answer], str, str]] = {
    "manifest_of_another_digest": (
        {"/v2/good/manifests/v1": Answer(_image([]), headers={"Docker-Content-Digest": "sha256:" + "1" * 64})},
        "S405",
        "1111 was expected",
    ),
    "blob_of_another_content": (
        _registry_answers(_image([_layer(GOOD)]), GOOD, Answer(GOOD[:-1] + b"x")),
        "S405",
        f"{hashlib.sha256(GOOD).hexdigest()} was expected",
    ),
    "blob_of_another_size": (
        _registry_answers(_image([_layer(GOOD, size=7)]), GOOD),
        "S406",
        f"{len(GOOD):,} of 7 bytes have arrived",
    ),
    "half_a_download": (
        _registry_answers(_image([_layer(GOOD)]), GOOD, Answer(GOOD, missing_bytes=2000)),
        "S406",
        f"{len(GOOD) - 2000:,} of {len(GOOD):,} bytes have arrived",
    ),
    "two_artifacts": (_registry_answers(_image([_layer(GOOD), _layer(OTHER)]), GOOD), "S407", "there are 2 artifacts"),
    "an_image": (
        _registry_answers(_image([_layer(GOOD, mediaType="application/vnd.oci.image.layer.v1.tar+gzip")]), GOOD),
        "S413",
        "an image of application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    "no_json": (_registry_answers(b"<html>", GOOD), "S413", "its manifest is damaged"),
    "digest_of_another_kind": (_registry_answers(_image([_layer(GOOD, digest="md5:x")]), GOOD), "S413", "no SHA-256"),
    "server_fails": ({"/v2/good/manifests/v1": Answer(status=503)}, "S402", "answers 503"),
    "refused": ({"/v2/good/manifests/v1": Answer(status=403)}, "S403", "answers 403"),
    "newer_version": (
        _registry_answers(_image([_layer(build(version=2))]), build(version=2)),
        "S313",
        "an artifact of version 2",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_registry_that_refuses_or_lies(name: str, tmp_path: Path) -> None:
    answers, code, text = LIES[name]
    with scripted_server(answers) as server:
        found, message = _code(f"oci://{host_of(server)}/good:v1")
    assert found == code
    assert text in message
    assert not list((tmp_path / "cache").rglob("*.tar"))  # nothing of it was kept
    assert not list((tmp_path / "cache").glob("fetch.*"))


def test_a_registry_that_does_not_take_it(artifact: Path) -> None:
    answers: dict[str, Answer] = {"/v2/good/blobs/uploads/": Answer(status=202, headers={"Location": "/put?a=b"})}
    raw = verify(artifact).manifest_bytes
    place = f"/put?a=b&digest=sha256%3A{hashlib.sha256(raw).hexdigest()}"
    answers[place] = Answer(b"artifacts are not supported", status=415)
    with scripted_server(answers) as server, pytest.raises(SharingError, match="S411") as raised:
        publish(verify(artifact), f"oci://{host_of(server)}/good:v1")
    assert "415" in str(raised.value)
    assert "artifacts are not supported" in str(raised.value)


def test_the_lock_of_an_artifact_is_not_made_again(artifact: Path) -> None:
    for arguments in (["lock", str(artifact)], ["run", str(artifact), "--yes", "--update-lock"]):
        error = str(_run(*arguments).exception)
        assert "S209" in error
        assert f"dpo-recipe pull {artifact}" in error


def test_a_run_knows_where_it_came_from(artifact: Path, tmp_path: Path) -> None:
    run, events = RunDirectory(tmp_path), []
    noting_origin(find(str(artifact)), events.append)({"event": "run", "dir": str(tmp_path)})
    assert read_origin(run) == {"reference": str(artifact), "digest": f"sha256:{verify(artifact).digest}"}
    assert events == [{"event": "run", "dir": str(tmp_path)}]
    run.origin.write_text("{")
    assert read_origin(run) is None
    recipe = tmp_path / "plain.yaml"
    recipe.write_text(RECIPE)
    assert noting_origin(find(str(recipe)), events.append) == events.append


def test_a_pinned_reference_with_another_content_is_refused() -> None:
    wanted = "sha256:" + "2" * 64
    answers = {f"/v2/good/manifests/{wanted}": Answer(_image([_layer(GOOD)]))}
    with scripted_server(answers) as server:
        assert _code(f"oci://{host_of(server)}/good@{wanted}")[0] == "S405"


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        large = with_file("recipe/data/large.jsonl", "data", b'{"a": 1}\n' * 10_000)
        answers = _registry_answers(_image([_layer(large)]), large)
        with scripted_server(answers) as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DPO_RECIPE_CACHE", str(disk))
            code, text = _code(f"oci://{host_of(server)}/good:v1")
        assert code == "S410"
        assert "No space left on device" in text
        assert "free some space, or set DPO_RECIPE_CACHE" in text
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_https_address_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, certificate = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = b"schema: 1\nname: plain\nmodel: {path: owner/model}\ndata: {train: [{path: owner/pairs}]}\n"
    answers = {"/good.recipe.tar": Answer(GOOD), "/plain.yaml?x=1": Answer(plain)}
    with scripted_server(answers, tls) as server:
        base = f"https://{host_of(server)}"
        digest = hashlib.sha256(GOOD).hexdigest()
        for _ in range(2):
            assert find(f"{base}/good.recipe.tar#sha256={digest}").path.read_text() == RECIPE
        assert server.requests == ["/good.recipe.tar"]
        assert _code(f"{base}/good.recipe.tar#sha256={'0' * 64}")[0] == "S405"
        assert _code(f"{base}/other.recipe.tar#sha256={digest}")[0] == "S404"
        assert _code(f"{base}/good.recipe.tar")[0] == "S401"
        recipe = find(f"{base}/plain.yaml?x=1#sha256={hashlib.sha256(plain).hexdigest()}")
        assert recipe.path.read_bytes() == plain


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("name: [1]\n", "S310"),
        ("schema: 1\n", "S310"),
        ("name: a\nmodel: text\n", "S310"),
        ("name: a\nextends: ../../outside.yaml\n", "S312"),
        ("name: a\ndata: {train: [{path: /etc/passwd}]}\n", "S312"),
        ("name: a\ndata: {train: [{path: ~nobody-here/x.jsonl}]}\n", "S312"),
        ("name: a\nchat_template: ../../outside.jinja\n", "S312"),
        ("name: a\ntracking: {token: x}\n", "S311"),
    ],
)
def test_a_text_from_elsewhere_is_checked_like_an_artifact(text: str, code: str, tmp_path: Path) -> None:
    """Such as a recipe on the hub: it may not take files of this machine into what is packed of it."""
    (tmp_path / "outside.yaml").write_text("schema: 1\nname: mine\n")
    (tmp_path / "outside.jinja").write_text("secret")
    inside = tmp_path / "cache" / "fetched"
    inside.mkdir(parents=True)
    (inside / "recipe.yaml").write_text(text)
    with pytest.raises(SharingError, match=code):
        pack(inside / "recipe.yaml", inside / "packed.tar", PackOptions(inside=inside))
    assert not (inside / "packed.tar").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub with repositories of recipes. huggingface_hub reads its address when it is imported."""
    from huggingface_hub import constants

    files = {
        "one/good.recipe.tar": GOOD,
        "two/a.recipe.tar": GOOD,
        "two/b.recipe.tar": OTHER,
        "texts/mine/child.yaml": b"extends: ../base.yaml\nname: child\nchat_template: chat.jinja\n",
        "texts/mine/chat.jinja": good_files()["recipe/chat.jinja"][1],
        "texts/base.yaml": b"schema: 1\nname: base\nmodel: {path: a/b}\ndata: {train: [{path: a/pairs}]}\n",
    }
    for name, content in files.items():
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folders = {f"models/someone/{name}": tmp_path / "hub" / name for name in ("one", "two", "texts")}
    with serve_hub({**folders, "datasets/someone/one": tmp_path / "hub" / "one"}) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # an earlier test may have found no hub
        for name in ("ENDPOINT", "HF_HUB_CACHE"):
            value = f"http://{host_of(server)}" if name == "ENDPOINT" else str(tmp_path / "hf")
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        )
        hub_access.go_offline_if_unreachable.cache_clear()
        yield server
        hub_access.go_offline_if_unreachable.cache_clear()


def test_recipes_on_the_hub(hub: Any) -> None:
    for reference in ("hf://someone/one", "hf://someone/one/good.recipe.tar", "hf://datasets/someone/one"):
        assert find(reference).path.read_text() == RECIPE
    child = find("hf://someone/texts/mine/child.yaml")
    assert child.path.read_text().startswith("extends: ../base.yaml")
    assert (child.path.parent.parent / "base.yaml").is_file()
    asked = len(hub.requests)
    assert find(f"hf://someone/one@{COMMIT}").artifact is not None
    pinned = len(hub.requests)
    assert pinned > asked
    assert find(f"hf://someone/one@{COMMIT}").artifact is not None
    assert len(hub.requests) == pinned


def test_an_artifact_is_pushed_to_the_hub(hub: Any, artifact: Path) -> None:
    pinned = publish(verify(artifact), "hf://someone/texts")
    assert pinned == f"hf://someone/texts@{COMMIT}/good.recipe.tar"
    assert find(pinned).path.read_text() == RECIPE
    with pytest.raises(SharingError, match="S404"):
        publish(verify(artifact), "hf://someone/none")


def test_without_a_hub_what_was_fetched_last_is_used(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find("hf://someone/one")
    monkeypatch.setattr(hub_access, "is_reachable", lambda: False)
    hub_access.go_offline_if_unreachable.cache_clear()
    notes: list[str] = []
    assert find("hf://someone/one", notes.append).path.read_text() == RECIPE
    assert "hf://someone/one cannot be reached; using what it was on" in notes[0]
    code, text = _code("hf://someone/two/a.recipe.tar")
    assert code == "S402"
    assert "does not answer" in text


def test_what_the_hub_does_not_have(hub: Any) -> None:
    hub.missing_revisions.add("v9")
    code, text = _code("hf://someone/two")
    assert code == "S407"
    assert "hf://someone/two/a.recipe.tar" in text
    code, text = _code("hf://someone/texts")
    assert code == "S404"
    assert "hf://someone/texts/base.yaml" in text
    assert _code("hf://someone/none")[0] == "S404"
    assert _code("hf://someone/one/other.recipe.tar")[0] == "S404"
    assert _code("hf://nobody")[0] == "S401"


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_push_and_pull_as_commands(
    registry: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pushed = _run("push", str(artifact), f"oci://{registry}/team/command:v1", "--json")
    reference = json.loads(pushed.stdout)["reference"]
    assert _run("pull", reference).stdout == "good/recipe/recipe.yaml\n"
    assert (tmp_path / "good" / "recipe" / "recipe.yaml").read_text() == RECIPE
    again = _run("pull", reference)
    assert again.exit_code != 0
    assert "U401" in str(again.exception)
    assert _run("pull", reference, "--packed", "copy.tar").stdout == "copy.tar\n"
    assert (tmp_path / "copy.tar").read_bytes() == artifact.read_bytes()
    assert json.loads(_run("verify", reference, "--json").stdout)["digest"] == f"sha256:{verify(artifact).digest}"
    assert "S401" in str(_run("push", str(artifact), "https://host/x#sha256=1").exception)
    assert "S301" in str(_run("push", "quickstart", f"oci://{registry}/team/x:v1").exception)


def test_commands_that_take_a_recipe_take_a_reference(artifact: Path) -> None:
    assert _run("validate", str(artifact)).stdout == f"{artifact}: ok\n"
    shown = json.loads(_run("show", str(artifact), "--json").stdout)
    assert shown["recipe"]["model"]["path"] == "owner/model"
    assert evaluate_command._find_data(str(artifact)) == str(find(str(artifact)).path)
    for name in ("https://host/x.jsonl", "owner/pairs", None):
        assert evaluate_command._find_data(name) == name  # data, and no recipe


PROGRAM = """
import sys
from dpo_recipes.cli import permission
from dpo_recipes.artifacts.references import find
permission.permit(find(sys.argv[1]), yes="--yes" in sys.argv)
print("RUNS")
"""


def _permit(*arguments: str, answer: str | None = None) -> tuple[str, str]:
    """What is printed when a person, or nobody, is asked."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    if answer is None:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stdout, done.stderr
    terminal, inner = pty.openpty()
    process = subprocess.Popen(command, stdin=inner, stdout=subprocess.PIPE, stderr=inner, text=True)
    os.close(inner)
    shown = ""
    end = time.monotonic() + 60
    while "[y/N]" not in shown and time.monotonic() < end:
        shown += os.read(terminal, 4096).decode()
    os.write(terminal, f"{answer}\n".encode())
    output, _ = process.communicate(timeout=60)
    with contextlib.suppress(OSError):  # the other end is closed
        while rest := os.read(terminal, 4096):
            shown += rest.decode()
    os.close(terminal)
    return output, shown


def test_something_new_from_elsewhere_is_shown_and_asked_about_once(artifact: Path) -> None:
    output, shown = _permit(str(artifact))
    assert output == ""
    assert "S408" in shown
    assert "add `--yes`" in shown
    output, shown = _permit(str(artifact), answer="n")
    assert output == ""
    assert "trains    dpo on owner/model" in shown
    assert "asks for  nothing" in shown
    assert "error[S409]" in shown
    output, shown = _permit(str(artifact), answer="y")
    assert output == "RUNS\n"
    output, shown = _permit(str(artifact))
    assert (output, shown) == ("RUNS\n", "")
    artifact.write_bytes(OTHER)
    output, shown = _permit(str(artifact), "--yes")
    assert output == "RUNS\n"
    assert "is new here" in shown


PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_of_the_page_work(
    block: str, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those about artifacts. tests/e2e/test_sharing.py does `run`."""
    for name, (_, content) in good_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "recipe" / "recipe.yaml").rename(tmp_path / "recipe" / "mine.yaml")
    monkeypatch.chdir(tmp_path / "recipe")
    for line in block.replace("registry.example.org", registry).splitlines():
        program, verb, *arguments = shlex.split(line, comments=True)
        if program != "dpo-recipe":
            subprocess.run(line, shell=True, check=True)
        elif verb in ("pack", "push", "pull", "inspect", "verify"):
            done = _run(verb, *arguments)
            assert done.exit_code == 0, (line, done.exception)


def test_no_lock_is_written_beside_a_shipped_recipe() -> None:
    for arguments in (["lock", "quickstart"], ["run", "quickstart", "--update-lock"]):
        error = str(_run(*arguments).exception)
        assert "S209" in error
        assert "dpo-recipe cp quickstart" in error
