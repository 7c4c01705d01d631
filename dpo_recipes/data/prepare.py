"""Builds training and held-out rows on disk from the recipe's sources, or finds them in the cache."""

from __future__ import annotations

import atexit
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.cache import content_key, file_digest, get_or_build, remembered
from dpo_recipes.data import hub
from dpo_recipes.data.collect import RowIndex, collect
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.sources import local_files
from dpo_recipes.data.split_dataset import SPLITS, Division, shared_prompts, split_dataset
from dpo_recipes.data.store import RowFile, RowWriter
from dpo_recipes.data.subsets import NO_SUBSET
from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source
from dpo_recipes.run_dir import write_json

ROWS_VERSION = 11
"""Increased when the same sources produce other rows than before, so that older cache entries are not used."""
_SHAPES_NO_ROWS = {"max_length", "overlong", "train_on_turns"}


@dataclass
class RowSplits:
    """The rows of each split that is not empty, with reports and warnings."""

    rows: dict[str, RowFile]
    reports: dict[str, SplitReport]
    warnings: list[Finding] = field(default_factory=list)
    key: str = ""
    """The cache key, which differs if any row differs."""
    is_cached: bool = False

    @property
    def train(self) -> RowFile:
        """The training rows."""
        return self.rows["train"]


def load_rows(data: Data, seed: int, shape: RowShape = "pair", keeps: Sequence[str] = ()) -> RowSplits:
    """Read all sources, convert their rows to the shape that the objective learns from, select and split, or use the
    cached result. Rows keep the values of the columns `keeps`.

    Raises `DataError`: D401, D402, D403, D404, D405, D406, D410 to D413 as sources and formats do, D407 (cannot be
    split), D409 (every row dropped), D415 (too many subsets).
    """
    sources = {"train": data.train, "eval": _sources(data.eval, data), "test": _sources(data.test, data)}
    fingerprints = [_fingerprint(source) for part in sources.values() for source in part]
    plain = data.model_dump(exclude=_SHAPES_NO_ROWS)
    key = content_key(ROWS_VERSION, seed, plain, fingerprints, shape, data.train_on_turns == "last", *keeps)
    if None in fingerprints:  # the rows may have changed, so the cache cannot be used
        key = content_key(key, secrets.token_hex(16))
    folder, is_cached = get_or_build("rows", key, lambda partial: _build(partial, sources, data, seed, shape, keeps))
    if None in fingerprints:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return RowSplits(
        {name: RowFile(folder / f"{name}.jsonl") for name in SPLITS if (folder / f"{name}.jsonl").exists()},
        {name: SplitReport(**report) for name, report in stored["splits"].items()},
        [Finding.from_json(plain) for plain in stored["warnings"]],
        key,
        is_cached,
    )


def _build(
    folder: Path, sources: dict[str, list[Source]], data: Data, seed: int, shape: RowShape, keeps: Sequence[str]
) -> None:
    index = RowIndex()
    reports = {name: SplitReport(shape) for name in SPLITS}
    spool = folder / "spool"
    with RowWriter(spool) as writer:
        picked = {
            name: collect(part, data, writer, index, reports[name], _place(name, data), keeps=keeps)
            for name, part in sources.items()
            if part
        }
    rows = RowFile(spool, writer.offsets)
    division = Division(rows, index, reports, {})
    split_dataset(division, picked, data, seed)
    for name, places in division.places.items():
        reports[name].rows_kept = len(places)
        reports[name].subsets = _count_subsets(index, places)
        if len(places):
            with RowWriter(folder / f"{name}.jsonl") as out:
                for place in places:
                    out.write_line(rows.line(int(place)))
    report: dict[str, Any] = {
        "splits": {name: asdict(report) for name, report in reports.items() if report.rows_in},
        "warnings": [finding.to_json() for finding in (*index.warnings, *shared_prompts(division))],
    }
    write_json(folder / "report.json", report)
    rows.close()
    spool.unlink()


def _sources(held_out: HeldOut, data: Data) -> list[Source]:
    if held_out.split is not None:
        return [source.model_copy(update={"split": held_out.split, "weight": None}) for source in data.train]
    return held_out.sources


def _place(split: str, data: Data) -> tuple[str | int, ...]:
    """The path in the recipe of the sources of a split."""
    if split == "train" or getattr(data, split).split is not None:
        return ("data", "train")
    return ("data", split, "sources")


def _count_subsets(index: RowIndex, places: np.ndarray) -> dict[str, int]:
    """The number of rows of each subset, by name in alphabetical order."""
    of_rows = np.frombuffer(index.subsets, np.int32)[places]
    counts = np.bincount(of_rows[of_rows != NO_SUBSET])
    return dict(sorted((index.subset_names[at], int(count)) for at, count in enumerate(counts) if count))


def _fingerprint(source: Source) -> Any:
    """An identifier that changes if the content of a source changes, or None if the version is unknown."""
    files = local_files(source)
    if files is not None:
        return [[file.name, remembered("blake2b", file, file_digest)] for file in files]
    return hub.fingerprint(source)
