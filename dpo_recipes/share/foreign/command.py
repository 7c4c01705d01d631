"""A command line in a shell script as a configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding, SharingError, Where
from dpo_recipes.recipe.load import DataPath, Span
from dpo_recipes.share.foreign.config import Config, Unknown, make_config
from dpo_recipes.share.foreign.read import (
    YAML_SUFFIXES,
    Document,
    read_commands,
    read_document,
    read_mapping,
)
from dpo_recipes.share.foreign.shell import Command, Word, options_of
from dpo_recipes.share.foreign.tool import Tool

_CONFIG_OPTIONS = ("config", "config_file", "c")
PREPARATION = "PREPARATION"
"""The key below which the options of a command are kept that prepares the data."""
ENVIRONMENT = "ENV"
"""The key below which the variables of a script are kept, as in ms-swift's YAML files."""


def read_script(document: Document, tools: Sequence[Tool]) -> tuple[Config, Tool, int]:
    """The configuration of the first command that starts one of the tools, the tool, and how many others there are.
    Raises `SharingError` S506 if there is none."""
    commands = read_commands(document)
    found = [
        (command, tool, start, program)
        for command in commands
        for tool in tools
        for program in tool.programs
        if (start := _start_of(command, program)) is not None
    ]
    if not found:
        programs = ", ".join(f"`{tool.programs[0]}`" for tool in tools if tool.programs)
        raise SharingError.of(
            "S506",
            f"no command in {document.file} starts a training",
            where=Where(document.file),
            why=f"a script must have a command such as {programs}",
            fix="give the configuration file itself, or the script that starts the training",
        )
    command, tool, start, program = found[0]
    preparing = [
        (each, start_) for each in commands for words in tool.prepares if (start_ := _start_of(each, words)) is not None
    ]
    return _config_of(command, start, program, document, preparing), tool, len(found) - 1


def _start_of(command: Command, program: str) -> int | None:
    """The number of words up to the end of a program's name; None if the command does not start it."""
    wanted = program.split()
    texts = command.texts
    for at in range(len(texts) - len(wanted) + 1):
        if all(_is_word(given, word) for given, word in zip(texts[at:], wanted, strict=False)):
            return at + len(wanted)
    return None


def _is_word(given: str, wanted: str) -> bool:
    if "/" in wanted or wanted.endswith(".py"):
        return given == wanted or given.endswith(f"/{wanted}")
    return given == wanted or Path(given).name == wanted


def _config_of(
    command: Command, start: int, program: str, document: Document, preparing: Sequence[tuple[Command, int]] = ()
) -> Config:
    before, options = options_of(command.words[start:])
    launcher = options_of(command.words[:start])[1]
    data: dict[str, Any] = {}
    spans: dict[DataPath, Span] = {(): Span(Where(document.file))}
    findings: list[Finding] = []
    files = [word for word in before if (word.text or "").endswith(YAML_SUFFIXES)]
    base: Config | None = None
    for name, word, value in options:
        if name in _CONFIG_OPTIONS and isinstance(value, str) and value.endswith(YAML_SUFFIXES):
            files.append(replace(word, text=value))
            continue
        _place(data, spans, name, word, value, findings)
    for each, start_ in preparing[:1]:
        for name, word, value in options_of(each.words[start_:])[1]:
            _place(data, spans, f"{PREPARATION}.{name}", word, value, findings)
    if files:
        base = _read_file(files[0], document)
    environment = {name: _known(word) for name, word in command.environment.items()}
    for name, word in command.environment.items():
        data.setdefault(ENVIRONMENT, {})[name] = environment[name]
        spans[(ENVIRONMENT, name)] = Span(word.where, word.where)
    for name, word, value in launcher:
        if name in _LAUNCHER_OPTIONS:
            data.setdefault(ENVIRONMENT, {})[_LAUNCHER_OPTIONS[name]] = value
            spans[(ENVIRONMENT, _LAUNCHER_OPTIONS[name])] = Span(word.where, word.where)
    if findings:
        raise SharingError(*findings)
    config = make_config(
        document.file, document.folder, data, spans, command=(*program.split(),), environment=_texts(environment)
    )
    return config if base is None else _over(base, config)


_LAUNCHER_OPTIONS = {
    "nproc_per_node": "NPROC_PER_NODE",
    "nproc-per-node": "NPROC_PER_NODE",
    "nnodes": "NNODES",
    "num_processes": "NUM_PROCESSES",
    "num-processes": "NUM_PROCESSES",
    "num_machines": "NUM_MACHINES",
    "config_file": "ACCELERATE_CONFIG",
}
"""Options of torchrun and `accelerate launch`."""


def _place(
    data: dict[str, Any],
    spans: dict[DataPath, Span],
    name: str,
    word: Word,
    value: Any,
    findings: list[Finding],
) -> None:
    steps = name.replace("-", "_").split(".")
    inner = data
    for step in steps[:-1]:
        if not isinstance(inner.setdefault(step, {}), dict):
            inner[step] = {}
        inner = inner[step]
    path = tuple(steps)
    if steps[-1] in inner and path in spans:
        first = spans[path].value.line
        findings.append(
            Finding(
                "S503",
                f"the option --{name} is given twice",
                word.where,
                f"it is first given on line {first}, and it is unknown which of the two is meant",
                "keep one of them",
            )
        )
        return
    inner[steps[-1]] = value
    spans[path] = Span(word.where, word.where)


def _known(word: Word) -> Any:
    return Unknown(word.raw) if word.text is None else word.text


def _texts(environment: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if isinstance(value, str)}


def _read_file(word: Word, document: Document) -> Config:
    name = word.text or ""
    for folder in (Path(), document.folder):
        path = folder / name
        if os.path.isfile(path):  # noqa: PTH113  (False also for names that no file can have)
            return read_mapping(read_document(path))
    raise SharingError.of(
        "S501",
        f"cannot read {name}",
        where=word.where,
        why="the command reads its configuration from this file, and there is none here",
        fix="give the configuration file itself",
    )


def _over(base: Config, over: Config) -> Config:
    """A configuration file with the options of a command line over it."""

    def merge(under: Any, upper: Any) -> Any:
        if not isinstance(under, dict) or not isinstance(upper, dict):
            return upper
        return {**under, **{key: merge(under.get(key), value) for key, value in upper.items()}}

    keys = {
        path: key
        for path, key in base.keys.items()
        if not any(path[: len(mine)] == mine or mine[: len(path)] == path for mine in over.keys)
    }
    return replace(over, data=merge(base.data, over.data), keys={**keys, **over.keys})
