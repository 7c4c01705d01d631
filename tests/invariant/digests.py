"""Digests of the weights and metrics of five DPO jobs, to compare two versions of the code on one machine.

    python tests/invariant/digests.py --write before.json      # at one commit
    python tests/invariant/digests.py --compare before.json    # at another one: fails if a digest differs

The jobs are LoRA with dropout, full fine-tuning, padded rows, passes by tokens, a run that resumes, and two processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from kill import all_moments, disturbed, make_job, outcome

JOBS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"adapter": "full"},
    "padded": {"training": "prefix_sharing: off"},
    "by tokens": {"training": "max_tokens_per_pass: 256"},
    "resumed": {"kills": 3},
    "two processes": {"processes": 2},
}


def digest_of(
    folder: Path, adapter: str = "lora", training: str = "", kills: int = 0, processes: int = 1
) -> dict[str, str]:
    """The digests of one job's results by part: weights, rows of metrics, and result."""
    folder.mkdir()
    recipe = make_job(folder, adapter)
    if training:
        recipe.write_text(recipe.read_text().replace("training: {", f"training: {{{training}, "))
    draw = random.Random(7)
    run, _ = disturbed(recipe, folder / "run", draw, all_moments(draw), kills, processes)
    return {part: _digest(value) for part, value in outcome(run).items()}


def _digest(value: Any) -> str:
    plain = json.dumps(value, sort_keys=True, default=lambda raw: hashlib.sha256(raw).hexdigest())
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def main() -> int:
    """Run all jobs, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    with tempfile.TemporaryDirectory() as name:
        found = {job: digest_of(Path(name) / job.replace(" ", "-"), **settings) for job, settings in JOBS.items()}
    print(json.dumps(found, indent=2))
    if options.write:
        options.write.write_text(json.dumps(found, indent=2) + "\n")
    if not options.compare:
        return 0
    before = json.loads(options.compare.read_text())
    wrong = [f"{job}: {part}" for job in JOBS for part in before[job] if found[job].get(part) != before[job][part]]
    print("\n".join(wrong) or "all digests are equal")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
