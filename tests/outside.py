"""Installs the package in tests/outside_objective into a folder, as pip would, without building it."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dpo_recipes.recipe.schema.guards import _guards_with
from dpo_recipes.recipe.schema_fields import listed_fields

PACKAGE = Path(__file__).with_name("outside_objective")


def install(folder: Path) -> Path:
    """Copy the package's modules and write the metadata that declare its entry points."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, folder)
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("".join(points), encoding="utf-8")
    return folder


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Install the package for this process and those that it starts."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        install(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
        listed_fields.cache_clear()
        yield folder
    listed_fields.cache_clear()
    _guards_with.cache_clear()
    for name in {module.stem for module in PACKAGE.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]
