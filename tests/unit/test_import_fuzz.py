"""Damaged configurations of other tools are imported or refused with a code; nothing else happens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from foreign_files import FILES

from dpo_recipes import registry
from dpo_recipes.errors import SharingError
from dpo_recipes.share.foreign.importer import import_file, make_draft

NUM_CASES = 2000
TOKEN = "hf_" + "a" * 34
VALUES = (
    "null", "true", "false", "-1", "0", "1e-9", "[]", "{}", "''", "yes", "kto", "simpo", "$X", "$((", "1e400", ".nan",
    "[a, {b: c}]", "'${oc.env:X}'", "'${model}'", TOKEN, "!!python/object:os.system x", "&a [*a]", "<<: {a: 1}", "*a",
    "{a: {b: [1, {c: d}]}}", "9" * 30, "[1, 2]", "a,b", "./x.json", "x" * 300, "é ü", "# c", "|\n   text", "'a'b\"",
    "0x1F", "[[1]]", "{1: 2}", "2024-01-01", "1:30",
)  # fmt: skip
SIGNS = "{}[]'\":,#&*!|>%@`$()\\\t -\x00"


def damaged(text: str, other: str, rng: random.Random) -> str:
    """The text with one to three faults."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not lines:
            break
        at, kind = rng.randrange(len(lines)), rng.random()
        line = lines[at]
        key, separator, _ = line.partition(": ")
        if kind < 0.15:
            del lines[at]
        elif kind < 0.3:
            lines.insert(at, rng.choice(other.splitlines()))
        elif kind < 0.75 and separator:
            lines[at] = f"{key}: {rng.choice(VALUES)}"
        elif kind < 0.75 and "--" in line:
            option = line.split()[0] if line.split()[0].startswith("--") else "--beta"
            lines[at] = f"  {option} {rng.choice(VALUES)} \\"
        elif kind < 0.9:
            place = rng.randrange(len(line) + 1)
            lines[at] = line[:place] + rng.choice(SIGNS) + line[place:]
        else:
            lines[at] = line[rng.randrange(len(line) + 1) :]
    return "\n".join(lines)


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_are_imported_or_refused(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    rng, names, refused = random.Random(part), sorted(FILES), 0
    for number in range(NUM_CASES // 4):
        name, other = rng.choice(names), rng.choice(names)
        path = tmp_path / name
        path.write_text(damaged(FILES[name][1], FILES[other][1], rng), encoding="utf-8")
        error = imported_or_refused(path, rng.choice((*[None] * 9, FILES[other][0])), is_whole=number % 5 == 0)
        if error is not None:
            refused += 1
            assert TOKEN not in str(error)
            assert error.exit_code == 7
    assert 0.1 < refused / (NUM_CASES // 4) < 0.8


def imported_or_refused(path: Path, tool: str | None, *, is_whole: bool) -> SharingError | None:
    """The error of an import, or None if it accounts for all keys. `is_whole`: the recipe is written and checked too,
    which takes most of the time."""
    try:
        if is_whole:
            imported = import_file(path, tool=tool)
            draft = imported.draft
        else:
            imported, (draft, _) = None, make_draft(path, tool=tool, kind="", to=path.with_name("recipe.yaml"))
    except SharingError as error:
        return error
    assert set(draft.config.keys) <= set(draft.outcomes), path.read_text()
    assert TOKEN not in str(draft.values)
    if imported is not None:
        plain = imported.to_json()
        assert plain["mapped"] + plain["derived"] + plain["listed"] == plain["keys"]
        assert TOKEN not in imported.text + str(plain)
        codes = {finding.code for finding in imported.findings if finding.severity == "error"}
        assert codes <= {"R301", "R304", "R310"}, path.read_text()
    return None
