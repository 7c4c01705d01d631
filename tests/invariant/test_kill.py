"""The short form of kill.py: the long one is `make test-kill`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("seed", "adapter", "processes"),
    [(1, "lora", 1), pytest.param(2, "full", 1, marks=pytest.mark.slow), (3, "lora", 2)],
)
def test_killed_and_gone_on_is_the_same_to_the_bit(seed: int, adapter: str, processes: int) -> None:
    program = Path(__file__).with_name("kill.py")
    arguments = ["--kills", "3", "--runs", "1", "--seed", str(seed), "--adapter", adapter]
    arguments += ["--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills in" in done.stdout  # of one run, or of two where the first was quicker than its killer
    assert "the same to the bit" in done.stdout


@pytest.mark.slow
def test_a_chain_that_was_killed_is_the_same_to_the_bit() -> None:
    program = Path(__file__).with_name("kill.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["--chain", "--kills", "2", "--seed", "4"]
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same to the bit" in done.stdout
