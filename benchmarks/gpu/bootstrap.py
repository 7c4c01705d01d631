"""Packages for the GPU check on a machine without a network: what is there is used, what is missing comes from wheels.

Needs the standard library only. Wheels are unpacked into a folder of their own, which stands before the machine's
packages in `sys.path` and `PYTHONPATH`; nothing of the machine is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import invalidate_caches, metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEELS = HERE / "carried" / "wheels"

NEEDED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "torch": ((2, 11), (3,)),
    "transformers": ((5, 17), (6,)),
    "accelerate": ((1, 15), (2,)),
    "peft": ((0, 21), (0, 22)),
    "trl": ((1, 16), (1, 17)),
    "datasets": ((5, 2), (6,)),
    "dill": ((0, 3), (0, 4, 2)),
    "multiprocess": ((0, 70), (0, 70, 20)),
    "gguf": ((0, 19), (99,)),
    "bitsandbytes": ((0, 50), (99,)),
    "pydantic": ((2, 12), (3,)),
    "pydantic_core": ((2,), (3,)),
    "annotated_types": ((0, 6), (99,)),
    "typing_inspection": ((0, 4), (99,)),
    "typing_extensions": ((4, 15), (99,)),
    "typer": ((0, 20), (99,)),
    "rich": ((14,), (99,)),
    "jinja2": ((3, 1), (99,)),
    "pyyaml": ((6, 0, 2), (99,)),
    "requests": ((2, 32), (99,)),
    "psutil": ((6,), (99,)),
    "pyarrow": ((21,), (99,)),
    "pandas": ((2,), (99,)),
    "xxhash": ((3,), (99,)),
    "safetensors": ((0, 4), (99,)),
    "tokenizers": ((0, 22), (99,)),
    "huggingface_hub": ((1, 5), (3,)),
}
"""By name of the distribution: from which version on, and before which one, the check is known to work."""


def installed() -> dict[str, str]:
    """Versions of the needed packages that can be imported now."""
    found = {}
    for name in NEEDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fits(name: str, version: str) -> bool:
    """Whether a version is in the range that is known to work."""
    lowest, below = NEEDED[name]
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
    return lowest <= numbers < below


def missing() -> dict[str, str]:
    """Packages that are absent or of another version than is known to work, with what is there instead."""
    found = installed()
    return {name: found.get(name, "absent") for name in NEEDED if name not in found or not fits(name, found[name])}


def wheel_of(name: str, folder: Path) -> Path | None:
    """The wheel of a package among those that were carried."""
    wanted = _plain(name)
    return next((path for path in sorted(folder.glob("*.whl")) if _plain(path.name.split("-")[0]) == wanted), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def provide(wheels: Path, target: Path) -> dict[str, object]:
    """Unpack the wheels of missing packages into `target` and put it, with the repository, first in the path of this
    process and of those that it starts; gives what is there then, what was unpacked, and what is missing still."""
    lacks = missing()
    chosen = {name: wheel for name in lacks if (wheel := wheel_of(name, wheels))}
    # pydantic and its core are of one version: both are taken or none.
    if {"pydantic", "pydantic_core"} & chosen.keys():
        chosen |= {name: wheel for name in ("pydantic", "pydantic_core") if (wheel := wheel_of(name, wheels))}
    failures = {name: reason for name, wheel in chosen.items() if (reason := _unpack(wheel, target))}
    first = [str(ROOT), str(target), str(HERE.parent)]
    sys.path[:0] = first
    os.environ["PYTHONPATH"] = os.pathsep.join([*first, *filter(None, [os.environ.get("PYTHONPATH")])])
    invalidate_caches()
    still = missing()
    return {
        "there": installed(),
        "unpacked": sorted(wheel.name for name, wheel in chosen.items() if name not in failures),
        "failed": failures,
        "missing": {name: state for name, state in still.items()},
    }


def _unpack(wheel: Path, target: Path) -> str | None:
    """Install one wheel without its dependencies. Returns the reason if that fails."""
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
        "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(target), str(wheel),
    ]  # fmt: skip
    if subprocess.run(command, capture_output=True).returncode == 0:
        return None
    try:  # Python without pip: these wheels are no more than their files
        with zipfile.ZipFile(wheel) as files:
            files.extractall(target)
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None
