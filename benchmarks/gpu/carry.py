"""What the GPU check needs on a machine without a network, put beside it: wheels, and token ids of real pairs.

    python benchmarks/gpu/carry.py [--data harmless-base.jsonl.gz] [--without bitsandbytes]

downloads the wheels for Linux on x86-64 and CPython 3.12 that such a machine may lack into `benchmarks/gpu/carried/`,
at most 64 MiB with the ids, and prints the next command. Run it where a package registry can be reached. What is there
already is not downloaded again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import bootstrap
import pairs

HERE = Path(__file__).resolve().parent
WHEELS = (
    "trl", "peft", "accelerate", "datasets", "dill", "multiprocess", "gguf", "pydantic", "pydantic_core",
    "annotated-types", "typing-inspection", "typing_extensions", "bitsandbytes",
)  # fmt: skip
"""What a machine with torch and transformers may lack. The machine's own version is used where it is fit."""
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
MOST_BYTES = 64 * 2**20

COMMAND = "python3 benchmarks/gpu/check.py --output FOLDER"
INSTRUCTIONS = f"""
Take to the machine with the GPU: the files of the repository (git ls-files) and benchmarks/gpu/carried/ in its place.
The machine needs Linux on x86-64, Python 3.12, torch 2.11 or newer with CUDA, transformers 5.17 or newer. There run

    {COMMAND}

It takes eight minutes at most and writes FOLDER/gpu-<name>.json after each measurement. Bring that file back to
benchmarks/results/, then show it in the docs and commit it:

    python benchmarks/gpu/render.py benchmarks/results/gpu-<name>.json --write"""


def tested_version(name: str) -> str:
    """The version of a package in constraints.txt."""
    lines = (HERE.parents[1] / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def download(name: str, version: str, folder: Path) -> None:
    """One wheel, without its needs."""
    have = bootstrap.wheel_of(name, folder)
    if have is not None and have.name.split("-")[1] == version:
        return
    if have is not None:
        have.unlink()  # two versions would stand in each other's way
    platforms = [f"manylinux_{number}_x86_64" for number in PLATFORMS] + ["manylinux2014_x86_64"]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", "3.12", "--implementation", "cp"),
        *(word for platform in platforms for word in ("--platform", platform)),
        *("--dest", str(folder), f"{name}=={version}"),
    ]
    if subprocess.run(command).returncode:
        sys.exit(f"{name} {version} could not be downloaded")


def main() -> None:
    """Download, tokenize, count, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="hh-rlhf's file; without it pairs of random ids are measured")
    parser.add_argument("--without", default="", help="comma-separated packages to leave out")
    options = parser.parse_args()
    bootstrap.WHEELS.mkdir(parents=True, exist_ok=True)
    for name in WHEELS:
        if name not in options.without.split(","):
            download(name, tested_version(name), bootstrap.WHEELS)
    if options.data and not pairs.PAIRS.exists():
        subprocess.run([sys.executable, str(HERE / "pairs.py"), "--data", str(options.data)], check=True)
    carried = [path for path in pairs.CARRIED.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in carried)
    print(f"{len(carried)} files, {size / 2**20:.1f} MiB in {pairs.CARRIED}")
    if size > MOST_BYTES:
        sys.exit("that is more than 64 MiB: leave something out, `--without bitsandbytes` for example")
    print(INSTRUCTIONS)


if __name__ == "__main__":
    main()
