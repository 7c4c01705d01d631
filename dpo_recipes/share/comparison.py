"""Compares a run with a second run of the same job: inputs, reference, losses, metrics and weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dpo_recipes.cache import file_sha256
from dpo_recipes.formats import finite
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, read_json_lines
from dpo_recipes.run_inputs import ReferenceLogps, RunInputs
from dpo_recipes.run_result import RunResult, read_result

State = Literal["equal", "close", "different", "unknown"]
Verdict = Literal["equal", "close", "different"]
_FIRST_EPOCH = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}
"""The allowed difference of a loss in the first epoch on the same kind of device, relative for values above 1: a few
units of the last place in 32 bits, and two in 16 bits."""
_OTHER_DEVICE = 100.0
_LATER = 1000.0
"""Factors of the allowed difference: other devices sum in another order, and after the first epoch, training has
multiplied the differences of earlier steps."""
_MAX_ALLOWED = 0.1


@dataclass(frozen=True)
class Part:
    """What was compared, in the order in which a run computes it."""

    name: str
    state: State
    text: str
    largest: float | None = None
    """The largest difference of its numbers."""
    allowed: float | None = None
    first: str | None = None
    """The first place with a difference, or with one that is not allowed if there is one."""


@dataclass(frozen=True)
class Change:
    """Something about the machine or the libraries that differs."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.before} before, {self.now} now"


