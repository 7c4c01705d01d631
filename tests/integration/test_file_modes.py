"""Every file that a run leaves is as readable as the person's umask says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.cache import cache_folder


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("adapter", ["{kind: lora, r: 4}", "{kind: lora, r: 4, save_as: merged}"])
def test_all_files_of_a_run(
    tmp_path: Path, work: Callable[..., Any], tiny_model: Path, umask: int, adapter: str
) -> None:
    outcome = work(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), adapter=adapter))
    assert outcome.exit_code == 0
    files = [p for folder in (outcome.run.path, cache_folder()) for p in folder.rglob("*") if p.is_file()]
    names = {path.name for path in files}
    weights = "adapter_model.safetensors" if "merged" not in adapter else "model.safetensors"
    assert {weights, "tokenizer.json", "README.md", "result.json", "manifest.json"} <= names
    odd = {str(p): oct(p.stat().st_mode) for p in files if p.stat().st_mode & 0o777 != 0o666 & ~umask}
    assert not odd
    card = (outcome.run.path / "model" / "README.md").read_text()
    assert not re.findall(r"https?://|www\.", card)  # a base and data from this disk have no address
