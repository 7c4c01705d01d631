"""The progress of a run: a live view on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from dpo_recipes.cli.chain_text import describe_event
from dpo_recipes.cli.live_view import LiveView
from dpo_recipes.cli.options import short_path
from dpo_recipes.cli.sweep_text import describe_comparison, describe_ending, describe_trial
from dpo_recipes.errors import EXIT_BUG, Finding
from dpo_recipes.formats import format_bytes
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.supervise import WorkerBug

if TYPE_CHECKING:
    from dpo_recipes.finished_run import FinishedRun
    from dpo_recipes.run_result import RunResult

_PLAIN_EVERY_S = 10.0
_BETWEEN_RUNS = ("sweep", "trial", "trial_ended", "chain", "chain_step", "chain_step_ended")


class Progress:
    """Turns a worker's events into text."""

    def __init__(self) -> None:
        self._live = LiveView(write_message) if sys.stderr.isatty() else None
        self._last_plain = 0.0
        self._sweep_metric: Metric
        self._shares: dict[str, tuple[int, int]] = {}
        """The step and the number of steps of each run that is executed at the same time as others."""
        self._metrics: tuple[Metric, ...] = ()
        """Those of the run's objective, which its first event names."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last state of the live view where it is."""
        if self._live is not None:
            self._live.leave()

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if "of" in event:
            self._one_of_several(event)
        elif event["event"] in _BETWEEN_RUNS:
            self._between_runs(event)
        else:
            self._one_run(event)

    def _one_run(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "run":
            again = ", unfinished: resuming it" if event.get("resumed") else ""
            self._line(f"run       {short_path(event['dir'])}{again}")
            objective = get_objective(event["objective"])
            self._metrics = objective.metrics
            if self._live is not None:
                self._live.begin_run()
            self._launch(event["plan"], objective.row_noun)
            for finding in event["plan"].warnings:
                self._line(finding.render())
        elif kind == "stage":
            self.close()
            self._line(f"{event['name']:<9} {event['detail']}")
        elif kind == "note":
            self._line(f"          {event['text']}")
        elif kind == "finding":
            self._line(Finding.from_json(event["finding"]).render())
        elif kind == "retry":
            self._line(f"{event['error']}\nretry     starting again, {event['left']} retries left")
        elif kind == "share":
            self._share(event)
        elif kind == "step":
            self._step(event)

    def lines(self, lines: Iterable[str]) -> None:
        """Show finished text."""
        for line in lines:
            self._line(line)

    def _launch(self, plan: Any, noun: str) -> None:
        """The number of processes, and the command for the other nodes."""
        batch = plan.launch.batch
        self._line(f"launch    {batch.describe(noun)}")
        if batch.num_nodes > 1:
            self._line(f"          on each of the other nodes, run: {shlex.join(plan.command)}")

    def summary(self, finished: FinishedRun) -> None:
        """The last lines of a run: its results and their paths."""
        from dpo_recipes.report.sections import describe_saved_model

        result, objective = finished.result, finished.objective
        words, noun = result.answer_words, objective.row_noun
        saved = f", {result.positions_saved:.0%} of positions saved" if result.positions_saved else ""
        self._line(
            f"done      {result.steps} steps, {result.train_runtime_s:.0f} s of training, "
            f"{result.rows_per_second:.2f} {noun}s/s{saved}, peak {format_bytes(result.peak_memory_bytes)}"
        )
        if held_out := describe_held_out(result, objective):
            self._line(f"held out  {held_out}")
        if result.guards.alerts:
            seen = ", ".join(f"{alert.guard} at step {alert.step}" for alert in result.guards.alerts)
            self._line(f"guards    {seen}; the report explains them")
        if words:
            self._line(f"answers   {words.base} words before, {words.tuned} after ({words.prompts} prompts)")
        self._line(f"model     {short_path(finished.model_dir)}")
        if result.saved_model:
            self._line(f"saved     {describe_saved_model(result.saved_model)}")
        self._line(f"report    {short_path(finished.run.report)}")

    def _share(self, event: dict[str, Any]) -> None:
        eta = _duration(event["eta_s"])
        if self._live is not None:
            self._live.show_share(event["name"], event["detail"], event["done"], eta)
        else:
            self._now(f"{event['name']:<9} {event['detail']} {event['done']:.0%}  ETA {eta}")

    def _one_of_several(self, event: dict[str, Any]) -> None:
        """An event of one of the runs that are executed at the same time: only what matters, with the run's name."""
        kind, name = event["event"], event["of"]
        if kind in _BETWEEN_RUNS:
            self._shares.pop(name, None)
            self._between_runs(event)
        elif kind == "finding":
            self._line(f"[{name}] {Finding.from_json(event['finding']).render()}")
        elif kind == "retry":
            self._line(f"[{name}] {event['error']}\nretry     starting again, {event['left']} retries left")
        elif kind == "step":
            self._shares[name] = (event["step"], event["total"])
            shares = dict(sorted(self._shares.items()))
            if self._live is not None:
                self._live.show_runs(shares)
            else:
                self._now("train     " + "   ".join(f"{run} step {s}/{total}" for run, (s, total) in shares.items()))

    def _between_runs(self, event: dict[str, Any]) -> None:
        """What happens between the runs of a sweep or a chain."""
        kind = event["event"]
        if kind in ("chain", "chain_step", "chain_step_ended"):
            self.lines(describe_event(event))
        elif kind == "sweep":
            self._sweep_metric = event["metric"]
            again = ", unfinished: resuming it" if event["resumed"] else ""
            self._line(f"sweep     {short_path(event['dir'])}{again}")
            self._line(f"          {describe_comparison(event['num_runs'], event['metric'])}")
        elif kind == "trial":
            self._line(f"\ntrial     {describe_trial(event)}")
        else:
            if event["state"] != "finished":
                self._line(event["text"])
            self._line(f"trial     {event['name']} {describe_ending(event, self._sweep_metric)}")

    def _step(self, event: dict[str, Any]) -> None:
        values, eta = event["metrics"], _duration(event["eta_s"])
        if self._live is not None:
            self._live.show_step(event, self._metrics, eta)
            return
        parts = [f"train     step {event['step']}/{event['total']}"]
        for metric in self._metrics:
            if metric.is_shown_live and values.get(metric.key) is not None:
                parts.append(f"{metric.live_label} {metric.format(values[metric.key])}")
        parts.append(f"{event['tokens_per_second']:.0f} tokens/s")
        parts.append(f"ETA {eta}")
        self._now("  ".join(parts), is_last=event["step"] == event["total"])

    def _now(self, text: str, *, is_last: bool = False) -> None:
        """Show the progress of a stage: in place on a terminal, elsewhere not more often than every few seconds."""
        if self._live is not None:
            self._live.show_text(text)
        elif is_last or time.monotonic() - self._last_plain >= _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            write_message(f"{text}\n")

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.write_above(text)
        else:
            write_message(f"{text}\n")


@contextlib.contextmanager
def worker_bugs() -> Iterator[None]:
    """Turn a bug in a worker into a message and its exit code."""
    try:
        yield
    except WorkerBug as bug:
        write_message(f"error: this is a bug in dpo-recipe: {bug}\n")
        raise typer.Exit(EXIT_BUG) from None


def write_message(text: str) -> None:
    """Write to stderr. If that fails, because of a closed pipe or a full disk, the run continues."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def describe_held_out(result: RunResult, objective: Objective) -> str:
    """The metrics on the held-out rows in one line; empty without a value."""
    values = [_held_out(metric, result) for metric in objective.metrics if metric.is_shown_live]
    return ", ".join(filter(None, values))


def _held_out(metric: Metric, result: RunResult) -> str:
    """A metric on the held-out rows beside that of the base, if it is measured there; empty without a value."""
    tuned, base = (values.get(f"eval_{metric.key}") for values in (result.metrics, result.base_metrics))
    if tuned is None:
        return ""
    shown = f" (base {metric.format(base)})" if base is not None and metric.is_measured_at_base else ""
    return f"{metric.live_label} {metric.format(tuned)}{shown}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
