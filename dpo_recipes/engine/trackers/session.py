"""All trackers of a run. Nothing that one of them does ends the run."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from dpo_recipes.engine.trackers.base import Outcome, TrackedRun, Tracker, Tracking
from dpo_recipes.engine.trackers.calls import CallingThread, TookTooLong
from dpo_recipes.engine.trackers.sent import Sent, SentRecord
from dpo_recipes.engine.trackers.table import TRACKERS
from dpo_recipes.errors import Finding, Interrupted, in_one_line
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.trackers import LIBRARIES
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, read_json_lines, write_json

PATIENCE_S = 120.0
"""The seconds that a run waits for one call of a tracker. W&B gives up a start by itself after 90."""
_STOPPING_S = 15.0
"""The same when the run was asked to stop: a cluster gives little time."""


@dataclass
class _Entry:
    """A tracker while it is in use."""

    name: str
    index: int
    """Its place in `report_to`."""
    tracker: Tracker
    thread: CallingThread
    is_in_use: bool = True
    failures: int = 0
    failing_s: float = 0.0
    sent_before: set[Sent] = field(default_factory=set)
    """What it has taken from earlier processes of the run."""


class Trackers:
    """The trackers that a recipe names, in the first process of the run; in other processes use none.

    A tracker that does not start, or whose call does not return, is not called again. One that fails otherwise is tried
    again with the next row, until its failing calls have taken `PATIENCE_S` in all. There is one warning for each.
    """

    def __init__(self, recipe: Recipe, run: RunDirectory, events: EventLog, *, is_main: bool = True) -> None:
        self.recipe = recipe
        self.run = run
        self.events = events
        self.names = tuple(dict.fromkeys(recipe.tracking.report_to)) if is_main else ()
        # The other processes of the run wait meanwhile.
        self.patience_s = min(PATIENCE_S, 60 * recipe.launch.timeout_minutes / 4)
        self._entries: list[_Entry] = []
        self._record = SentRecord(run.path / "trackers_sent.jsonl")
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.finish("finished" if kind is None else "interrupted" if isinstance(error, Interrupted) else "failed")

    def start(self, first_step: int = 0) -> None:
        """Begin the run in each tracker, or continue it, and attach what is known before training. `first_step` is that
        of the checkpoint from which the run resumes."""
        if not self.names:
            return
        key, known = self._read()
        self._write(key, known)  # before a tracker has stored anything under this key
        run = TrackedRun(self.recipe, self.run.path, key, first_step)
        for name in self.names:
            index = self.recipe.tracking.report_to.index(name)
            entry = _Entry(name, index, TRACKERS[name](run, known.get(name)), CallingThread(name))
            self._entries.append(entry)
            tracking = self._call(entry, "start", entry.tracker.start)
            if tracking is None:
                entry.is_in_use = False
                continue
            if name in known and not entry.tracker.replaces_rows:
                self._continue(entry, first_step)
            known[name] = tracking
            if tracking.url:
                self.events.note(f"{name}: {tracking.url}")
        self._write(key, known)
        run_dir = self.run
        self._attach("recipe", [run_dir.given_recipe, run_dir.resolved_recipe, run_dir.plan, run_dir.data_report])

    def _continue(self, entry: _Entry, first_step: int) -> None:
        """Find out what the tracker has, and send the rows up to the checkpoint that it has lost. Those after it will
        be computed again."""
        last_step = self._call(entry, "find its last step", entry.tracker.last_step)
        entry.sent_before = self._record.taken_by(entry.name, last_step)
        if last_step is not None:
            for row in read_json_lines(self.run.metrics):
                if last_step < row["step"] <= first_step:
                    self._log(row, [entry])

    def log(self, row: dict[str, Any]) -> None:
        """Store a row of metrics.jsonl, unless an earlier process of the run has stored it. Values that are no finite
        numbers are left out."""
        self._step = row["step"]
        self._log(row, self._entries)

    def _log(self, row: dict[str, Any], entries: Sequence[_Entry]) -> None:
        step, numbers = row["step"], {}
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                numbers[name] = value
        self._send(Sent.row(step, row), "store metrics", lambda tracker: tracker.log(numbers, step), entries)

    def alert(self, finding: Finding) -> None:
        """Send a finding to the trackers that have alerts."""
        text = "\n".join(part for part in (finding.why, finding.fix) if part)
        sent = Sent.alert(self._step, finding.what)
        self._send(sent, "send an alert", lambda tracker: tracker.alert(finding.what, text), self._entries)

    def attach_report(self) -> None:
        """Store the report, the result and the model card."""
        self._attach("report", [self.run.report, self.run.result, self.run.path / MODEL_FOLDER / "README.md"])

    @property
    def names_in_use(self) -> list[str]:
        """The names of the trackers that have started and are still called."""
        return [entry.name for entry in self._entries if entry.is_in_use]

    def finish(self, outcome: Outcome) -> None:
        """End the run in each tracker; a second call does nothing."""
        if outcome == "interrupted":
            self.patience_s = min(self.patience_s, _STOPPING_S)
        for entry in self._entries:
            self._call(entry, "finish", lambda entry=entry: entry.tracker.finish(outcome))
            if entry.is_in_use and entry.failures > 1:
                self.events.note(f"{entry.name} failed {entry.failures} times in all; what it missed is not there")
        self._entries = []

    def _send(self, sent: Sent, what: str, send: Callable[[Tracker], None], entries: Sequence[_Entry]) -> None:
        """Send a row or an alert to each tracker that does not have it, and record the trackers that have it then."""
        taken = []
        for entry in entries:
            if sent in entry.sent_before:
                continue
            failures = entry.failures
            self._call(entry, what, lambda entry=entry: send(entry.tracker))
            if entry.is_in_use and entry.failures == failures:
                taken.append(entry.name)
        if taken:
            self._record.add(sent, taken)

    def _attach(self, label: str, files: Sequence[Path]) -> None:
        if not self.recipe.tracking.attach:
            return
        there = [file for file in files if file.is_file()]
        for entry in self._entries:
            self._call(entry, f"attach the {label}", lambda entry=entry: entry.tracker.attach(label, there))

    def _call(self, entry: _Entry, what: str, function: Callable[[], Any]) -> Any:
        """The result of the function; None if it fails or the tracker is not in use any more."""
        if not entry.is_in_use:
            return None
        began = time.monotonic()
        try:
            return entry.thread.call(function, self.patience_s, lambda: self.events.emit("alive"))
        except Interrupted:  # raised here by a signal, and not by the tracker
            raise
        except (Exception, SystemExit) as error:  # a library that is not ours may raise anything
            entry.failures += 1
            entry.failing_s += time.monotonic() - began
            entry.is_in_use = not isinstance(error, TookTooLong) and entry.failing_s < self.patience_s
            if entry.failures == 1:
                traceback.print_exception(error)
                self._warn(entry, what, error)
            return None

    def _warn(self, entry: _Entry, what: str, error: BaseException) -> None:
        library = LIBRARIES[entry.name]
        kept = "; metrics.jsonl and the report in the run directory have everything"
        self.events.findings(
            [
                Finding(
                    "T660",
                    f"{entry.name} could not {what}" + (f" at step {self._step}" if self._step else ""),
                    why=str(error) if isinstance(error, TookTooLong) else in_one_line(error),
                    fix=(library.remedy or "see run.log for the library's message") + kept,
                    severity="warning",
                    at=("tracking", "report_to", entry.index),
                )
            ]
        )

    @property
    def _file(self) -> Path:
        """The file that keeps what trackers need to continue the run after a resume."""
        return self.run.path / "trackers.json"

    def _write(self, key: str, known: dict[str, Tracking]) -> None:
        with contextlib.suppress(OSError):  # a full disk ends the run where it must save something
            write_json(self._file, {"key": key, "runs": {name: asdict(tracking) for name, tracking in known.items()}})

    def _read(self) -> tuple[str, dict[str, Tracking]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return kept["key"], {name: Tracking(**values) for name, values in kept["runs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or one that was damaged
            return secrets.token_hex(8), {}
