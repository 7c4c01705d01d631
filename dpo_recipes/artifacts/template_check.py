"""Checks chat templates of an unknown author: they must stay in the sandbox and end in time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from dpo_recipes.artifacts.template_probe import CPU_S, MEMORY_BYTES
from dpo_recipes.errors import SharingError

_WALL_S = 30
"""Much more than the processor seconds, for a machine that is busy."""


def check_templates(templates: Mapping[str, str], shown: str) -> None:
    """Render templates, given by their names in messages, in a process with limits.

    Raises `SharingError` S320 (a template leaves the sandbox), S321 (it does not end, or needs too much memory) and
    S322 (a syntax error).
    """
    if not templates:
        return
    command = [sys.executable, "-P", "-m", "dpo_recipes.artifacts.template_probe"]
    try:
        done = subprocess.run(command, input=json.dumps(templates), capture_output=True, text=True, timeout=_WALL_S)
        lines, is_done = done.stdout.splitlines(), done.returncode == 0
        if done.returncode == 1 and "MemoryError" not in done.stderr:
            raise RuntimeError(f"the check of templates has a bug:\n{done.stderr}")
    except subprocess.TimeoutExpired as error:
        lines, is_done = (error.stdout or b"").decode(errors="replace").splitlines(), False
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if is_done and "fault" not in last:
        return
    name = f"{last.get('name', 'a template')} in {shown}"
    limits = f"{CPU_S} seconds and {MEMORY_BYTES / 2**30:.0f} GiB"
    if last.get("fault") == "sandbox":
        raise SharingError.of(
            "S320",
            f"the chat template {name} tries to leave the sandbox",
            why=last["why"],
            fix="do not use it; a chat template needs messages and tokens only",
        )
    if last.get("fault") == "syntax":
        raise SharingError.of(
            "S322", f"the chat template {name} has a syntax error", why=last["why"], fix="ask its author to mend it"
        )
    raise SharingError.of(
        "S321",
        f"the chat template {name} does not end in time",
        why=last.get("why", f"rendering five short conversations took more than {limits}"),
        fix="do not use it; a chat template renders a conversation in milliseconds",
    )
