"""benchmarks/gpu: the whole check on this CPU with tiny models, and what must hold when something goes wrong in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "benchmarks" / "gpu"


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check's modules that need the standard library alone can be imported."""
    monkeypatch.syspath_prepend(str(GPU))


def _start(output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(GPU / "check.py"), "--device", "cpu", "--tiny", "--output", str(output), *more]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _content(output: Path) -> dict[str, Any]:
    return json.loads((output / "gpu-tiny.json").read_text())


def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    done = _start(tmp_path, "--patience", "5", "--seconds", "550")
    words = done.communicate()[0]
    log = (tmp_path / "gpu-tiny.log").read_text()
    assert done.returncode == 0, words[-2000:] + log[-4000:]
    content = _content(tmp_path)
    assert not {"failures", "skipped", "imports_failed"} & content.keys()
    assert all(row[what]["is_right"] for row in content["sharing"].values() for what in ("hidden", "gradients"))
    ours, trl = content["speed"]["tiny lora, ours"], content["speed"]["tiny lora, trl"]
    assert ours["losses"] == pytest.approx(trl["losses"], rel=1e-4)
    assert ours["sharing"] == "on"
    assert content["memory"].keys() == content["predictions"].keys()
    assert all(point["measured_bytes"] > 0 for point in content["memory"].values())
    apart = content["resume"]["difference of weights"]
    assert apart["resumed_from"] == 4
    assert apart["undisturbed"]["is_equal"]
    assert apart["killed_and_resumed"]["is_equal"]
    assert content["flex"]["qwen2-0.5b"]["FlexAttention"]["difference"] < 1e-5
    assert "ours / TRL" in words


def test_a_check_that_is_killed_keeps_what_it_has_measured(tmp_path: Path) -> None:
    check = _start(tmp_path, "--only", "sharing", "--start", "fresh")
    file, end = tmp_path / "gpu-tiny.json", time.monotonic() + 200
    while time.monotonic() < end and not (file.exists() and "matmul_flops" in _content(tmp_path).get("device", {})):
        time.sleep(0.05)
    check.send_signal(signal.SIGKILL)
    check.communicate()
    assert _content(tmp_path)["device"]["matmul_flops"] > 0


def test_what_no_longer_fits_into_the_time_is_left_out_with_the_reason(tmp_path: Path) -> None:
    check = _start(tmp_path, "--only", "sharing", "--seconds", "0.1")
    check.communicate()
    assert re.search(r"it takes 10 s, -?\d+ are left", _content(tmp_path)["skipped"]["sharing: llama"])


@pytest.mark.usefixtures("gpu_path")
def test_a_process_that_hangs_or_crashes_costs_itself_alone() -> None:
    import check

    hanging = os.fork() or (os.setsid(), time.sleep(60), os._exit(0))
    assert check._wait(hanging, 0.2) is None
    crashing = os.fork() or (os.setsid(), os.kill(os.getpid(), signal.SIGSEGV))
    assert check._wait(crashing, 20) == -signal.SIGSEGV


@pytest.mark.usefixtures("gpu_path")
def test_packages_of_other_versions_are_taken_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bootstrap

    (tmp_path / "pydantic_core-2.50.4-cp312-cp312-manylinux_2_17_x86_64.whl").touch()
    there = dict.fromkeys(bootstrap.NEEDED, "99") | {"transformers": "5.17.0", "torch": "2.11.0+cu130", "trl": "1.17.0"}
    del there["dill"]
    monkeypatch.setattr(bootstrap, "installed", lambda: there)
    monkeypatch.setattr(
        bootstrap, "NEEDED", {name: bootstrap.NEEDED[name] for name in ("transformers", "torch", "trl", "dill")}
    )
    assert bootstrap.missing() == {"trl": "1.17.0", "dill": "absent"}
    assert bootstrap.wheel_of("pydantic-core", tmp_path) is not None
    assert bootstrap.wheel_of("pydantic", tmp_path) is None


@pytest.mark.usefixtures("gpu_path")
def test_the_ranges_are_those_of_the_project() -> None:
    import tomllib

    import bootstrap
    import carry

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["quant"]]:
        name, _, lowest = line.partition(">=")
        bound = tuple(int(number) for number in lowest.partition(",")[0].split("."))
        assert bootstrap.NEEDED[name][0] == bound, name
    for name in carry.WHEELS:
        assert bootstrap.fits(name.replace("-", "_"), carry.tested_version(name)), name


@pytest.mark.usefixtures("gpu_path")
def test_tables_go_between_the_marks_of_the_docs(tmp_path: Path) -> None:
    content = {
        "device": {"name": "Some GPU", "matmul_flops": 7e14},
        "packages": {"there": {"torch": "2.11.0"}},
        "memory": {"a point": {"measured_bytes": 100 * 2**20}},
        "predictions": {"a point": {"peak_bytes": 110 * 2**20}},
    }
    (tmp_path / "gpu.json").write_text(json.dumps(content))
    for page in ("performance.md", "memory.md"):
        (tmp_path / page).write_text((ROOT / "docs" / page).read_text())
    for _ in range(2):  # the second time in the place of the first
        command = [
            sys.executable,
            str(GPU / "render.py"),
            str(tmp_path / "gpu.json"),
            "--write",
            "--docs",
            str(tmp_path),
        ]
        subprocess.run(command, check=True, capture_output=True)
    text = (tmp_path / "memory.md").read_text()
    assert text.count("| a point | 100 | 110 | +10.0% |") == 1
    assert "No point has been measured on a GPU yet" not in text
    assert "Some GPU, 700 TFLOP/s in matrix products; torch 2.11.0" in text
