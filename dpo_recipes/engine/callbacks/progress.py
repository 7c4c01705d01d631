"""Writes metrics.jsonl, and sends the progress of the run to the parent process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.speed import SpeedMeter
from dpo_recipes.engine.trackers.session import Trackers
from dpo_recipes.engine.watch import Watch
from dpo_recipes.evaluate.metrics import name_as_test
from dpo_recipes.events import EventLog
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.run_dir import read_json_lines

Emit = Callable[..., None]
"""Reports an event with its fields, as `EventLog.emit`."""
_ALIVE_EVERY_S = 5.0
_SHARE_EVERY_S = 2.0


class PassProgress:
    """Reports how much of a pass over a split is done, by tokens."""

    def __init__(self, name: str, emit: Emit | None = None) -> None:
        self._name = name
        self._emit = emit
        self._reported_at = -math.inf

    def begin(self, split: str, total: int, known: int) -> None:
        """Start a pass over `total` tokens, some of which were computed earlier."""
        self._split, self._total, self._known, self._done = split, total, known, known
        self._started = time.monotonic()

    def add(self, tokens: int) -> None:
        """Report further tokens, counted over all processes."""
        self._done = min(self._done + tokens, self._total)
        now = time.monotonic()
        if self._emit is None or now - self._reported_at < _SHARE_EVERY_S:
            return
        self._reported_at = now
        per_token_s = (now - self._started) / max(1, self._done - self._known)
        self._emit(
            "share",
            name=self._name,
            detail=self._split,
            done=round(self._done / self._total, 4),
            eta_s=round(per_token_s * (self._total - self._done), 1),
        )


class MetricsCallback(TrainerCallback):
    """Writes each logged row to metrics.jsonl under the trainer's names, and reports the progress to the parent."""

    def __init__(
        self,
        path: Path | None,
        events: EventLog,
        metrics: Iterable[Metric],
        tokens_per_row: float,
        keep_bytes: int = 0,
        watch: Watch | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.path = path
        """None in all processes but the first, which take part in counting but write nothing."""
        if path is not None and _keep_rows(path, keep_bytes) < keep_bytes:
            events.note(f"{path.name} has lost rows that were there when the checkpoint was written")
        self.watch = watch
        """Looks at each row, those that are kept first."""
        if watch is not None and path is not None:
            watch.replay(read_json_lines(path))
        self.events = events
        self.trackers = trackers
        """They get the same rows as metrics.jsonl."""
        self.tokens_per_row = tokens_per_row
        live = [metric.key for metric in metrics if metric.is_shown_live]
        self.shown = (*live, *(f"eval_{key}" for key in live), "peak_memory_bytes")
        """The columns whose latest values are reported."""
        self.latest: dict[str, float | None] = {}
        self.started = self._reported_at = time.monotonic()
        self.first_step = 0
        self._step: dict[str, float] | None = None
        """The progress of a step whose row of metrics has not been logged yet."""
        self.speed: SpeedMeter | None = None
        """Set when the trainer, whose batches it counts, has been built."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock. A run whose rows have already ended it does no other step."""
        self._end_if_seen(control)
        self.started, self.first_step = time.monotonic(), state.global_step
        if self.speed is not None:
            self.speed.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report step, speed and remaining time to the parent."""
        elapsed_s = time.monotonic() - self.started
        done = state.global_step - self.first_step
        rows = done * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._step = {
            "step": state.global_step,
            "total": state.max_steps,
            "tokens_per_second": round(rows * self.tokens_per_row / elapsed_s, 1),
            "eta_s": round(elapsed_s / done * (state.max_steps - state.global_step), 1),
        }
        if not control.should_log:  # else with its own metrics, in `on_log`
            self._report_step()

    def _report_step(self) -> None:
        if self._step is not None:
            self.events.emit("step", **self._step, metrics=self.latest)
            self._step = None

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report that the run is alive, also in a long step."""
        self._report_alive()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report that the run is alive during an evaluation."""
        self._report_alive()

    def _report_alive(self) -> None:
        if time.monotonic() - self._reported_at > _ALIVE_EVERY_S:
            self._reported_at = time.monotonic()
            self.events.emit("alive")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the row. The summary that the trainer logs at its end is part of result.json instead."""
        if not logs or "train_runtime" in logs:
            return
        if "test_loss" in logs:
            logs = name_as_test(logs)
        if self.speed is not None and "loss" in logs:
            logs = {**logs, **self.speed.since_last()}
        # transformers logs with its first evaluation how long preparing the model took, which is not a metric.
        kept = {name: _plain(value) for name, value in logs.items() if not name.endswith("model_preparation_time")}
        row = {"step": state.global_step, **kept}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.trackers is not None:
            self.trackers.log(row)
        evaluated = {name: value for name, value in kept.items() if name.startswith("eval_")}
        if evaluated:
            self.events.emit("evaluated", step=state.global_step, metrics=evaluated)
        self.latest = {**self.latest, **{name: row[name] for name in self.shown if name in row}}
        self._report_step()
        if self.watch is not None:
            self.watch.see(row)
        self._end_if_seen(control)

    def _end_if_seen(self, control: TrainerControl) -> None:
        if self.watch is not None and self.watch.should_end():
            control.should_training_stop = True


def _keep_rows(path: Path, num_bytes: int) -> int:
    """Keep the rows that were there when a checkpoint was written, because later ones will be computed again. Returns
    the number of bytes that are left; a power cut may have left fewer."""
    with path.open("a+b") as file:
        file.seek(0)
        return file.truncate(file.read(num_bytes).rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    number = float(value) if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
