"""Artifacts that must be refused: each is a good one with a single fault."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

RECIPE = """schema: 1
name: good
model: {path: owner/model, adapter: {kind: lora}}
data: {train: [{path: data/pairs.jsonl}]}
chat_template: chat.jinja
"""
PAIRS = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
Files = dict[str, tuple[str, bytes]]


def good_files() -> Files:
    """The files of a good artifact: role and content by name."""
    return {
        "recipe/chat.jinja": ("template", TEMPLATE.encode()),
        "recipe/data/pairs.jsonl": ("data", PAIRS),
        "recipe/recipe.yaml": ("recipe", RECIPE.encode()),
    }


def manifest_of(files: Files, **changes: Any) -> bytes:
    """The manifest of some files."""
    plain = {
        "format": "dpo-recipe artifact",
        "version": 1,
        "name": "good",
        "summary": "",
        "recipe": "recipe/recipe.yaml",
        "files": {
            name: {"role": role, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, (role, content) in files.items()
        },
        "needs": [],
        "data_licence": None,
        "run": None,
        **changes,
    }
    return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def header(name: str, size: int, **fields: Any) -> bytes:
    """The header of a member of a tar archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def member(name: str, content: bytes, **fields: Any) -> bytes:
    """A member of a tar archive."""
    return header(name, len(content), **fields) + content + bytes(-len(content) % 512)


END = bytes(1024)


def build(files: Files | None = None, extra: bytes = b"", end: bytes = END, **changes: Any) -> bytes:
    """An artifact of some files, with members or other bytes before its end."""
    files = good_files() if files is None else files
    parts = [member("manifest.json", manifest_of(files, **changes))]
    parts += [member(name, content) for name, (_, content) in sorted(files.items())]
    return b"".join([*parts, extra, end])


def with_file(name: str, role: str, content: bytes) -> bytes:
    """A good artifact with one more file, or another content of a file."""
    return build({**good_files(), name: (role, content)})


def with_recipe(text: str) -> bytes:
    """A good artifact with another recipe."""
    return with_file("recipe/recipe.yaml", "recipe", text.encode())


def with_template(text: str) -> bytes:
    """A good artifact with another chat template."""
    return with_file("recipe/chat.jinja", "template", text.encode())


