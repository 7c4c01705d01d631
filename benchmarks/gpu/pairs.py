"""Token ids of preference pairs for the GPU check: real ones that are carried, or random ones of the same lengths.

    python benchmarks/gpu/pairs.py --data harmless-base.jsonl.gz [--rows 3000] [--lengths]

tokenizes dialogues of hh-rlhf with the quickstart's tokenizer and writes `carried/pairs.json.gz`. Ids can be turned
back into texts, so that file is not committed; `--lengths` writes `lengths.json` anew, which has the lengths alone.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

CARRIED = HERE / "carried"
"""What travels beside the repository: wheels and ids; ignored by git."""
PAIRS = CARRIED / "pairs.json.gz"
LENGTHS = HERE / "lengths.json"
Pairs = list[dict[str, Any]]


def read_pairs(count: int, vocab_size: int, *, longest: int | None = None) -> tuple[Pairs, str]:
    """Pairs of ids below `vocab_size`, each text truncated to `longest`, and a description of their source.

    If `count` exceeds the available pairs, they repeat."""
    if PAIRS.exists():
        rows, source = json.loads(gzip.decompress(PAIRS.read_bytes())), "hh-rlhf"
    else:
        rows, source = _draw(vocab_size), "random ids of hh-rlhf's lengths"
    chosen = itertools.islice(itertools.cycle(rows), count)
    pairs = [[[token % vocab_size for token in ids[:longest]] for ids in texts] for texts in map(texts_of, chosen)]
    return list(map(_pair, pairs)), source


def texts_of(pair: dict[str, Any]) -> list[list[int]]:
    """The ids of prompt, chosen and rejected answer."""
    return [pair["prompt_ids"], *pair["answer_ids"]]


def _pair(texts: list[list[int]]) -> dict[str, Any]:
    prompt, *answers = texts
    return {"prompt_ids": prompt, "answer_ids": answers}


def _draw(vocab_size: int) -> Pairs:
    draw = random.Random(0)
    lengths = json.loads(LENGTHS.read_text())["lengths"]
    return [_pair([[draw.randrange(vocab_size) for _ in range(n)] for n in row]) for row in lengths]


def main() -> None:
    """Tokenize and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="hh-rlhf's file")
    parser.add_argument("--rows", type=int, default=3000, help="dialogues of the file to choose from")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--lengths", action="store_true", help="write lengths.json as well")
    options = parser.parse_args()
    import throughput

    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "some.jsonl"
        with gzip.open(options.data, "rt", encoding="utf-8") as file:
            some.write_text("".join(itertools.islice(file, options.rows)), encoding="utf-8")
        job = SimpleNamespace(
            model="quickstart", adapter="lora", data=str(some), batch=1, steps=options.count,
            max_length=512, epochs=1, checkpointing=False,
        )  # fmt: skip
        rows = throughput.tokenized(throughput.build_recipe(job), job)
    pairs = [_pair(texts_of(row)) for row in rows]
    CARRIED.mkdir(exist_ok=True)
    PAIRS.write_bytes(gzip.compress(json.dumps(pairs, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(pairs)} pairs, {PAIRS.stat().st_size / 2**20:.1f} MiB: {PAIRS}")
    if options.lengths:
        lengths = [list(map(len, texts_of(pair))) for pair in pairs]
        described = "tokens of prompt, chosen and rejected answer: pairs of hh-rlhf, drawn at random"
        rows = ",\n  ".join(json.dumps(row) for row in lengths)
        LENGTHS.write_text(f'{{"about": {json.dumps(described)},\n "lengths": [\n  {rows}]}}\n')


if __name__ == "__main__":
    main()
