"""Watches the rows of metrics during training: lets the guards look at each, and says when training is to end early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dpo_recipes.data.lengths import trained_lengths
from dpo_recipes.data.tokenize import LABEL, TokenizedSplits
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.engine.early_stop import EarlyStop
from dpo_recipes.engine.trackers.session import Trackers
from dpo_recipes.errors import Finding
from dpo_recipes.events import EventLog
from dpo_recipes.guards.base import Guard, History, Job, Row, Sighting
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.objectives import early_stopping_metric, objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.guards import guards_of
from dpo_recipes.run_result import AnswerWords, Drift, GuardAlert, GuardReport


class Watch:
    """Looks at the rows in the first process. What it has seen is a function of the rows: a resumed run shows it those
    in metrics.jsonl again, and neither repeats nor misses an alert."""

    def __init__(self, guards: Sequence[Guard], job: Job, events: EventLog, distributed: DistributedContext,
        early_stop: EarlyStop | None = None, trackers: Trackers | None = None,
    ) -> None:  # fmt: skip
        self.guards = [guard for guard in guards if guard.watches(job)]
        self.job = job
        self.events = events
        self.distributed = distributed
        self.early_stop = early_stop
        self.trackers = trackers
        """They get what the guards see as alerts."""
        self.history = History()
        self.alerts: list[GuardAlert] = []
        self.end_reason: str | None = None
        """Why training is to end before its last step; known in the first process only."""

    @property
    def may_end(self) -> bool:
        """Whether training may end early; the same in all processes."""
        return self.early_stop is not None or any(guard.action == "stop" for guard in self.guards)

    def should_end(self) -> bool:
        """Whether training is to end now. If it may, all processes must call this together."""
        return self.may_end and self.distributed.any(self.end_reason is not None)

    def replay(self, rows: Iterable[Row]) -> None:
        """Look at the rows that an earlier process wrote, and report nothing again."""
        for row in rows:
            self._look(row)

    def see(self, row: Row) -> None:
        """Look at a new row, and report what the guards see."""
        if not self.distributed.is_main:
            return
        findings = self._look(row)
        self.events.findings(findings)
        if self.trackers is not None:
            for finding in findings:
                self.trackers.alert(finding)

    def see_answers(self, step: int, words: AnswerWords, drift: Drift | None) -> None:
        """Look at the lengths of the answers that were generated after training, and at the drift."""
        lengths = {f"answer_words/{name}": value for name, value in dict(words).items()}
        nats = None if drift is None else drift.nats_per_answer
        self.see({"step": step, **lengths, "drift/nats_per_answer": nats})

    def has(self, name: str) -> bool:
        """Whether a guard is active."""
        return any(guard.name == name for guard in self.guards)

    def report(self) -> GuardReport:
        """The active guards and what they saw."""
        return GuardReport(watched=[guard.name for guard in self.guards], alerts=self.alerts)

    def _look(self, row: Row) -> list[Finding]:
        """Add a row to the history, and record and return what the guards see in it for the first time."""
        kind, known = self.history.add(row), {alert.guard for alert in self.alerts}
        looking = [guard for guard in self.guards if kind in guard.kinds and guard.name not in known]
        found = [(guard, seen) for guard in looking if (seen := guard.look(self.job, self.history)) is not None]
        findings = [self._record(guard, seen, row["step"]) for guard, seen in found]
        if kind == "evaluation" and self.early_stop is not None and self.end_reason is None:
            self.end_reason = self.early_stop.reason(self.history.evaluations)
        return findings

    def _record(self, guard: Guard, seen: Sighting, step: int) -> Finding:
        finding = guard.finding(seen)
        action = "stop" if guard.action == "stop" else "warn"
        texts = {name: getattr(finding, name) for name in ("code", "what", "why", "fix")}
        quality = guard.is_about_quality
        self.alerts.append(GuardAlert(guard=guard.name, step=step, action=action, is_about_quality=quality, **texts))
        if action == "stop" and self.end_reason is None:
            self.end_reason = f"the guard `{guard.name}` ended it at step {step}: {seen.what}"
        return finding


def make_watch(
    recipe: Recipe,
    tokenized: TokenizedSplits,
    dtype: str,
    events: EventLog,
    distributed: DistributedContext,
    trackers: Trackers | None = None,
) -> Watch:
    """The watch of a run that computes in `dtype`."""
    held_out = tokenized.datasets.get("eval")
    job = Job(
        objective_of(recipe),
        recipe.objective,
        batch_of(recipe, distributed.num_processes).rows_per_step,
        num_eval_rows=0 if held_out is None else len(held_out),
        dtype=dtype,
        chosen_tokens=None if held_out is None else _chosen_tokens(held_out),
        length_ratio=_length_ratio(tokenized.datasets["train"]),
    )
    return Watch(guards_of(recipe), job, events, distributed, _early_stop(recipe), trackers)


def _early_stop(recipe: Recipe) -> EarlyStop | None:
    settings, metric = recipe.training.early_stopping, early_stopping_metric(recipe)
    if settings is None or metric is None or recipe.training.eval_steps is None:
        return None
    return EarlyStop(metric, settings.patience, settings.min_delta)


def _chosen_tokens(rows: Any) -> float | None:
    """The mean number of trained tokens of the chosen answers, or of the good ones of labelled rows; None without
    answers."""
    tokens = trained_lengths(rows)[:, :1]
    if LABEL in rows.column_names:
        tokens = tokens[np.array(rows[LABEL])]
    return float(tokens.mean()) if tokens.size else None


def _length_ratio(rows: Any) -> float | None:
    """The mean number of trained tokens of the chosen answers over that of the rejected ones; None without pairs."""
    tokens = trained_lengths(rows)
    if tokens.shape[1] != 2 or not tokens.sum(axis=0).all():
        return None
    return float(tokens[:, 0].mean() / tokens[:, 1].mean())