@dataclass(frozen=True)
class Comparison:
    """The outcome of doing a run again."""

    run: Path
    again: Path
    parts: tuple[Part, ...]
    changes: tuple[Change, ...]
    cause: str | None
    """The likely cause of the first difference; None without one."""

    @property
    def verdict(self) -> Verdict:
        """`equal`: everything that was compared is equal to the bit. `close`: equal within what the device allows."""
        states = {part.state for part in self.parts}
        return "different" if "different" in states else "close" if "close" in states else "equal"

    @property
    def first_difference(self) -> Part | None:
        """The first part that is different; if there is none, the first that is not equal to the bit."""
        wanted = "different" if self.verdict == "different" else "close"
        return next((part for part in self.parts if part.state == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        first = self.first_difference
        return {
            "run": str(self.run),
            "again": str(self.again),
            "verdict": self.verdict,
            "first_difference": None if first is None else {"part": first.name, "at": first.first},
            "cause": self.cause,
            "parts": [asdict(part) for part in self.parts],
            "changes": [asdict(change) for change in self.changes],
        }


def allowed_difference(dtype: str, *, same_device: bool, is_late: bool) -> float:
    """How much a loss may differ between two runs of the same job."""
    factor = (1.0 if same_device else _OTHER_DEVICE) * (_LATER if is_late else 1.0)
    return min(_MAX_ALLOWED, _FIRST_EPOCH.get(dtype, _FIRST_EPOCH["float32"]) * factor)


def compare_inputs(before: RunInputs | None, now: RunInputs | None) -> Iterator[Part]:
    """The parts of inputs.json, in the order in which a run reads them."""
    if before is None or now is None:
        yield Part("inputs", "unknown", "the run has no inputs.json: it was made by an earlier version")
        return
    same = before.recipe == now.recipe
    yield Part("settings", _state(same), "the recipe" if same else "resolved.yaml was changed after the run")
    for split in {**before.rows, **now.rows}:
        old, new = before.rows.get(split), now.rows.get(split)
        counts = " and ".join(f"{rows.rows if rows else 0} rows" for rows in ((old, new) if old != new else (new,)))
        yield Part(f"rows of {split}", _state(old == new), counts)
    yield Part("tokenizer", _state(before.tokenizer == now.tokenizer), "vocabulary and special tokens")
    yield Part("chat template", _state(before.chat_template == now.chat_template), "its text")
    if before.base_weights is None or now.base_weights is None:
        yield Part("base", "unknown", "its weights are not compared: their initialization varies in the last bits")
    elif before.computation == now.computation or before.base_weights == now.base_weights:
        yield Part("base", _state(before.base_weights == now.base_weights), "its weights")
    else:  # another precision or library may load the same files as other numbers
        yield Part("base", "unknown", "its weights are not compared, because they are loaded for another computation")


def compare_reference(before: RunInputs | None, now: RunInputs | None, dtype: str, *, same_device: bool) -> list[Part]:
    """The log-probabilities of the reference. They are computed anew, not taken from the cache."""
    if before is None or now is None:
        return []
    allowed = allowed_difference(dtype, same_device=same_device, is_late=False)
    return [
        _compare_logps(split, before.reference[split], now.reference[split], allowed)
        for split in before.reference
        if split in now.reference
    ]


def _compare_logps(split: str, old: ReferenceLogps, new: ReferenceLogps, allowed: float) -> Part:
    name = f"reference on {split}"
    if old.sha256 == new.sha256:
        return Part(name, "equal", f"log-probabilities of {new.rows} rows", 0.0, allowed)
    pairs = [
        (f"row {row}", a, b)
        for ours, theirs in zip(old.first, new.first, strict=False)
        for row, (a, b) in enumerate(zip(ours, theirs, strict=False))
    ]
    what = f"log-probabilities of the first {len(new.first[0]) if new.first else 0} of {new.rows} rows"
    part = compare_numbers(name, what, pairs, allowed)
    return part if part.state != "equal" else Part(name, "close", f"{what} are equal, and later ones are not")


def compare_losses(
    before: RunDirectory, now: RunDirectory, dtype: str, *, same_device: bool, last_step: int | None
) -> list[Part]:
    """The losses of the steps that both runs have logged, in the first epoch and later."""
    old, new = ({row["step"]: row for row in read_json_lines(run.metrics) if "loss" in row} for run in (before, now))
    steps = [step for step in sorted(old) if step in new and (last_step is None or step <= last_step)]
    if not steps:
        return [Part("losses", "unknown", "the runs have logged no step in common")]
    parts = []
    for name, is_late in (("losses of the first epoch", False), ("losses of later epochs", True)):
        chosen = [step for step in steps if (old[step].get("epoch", 0) > 1) == is_late]
        pairs = [(f"step {step}", old[step]["loss"], new[step]["loss"]) for step in chosen]
        if pairs:
            allowed = allowed_difference(dtype, same_device=same_device, is_late=is_late)
            parts.append(compare_numbers(name, f"{len(pairs)} logged steps up to {chosen[-1]}", pairs, allowed))
    return parts


def compare_results(before: RunResult, now: RunDirectory, dtype: str, *, same_device: bool) -> Iterator[Part]:
    """The metrics of the tuned model, and the files of its weights. Nothing if the second run was ended early."""
    if not now.result.is_file():
        return
    found = read_result(now.result).metrics
    pairs = [(key, before.metrics[key], found[key]) for key in before.metrics if key in found]
    allowed = allowed_difference(dtype, same_device=same_device, is_late=True)
    yield compare_numbers("final metrics", f"{len(pairs)} values", pairs, allowed)


def compare_weights(before: RunDirectory, now: RunDirectory) -> Iterator[Part]:
    """The files of the saved weights. Different bits are no fault as long as the metrics agree."""
    old, new = ({file.name: file for file in (run.path / MODEL_FOLDER).glob("*.safetensors")} for run in (before, now))
    if not new:
        return
    if not old:
        yield Part("saved weights", "unknown", "the run has no model any more")
        return
    changed = [name for name in sorted({**old, **new}) if _digest(old.get(name)) != _digest(new.get(name))]
    yield Part(
        "saved weights",
        "close" if changed else "equal",
        f"{len(new)} file{'s' * (len(new) != 1)}",
        first=changed[0] if changed else None,
    )


def compare_numbers(name: str, text: str, pairs: list[tuple[str, Any, Any]], allowed: float) -> Part:
    """Numbers under their names. A difference is relative for values above 1. NaN and None equal each other."""
    largest, first, first_bad = 0.0, None, None
    for label, before, now in pairs:
        distance = _distance(finite(before), finite(now))
        shown = f"{label}: {before} before, {now} now"
        if distance > 0:
            first = first or shown
        if distance > allowed:
            first_bad = first_bad or shown
        largest = max(largest, distance)
    state: State = "different" if first_bad else "close" if first else "equal"
    return Part(name, state, text, finite(largest), allowed, first_bad or first)


def _distance(before: float | None, now: float | None) -> float:
    if before is None or now is None:
        return 0.0 if before is now else math.inf
    return abs(before - now) / max(1.0, abs(before))


def machine_changes(before: RunDirectory, now: RunDirectory) -> Iterator[Change]:
    """Packages, machine and computation that differ between two runs."""
    old, new = _environment(before), _environment(now)
    packages: tuple[Mapping[str, Any], ...] = (old.get("packages") or {}, new.get("packages") or {})
    for name in sorted({**packages[0], **packages[1]}):
        if packages[0].get(name) != packages[1].get(name):
            yield Change(name, packages[0].get(name, "absent"), packages[1].get(name, "absent"))
    ours, theirs = RunInputs.read(before.inputs), RunInputs.read(now.inputs)
    if ours is not None and theirs is not None:
        for name, value in ours.computation.model_dump().items():
            if value != getattr(theirs.computation, name):
                yield Change(name.replace("_", " "), value, getattr(theirs.computation, name))
    for name in ("machine", "system", "python"):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _environment(run: RunDirectory) -> dict[str, Any]:
    try:
        found = json.loads(run.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(is_equal: bool) -> State:
    return "equal" if is_equal else "different"


def _digest(path: Path | None) -> str | None:
    return None if path is None else file_sha256(path)
