"""One reference is enough: a job is locked, packed and pushed, and an empty machine does the same job from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from artifact_servers import docker_registry
from hub_server import hub_environment, serve_hub
from tiny import recipe_text, write_pairs

pytestmark = pytest.mark.slow


def _losses(result: dict[str, Any]) -> list[float]:
    rows = (Path(result["model_dir"]).parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, rows) if "loss" in row]


def test_a_reference_does_the_same_job_on_an_empty_machine(
    command: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "data", there):
        folder.mkdir(parents=True)
    write_pairs(here / "data" / "pairs.jsonl")
    (here / "chat.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (here / "base.yaml").write_text(recipe_text("someone/tiny", "data/pairs.jsonl", "chat_template: chat.jinja"))
    (here / "mine.yaml").write_text("extends: base.yaml\nname: mine\n")
    with (
        serve_hub({"models/someone/tiny": tiny_model}) as hub,
        docker_registry(tmp_path / "registry") as host,
    ):
        machines = {
            folder: {
                **os.environ,
                **hub_environment(hub, folder / "hf"),
                "DPO_RECIPE_CACHE": str(folder / "cache"),
            }
            for folder in (here, there)
        }

        def run(folder: Path, *arguments: str) -> Any:
            done = command(*arguments, cwd=folder, env=machines[folder])
            assert done.returncode == 0, done.stderr
            return done

        run(here, "lock", "mine.yaml")
        first = json.loads(run(here, "run", "mine.yaml", "--json").stdout)
        name = Path(first["model_dir"]).parent.name.rpartition("-")[2]
        options = ["--with-data", "--data-licence", "CC0-1.0", "--with-results", name, "--with-adapter"]
        run(here, "pack", "mine.yaml", *options)
        reference = run(here, "push", "mine.recipe.tar", f"oci://{host}/team/mine:v1").stdout.strip()
        shutil.move(here / "data", tmp_path / "gone")
        asked = command("run", reference, cwd=there, env=machines[there])
        assert asked.returncode == 7
        assert "error[S408]" in asked.stderr
        done = run(there, "run", reference, "--yes", "--json")
        assert "locked    as in" in done.stderr  # the rows have the hash of those that were locked
        second = json.loads(done.stdout)
        shown = run(there, "runs", "show", Path(second["model_dir"]).parent.name.rpartition("-")[2])
        assert f"origin    {reference}, sha256:" in shown.stdout
        refused = command("run", reference, "--update-lock", cwd=there, env=machines[there])
        assert "error[S209]" in refused.stderr
        other = command("run", reference, "--set", "training.seed=7", cwd=there, env=machines[there])
        assert other.returncode == 7
        assert "training.seed" in other.stderr
    assert _losses(second) == _losses(first)
    assert len(_losses(first)) == 3
    assert Path(second["model_dir"]).is_relative_to(there)