def _compressed(kind: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
    return target.getvalue()


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("manifest.json", "{}")
    return target.getvalue()


def _renamed() -> bytes:
    """The manifest names another content than the one that is there, of the same length."""
    files = good_files()
    other = {**files, "recipe/data/pairs.jsonl": ("data", PAIRS.replace(b"b", b"x"))}
    parts = [member("manifest.json", manifest_of(files))]
    return b"".join([*parts, *(member(name, content) for name, (_, content) in sorted(other.items())), END])


def _other_size() -> bytes:
    files = good_files()
    plain = json.loads(manifest_of(files))
    plain["files"]["recipe/data/pairs.jsonl"]["bytes"] = 7
    raw = (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return b"".join(
        [member("manifest.json", raw), *(member(name, content) for name, (_, content) in sorted(files.items())), END]
    )


def _sparse() -> bytes:
    """GNU's header of a sparse file, which says a real size of a terabyte."""
    raw = bytearray(header("recipe/data/sparse.jsonl", 0, type=tarfile.GNUTYPE_SPARSE))
    raw[483:495] = b"%011o\0" % (1 << 32)
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw)
    return build(extra=bytes(raw))


def _safetensors(header_bytes: int, header_text: bytes = b"{}") -> Files:
    config = json.dumps({"peft_type": "LORA"}).encode()
    return {
        **good_files(),
        "adapter/adapter_config.json": ("adapter", config),
        "adapter/adapter_model.safetensors": ("adapter", struct.pack("<Q", header_bytes) + header_text),
    }


def _pickle() -> bytes:
    """A pickle that would call `os.system` when it is opened."""
    return b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR."


def _page(body: str) -> bytes:
    return with_file("results/report.html", "result", f"<!doctype html><html><body>{body}</body></html>".encode())


class Hostile(NamedTuple):
    """A hostile artifact, the code of its error, and a part of the text that only this one has."""

    make: Callable[[], bytes]
    code: str
    text: str


_LINE = b'{"prompt": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "chosen": "b", "rejected": "c"}\n'

HOSTILE: dict[str, Hostile] = {
    "empty": Hostile(lambda: b"", "S301", "it is empty"),
    "text": Hostile(lambda: RECIPE.encode() * 10, "S301", "does not begin as a tar archive"),
    "gzip": Hostile(lambda: _compressed("gz"), "S301", "compressed with gzip"),
    "bzip2": Hostile(lambda: _compressed("bz2"), "S301", "compressed with bzip2"),
    "xz": Hostile(lambda: _compressed("xz"), "S301", "compressed with xz"),
    "zip": Hostile(_zip, "S301", "compressed with zip"),
    "truncated": Hostile(lambda: build()[:-1536], "S301", "are left"),
    "without_an_end": Hostile(lambda: build(end=b""), "S301", "the end of the archive is missing"),
    "more_after_the_end": Hostile(lambda: build(end=END + b"#!/bin/sh\n"), "S301", "more after the end"),
    "hidden_between_files": Hostile(
        lambda: build().replace(PAIRS + bytes(5), PAIRS + b"hide!", 1), "S301", "bytes between recipe/data/pairs.jsonl"
    ),
    "header_damaged": Hostile(lambda: build(extra=b"\xff" * 512), "S301", "is damaged"),
    "symbolic_link": Hostile(
        lambda: build(extra=header("recipe/link", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "S302",
        "is a symbolic link",
    ),
    "hard_link": Hostile(
        lambda: build(extra=header("recipe/link", 0, type=tarfile.LNKTYPE, linkname="recipe/recipe.yaml")),
        "S302",
        "is a hard link",
    ),
    "character_device": Hostile(
        lambda: build(extra=header("recipe/zero", 0, type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
        "S302",
        "is a character device",
    ),
    "block_device": Hostile(
        lambda: build(extra=header("recipe/disk", 0, type=tarfile.BLKTYPE)), "S302", "is a block device"
    ),
    "pipe": Hostile(lambda: build(extra=header("recipe/pipe", 0, type=tarfile.FIFOTYPE)), "S302", "is a named pipe"),
    "folder": Hostile(lambda: build(extra=header("recipe/folder", 0, type=tarfile.DIRTYPE)), "S302", "is a folder"),
    "sparse_file": Hostile(_sparse, "S302", "is a sparse file"),
    "long_name": Hostile(
        lambda: build(extra=member("././@LongLink", b"x" * 300, type=tarfile.GNUTYPE_LONGNAME)),
        "S302",
        "for long names",
    ),
    "extended_header": Hostile(
        lambda: build(extra=member("pax", b"17 path=../../x\n", type=tarfile.XHDTYPE)),
        "S302",
        "is an extended header",
    ),
    "executable": Hostile(
        lambda: build(extra=member("recipe/x.yaml", b"", mode=0o4755)), "S302", "is not as `pack` writes it"
    ),
    "owner": Hostile(lambda: build(extra=member("recipe/x.yaml", b"", uid=1000)), "S302", "owner"),
    "escape": Hostile(lambda: build(extra=member("../../escaped.yaml", b"x")), "S303", "`..` leads out"),
    "escape_inside": Hostile(lambda: build(extra=member("recipe/../../escaped", b"x")), "S303", "`..` leads out"),
    "absolute": Hostile(lambda: build(extra=member("/tmp/escaped.yaml", b"x")), "S303", "it is absolute"),
    "home": Hostile(lambda: build(extra=member("~/.bashrc", b"x")), "S303", "it is absolute"),
    "drive": Hostile(lambda: build(extra=member("C:/x.yaml", b"x")), "S303", "it is absolute"),
    "backslash": Hostile(lambda: build(extra=member("recipe\\..\\x", b"x")), "S303", "a backslash"),
    "control_character": Hostile(lambda: build(extra=member("recipe/a\x1b[2J.yaml", b"x")), "S303", "control"),
    "invisible_character": Hostile(lambda: build(extra=member("recipe/a\u202e.yaml", b"x")), "S303", "not visible"),
    "device_of_windows": Hostile(lambda: build(extra=member("recipe/NUL.yaml", b"x")), "S303", "device on Windows"),
    "stream_of_windows": Hostile(lambda: build(extra=member("recipe/a.yaml:x", b"x")), "S303", "Windows cannot"),
    "empty_part": Hostile(lambda: build(extra=member("recipe//a.yaml", b"x")), "S303", "empty or a dot"),
    "not_utf8": Hostile(lambda: build(extra=member("recipe/\udcff.yaml", b"x")), "S303", "control character or"),
    "same_name_twice": Hostile(
        lambda: build(extra=member("recipe/recipe.yaml", b"x")), "S304", "two files with the name `recipe/recipe.yaml`"
    ),
    "same_name_by_case": Hostile(
        lambda: build(extra=member("recipe/Recipe.yaml", b"x")), "S304", "`recipe/recipe.yaml` and `recipe/Recipe.yaml`"
    ),
    "same_name_by_unicode": Hostile(
        lambda: build(extra=member("recipe/é.yaml", b"x") + member("recipe/e\u0301.yaml", b"x")), "S304", "e\\u0301"
    ),
    "file_and_folder": Hostile(
        lambda: build(extra=member("recipe/recipe.yaml/x", b"x")), "S304", "`recipe/recipe.yaml/x`"
    ),
    "declared_terabyte": Hostile(
        lambda: build(extra=header("recipe/data/big.jsonl", 8 * 2**30 - 1)), "S301", "should have 8,589,934,591 bytes"
    ),
    "many_files": Hostile(
        lambda: build(extra=b"".join(member(f"recipe/{number}.yaml", b"") for number in range(1100))),
        "S305",
        "more than 1000 files",
    ),
    "gzip_bomb": Hostile(
        lambda: with_file("recipe/data/bomb.jsonl.gz", "data", gzip.compress(_LINE * 200_000, mtime=0)),
        "S305",
        "200 times larger",
    ),
    "large_recipe": Hostile(lambda: with_recipe(RECIPE + "#" * 1_100_000), "S305", "at most 1 MB"),
    "without_manifest": Hostile(lambda: member("recipe/recipe.yaml", b"x") + END, "S306", "its first file is not"),
    "manifest_twice": Hostile(lambda: build(extra=member("manifest.json", b"{}")), "S304", "`manifest.json`"),
    "manifest_not_json": Hostile(lambda: member("manifest.json", b"{") + END, "S306", "the manifest of"),
    "manifest_key_twice": Hostile(
        lambda: member("manifest.json", b'{"format": 1, "format": 2}') + END, "S306", "a key is set twice"
    ),
    "manifest_deep": Hostile(lambda: member("manifest.json", b"[" * 100_000) + END, "S306", "recursion"),
    "manifest_unknown_key": Hostile(lambda: build(run_first="x.sh"), "S306", "run_first"),
    "manifest_other_recipe": Hostile(lambda: build(recipe="recipe/chat.jinja"), "S306", "should be run"),
    "manifest_other_name": Hostile(lambda: build(name="innocent"), "S306", "says that the recipe is `innocent`"),
    "file_not_listed": Hostile(lambda: build(extra=member("recipe/x.yaml", b"x")), "S306", "is not in the manifest"),
    "file_missing": Hostile(
        lambda: member("manifest.json", manifest_of(good_files())) + END, "S306", "is in the manifest only"
    ),
    "newer_version": Hostile(lambda: build(version=2), "S313", "version 2"),
    "changed_file": Hostile(_renamed, "S307", "its SHA-256 is"),
    "changed_size": Hostile(_other_size, "S307", "should have 7"),
    "pickle_by_name": Hostile(
        lambda: with_file("adapter/adapter_model.bin", "adapter", b"x"), "S308", "may be a pickle"
    ),
    "pickle_by_content": Hostile(
        lambda: with_file("recipe/data/pairs.jsonl", "data", _pickle()), "S308", "it is a pickle"
    ),
    "pickle_of_python": Hostile(
        lambda: with_file("recipe/data/pairs.jsonl", "data", pickle.dumps({"a": 1})), "S308", "it is a pickle"
    ),
    "pickle_of_torch": Hostile(lambda: with_file("recipe/data/pairs.jsonl", "data", _zip()), "S308", "a zip archive"),
    "python": Hostile(lambda: with_file("recipe/scores.py", "data", b"import os\n"), "S308", "it is code"),
    "notebook": Hostile(lambda: with_file("recipe/notes.ipynb", "data", b"{}"), "S308", "it is code"),
    "program": Hostile(
        lambda: with_file("recipe/data/pairs.jsonl", "data", b"\x7fELF" + bytes(60)), "S308", "a program for Linux"
    ),
    "script": Hostile(lambda: with_file("recipe/data/x.csv", "data", b"#!/bin/sh\n"), "S308", "it is a script"),
    "unknown_kind": Hostile(lambda: with_file("recipe/README.md", "data", b"x"), "S308", "no file of this name"),
    "settings_of_a_model_as_data": Hostile(
        lambda: with_file("recipe/model/tokenizer_config.json", "data", b"{}"), "S308", "configures a model"
    ),
    "result_elsewhere": Hostile(lambda: with_file("recipe/result.json", "result", b"{}"), "S308", "no file of this"),
    "data_with_zeros": Hostile(
        lambda: with_file("recipe/data/pairs.jsonl", "data", PAIRS + b"\0"), "S308", "a zero byte"
    ),
    "data_not_json": Hostile(
        lambda: with_file("recipe/data/pairs.jsonl", "data", b"cposix\nsystem\n(S'x'\ntR."), "S308", "begin as JSON"
    ),
    "data_not_parquet": Hostile(
        lambda: with_file("recipe/data/x.parquet", "data", b"{}"), "S308", "begin as a .parquet file"
    ),
    "data_not_gzip": Hostile(lambda: with_file("recipe/x.jsonl.gz", "data", b"{}"), "S308", "compressed with gzip"),
    "adapter_with_code": Hostile(
        lambda: with_file("adapter/adapter_config.json", "adapter", b'{"auto_mapping": {"parent_library": "evil"}}'),
        "S308",
        "`auto_mapping` makes libraries import",
    ),
    "tokenizer_with_code": Hostile(
        lambda: with_file("adapter/tokenizer_config.json", "adapter", b'{"auto_map": {"AutoTokenizer": "x.T"}}'),
        "S308",
        "`auto_map` makes libraries import",
    ),
    "safetensors_short": Hostile(
        lambda: build({**_safetensors(2), "adapter/adapter_model.safetensors": ("adapter", b"x")}),
        "S318",
        "it is too short",
    ),
    "safetensors_huge_header": Hostile(lambda: build(_safetensors(2**62)), "S318", "its header should have"),
    "safetensors_no_json": Hostile(lambda: build(_safetensors(2, b"xx")), "S318", "cannot be read"),
    "safetensors_gap": Hostile(
        lambda: build(_safetensors(59, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[400,404]}} ')),
        "S318",
        "leave gaps",
    ),
    "yaml_tag": Hostile(
        lambda: with_recipe(RECIPE + "summary: !!python/object/apply:os.system [touch executed]\n"),
        "S310",
        "python/object",
    ),
    "yaml_aliases": Hostile(
        lambda: with_recipe(
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
        ),
        "S310",
        "(R105)",
    ),
    "yaml_key_twice": Hostile(lambda: with_recipe(RECIPE + "name: other\n"), "S310", "(R103)"),
    "yaml_not_utf8": Hostile(
        lambda: with_file("recipe/recipe.yaml", "recipe", b"name: \xff\xfe\n"), "S310", "is not UTF-8 text"
    ),
    "secret_key": Hostile(lambda: with_recipe(RECIPE + "tracking: {api_key: x}\n"), "S311", "is a key for a secret"),
    "secret_value": Hostile(
        lambda: with_recipe(RECIPE + "summary: hf_" + "a" * 34 + "\n"), "S311", "has a secret in its value"
    ),
    "secret_of_a_service": Hostile(
        lambda: with_recipe(RECIPE.replace("owner/model", "sk-proj-" + "a1" * 20)), "S311", "`path` in"
    ),
    "secret_in_address": Hostile(
        lambda: with_recipe(RECIPE.replace("data/pairs.jsonl", "https://me:pass@host/x.jsonl")), "S311", "its value"
    ),
    "path_absolute": Hostile(
        lambda: with_recipe(RECIPE.replace("data/pairs.jsonl", "/etc/passwd")), "S312", "an absolute path"
    ),
    "path_home": Hostile(
        lambda: with_recipe(RECIPE.replace("data/pairs.jsonl", "~/.ssh/id_rsa")), "S312", "in a home folder"
    ),
    "path_escape": Hostile(
        lambda: with_recipe(RECIPE.replace("data/pairs.jsonl", "../../../../etc/hosts.jsonl")),
        "S312",
        "leads out of the artifact",
    ),
    "parent_escape": Hostile(
        lambda: with_recipe(RECIPE + "extends: ../../../other.yaml\n"), "S312", "leads out of the artifact"
    ),
    "output_escape": Hostile(
        lambda: with_recipe(RECIPE + "output_dir: x/../../..\n"), "S312", "runs would be written outside"
    ),
    "output_absolute": Hostile(lambda: with_recipe(RECIPE + "output_dir: /etc\n"), "S312", "`output_dir` in"),
    "home_in_results": Hostile(
        lambda: with_file("results/result.json", "result", b'{"dir": "/home/anna/runs/1"}'), "S312", "/home/anna/runs"
    ),
    "page_with_script": Hostile(lambda: _page("<script>alert(1)</script>"), "S316", "the tag <script>"),
    "page_with_event": Hostile(lambda: _page("<p onclick='alert(1)'>x</p>"), "S316", "the script `onclick`"),
    "page_with_address": Hostile(lambda: _page("<a href=' java\tscript:alert(1)'>x</a>"), "S316", "the address"),
    "page_that_loads": Hostile(lambda: _page("<img src='https://host/pixel.png'>"), "S316", "<img> has the address"),
    "page_with_animation": Hostile(
        lambda: _page("<svg><a><animate attributeName='href' values='javascript:alert(1)'/></a></svg>"),
        "S316",
        "the tag <animate>",
    ),
    "page_with_hidden_tag": Hostile(lambda: _page("<!--><script>alert(1)</script>-->"), "S316", "could be hidden"),
    "page_with_broken_style": Hostile(
        lambda: _page("<style></style/><img src=x onerror=alert(1)></style>"), "S316", "that no style needs"
    ),
    "page_with_broken_title": Hostile(
        lambda: _page("<title><p id='</title><img src=x onerror=alert(1)>'></title>"), "S316", "inside the tag <p>"
    ),
    "page_that_refreshes": Hostile(
        lambda: _page("<meta http-equiv='refresh' content='0;url=https://host'>"), "S316", "changes how the browser"
    ),
    "page_with_style": Hostile(lambda: _page("<style>@import 'https://host/x.css'</style>"), "S316", "style loads"),
    "template_attribute": Hostile(
        lambda: with_template("{{ messages.__class__.__mro__ }}"), "S320", "private attribute `__mro__`"
    ),
    "template_filter": Hostile(
        lambda: with_template("{{ messages|attr('__class__') }}"), "S320", "names the private attribute"
    ),
    "template_globals": Hostile(
        lambda: with_template("{{ cycler.__init__.__globals__.os.system('touch executed') }}"), "S320", "__globals__"
    ),
    "template_include": Hostile(lambda: with_template("{% include '/etc/passwd' %}"), "S320", "loads another"),
    "template_changes": Hostile(lambda: with_template("{{ messages.clear() }}"), "S320", "unsafe"),
    "template_endless": Hostile(
        lambda: with_template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "S321",
        "more than 2 seconds",
    ),
    "template_large": Hostile(lambda: with_template("{{ 'a' * 10 ** 10 }}"), "S321", "MemoryError"),
    "template_recursive": Hostile(
        lambda: with_template("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"), "S321", "RecursionError"
    ),
    "template_long_output": Hostile(
        lambda: with_template("{% for n in range(9999) %}{{ 'a' * 999 }}{% endfor %}"), "S321", "characters"
    ),
    "template_syntax": Hostile(lambda: with_template("{% for"), "S322", "syntax error"),
    "template_in_recipe": Hostile(
        lambda: with_recipe(RECIPE.replace("chat.jinja", "'{{ messages.__class__ }}'")), "S320", "recipe.yaml:5"
    ),
    "template_in_settings_of_a_step": Hostile(
        lambda: with_recipe(
            "schema: 1\nname: good\nsteps:\n  a: {recipe: b.yaml, set: {'objective.rewards[0].chat_template': "
            "'{{ messages.__class__ }}'}}\n"
        ),
        "S320",
        "recipe.yaml:4",
    ),
    "template_among_those_of_a_tokenizer": Hostile(
        lambda: with_file(
            "adapter/tokenizer_config.json",
            "adapter",
            b'{"chat_template": [{"name": "default", "template": "x"}, '
            b'{"name": "tool_use", "template": "{{ messages.__class__ }}"}]}',
        ),
        "S320",
        "tokenizer_config.json: tool_use",
    ),
    "template_of_tokenizer": Hostile(
        lambda: with_file("adapter/tokenizer_config.json", "adapter", b'{"chat_template": "{{ messages.__class__ }}"}'),
        "S320",
        "tokenizer_config.json",
    ),
}
