"""One worker process on this machine, also for one device: the parent checks and supervises, the worker trains."""

from __future__ import annotations

import os
import subprocess
import sys

from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory


def command(run: RunDirectory, *, trust_remote_code: bool = False) -> list[str]:
    """The command that executes a prepared run directory; a person can run it by hand."""
    flags = ["--trust-remote-code"] if trust_remote_code else []
    return [sys.executable, "-m", "dpo_recipes.worker", str(run.path), *flags]


def start(recipe: Recipe, run: RunDirectory, *, trust_remote_code: bool = False) -> subprocess.Popen[bytes]:
    """Start the worker in a session of its own, so that a terminal's Ctrl-C reaches it only through the parent."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
    if recipe.launch.num_threads:
        environment["OMP_NUM_THREADS"] = str(recipe.launch.num_threads)
    with run.log.open("ab") as log:
        return subprocess.Popen(
            command(run, trust_remote_code=trust_remote_code), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )
