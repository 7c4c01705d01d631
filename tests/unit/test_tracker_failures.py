"""A run does not depend on its trackers: each failure is one warning."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from minimal import MINIMAL

from dpo_recipes.engine.trackers import session
from dpo_recipes.engine.trackers.base import TrackedRun, Tracker, Tracking, by_split
from dpo_recipes.engine.trackers.session import Trackers
from dpo_recipes.errors import Finding, Interrupted
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_dir import RunDirectory

Write = Callable[[str, str], Path]


class Recorder(Tracker):
    """Keeps what it is given."""

    variables = {"project": "RECORDER_PROJECT", "group": "RECORDER_GROUP"}  # noqa: RUF012
    made: list[Recorder] = []  # noqa: RUF012

    def __init__(self, run: TrackedRun, earlier: Tracking | None = None) -> None:
        super().__init__(run, earlier)
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        Recorder.made.append(self)

    def _record(self, *call: Any) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(call)

    def start(self) -> Tracking:
        self._record("start", self.earlier)
        return Tracking(id="its-id", url="https://example.org/run")

    def log(self, row: Any, step: int) -> None:
        self._record("log", dict(row), step)

    def attach(self, label: str, files: Any) -> None:
        self._record("attach", label, [file.name for file in files])

    def alert(self, title: str, text: str) -> None:
        self._record("alert", title, text)

    def finish(self, outcome: Any) -> None:
        self._record("finish", outcome)


class Unreachable(Tracker):
    """Fails when it starts."""

    def start(self) -> Tracking:
        raise ConnectionError("no route to host\nand more")


class Exiting(Tracker):
    """Ends the process, as command line programs do."""

    def start(self) -> Tracking:
        raise SystemExit("not logged in")


class Silent(Tracker):
    """Never answers."""

    def start(self) -> Tracking:
        time.sleep(60)
        return Tracking()


class Flaky(Recorder):
    """Fails with every second row."""

    def log(self, row: Any, step: int) -> None:
        if step % 2:
            raise TimeoutError("the server is busy")
        super().log(row, step)


class Slow(Recorder):
    """Needs long to fail."""

    def log(self, row: Any, step: int) -> None:
        self._record("log", step)
        time.sleep(0.06)
        raise OSError("gave up")


@pytest.fixture
def open_trackers(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trackers]]:
    """Trackers of a recipe whose names stand for the given classes."""
    run = RunDirectory(tmp_path / "20261128T120000Z-abcdef")
    run.path.mkdir()
    for file in (run.given_recipe, run.resolved_recipe, run.plan, run.report, run.result):
        file.write_text("x")
    monkeypatch.setattr(Recorder, "made", [])
    with EventLog(tmp_path / "events.jsonl") as events:

        def build(*classes: type[Tracker], overrides: tuple[str, ...] = (), **options: Any) -> Trackers:
            names = ("tensorboard", "mlflow", "dvclive")[: len(classes)]
            monkeypatch.setattr(session, "TRACKERS", dict(zip(names, classes, strict=True)))
            text = f"tracking.report_to=[{', '.join(names)}]"
            recipe = validate(write("r.yaml", MINIMAL), [text, *overrides]).recipe
            return Trackers(recipe, run, events, **options)

        yield build


def _events(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def _findings(tmp_path: Path) -> list[dict[str, Any]]:
    return [event["finding"] for event in _events(tmp_path, "finding")]


def test_a_tracker_gets_recipe_rows_alerts_report_and_end_in_one_thread(open_trackers: Any, tmp_path: Path) -> None:
    with open_trackers(Recorder) as trackers:
        trackers.start()
        trackers.log({"step": 3, "loss": 0.5, "eval_loss": None, "note": "text", "is_on": True})
        trackers.alert(Finding("T604", "it went wrong", why="because", fix="do this"))
        trackers.attach_report()
        assert trackers.names_in_use == ["tensorboard"]
    (tracker,) = Recorder.made
    assert tracker.calls == [
        ("start", None),
        ("attach", "recipe", ["recipe.yaml", "resolved.yaml", "plan.json"]),
        ("log", {"loss": 0.5}, 3),
        ("alert", "it went wrong", "because\ndo this"),
        ("attach", "report", ["report.html", "result.json"]),
        ("finish", "finished"),
    ]
    assert len(tracker.threads) == 1
    assert threading.get_ident() not in tracker.threads
    assert _findings(tmp_path) == []
    assert [note["text"] for note in _events(tmp_path, "note")] == ["tensorboard: https://example.org/run"]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Unreachable, "ConnectionError: no route to host"),
        (Exiting, "SystemExit: not logged in"),
        (Silent, "it did not answer within 0 s"),
    ],
)
def test_a_tracker_that_does_not_start_is_one_warning_and_the_others_go_on(
    open_trackers: Any, tmp_path: Path, broken: type[Tracker], why: str
) -> None:
    trackers = open_trackers(broken, Recorder)
    trackers.patience_s = 0.2
    with trackers:
        trackers.start()
        for step in range(1, 4):
            trackers.log({"step": step, "loss": 1.0})
        assert trackers.names_in_use == ["mlflow"]
    (warning,) = _findings(tmp_path)
    assert (warning["code"], warning["severity"]) == ("T660", "warning")
    assert warning["what"] == "tensorboard could not start"
    assert warning["why"] == why
    assert warning["at"] == ["tracking", "report_to", 0]
    assert "metrics.jsonl" in warning["fix"]
    assert [call[0] for call in Recorder.made[0].calls] == ["start", "attach", "log", "log", "log", "finish"]


def test_a_tracker_that_fails_now_and_then_is_tried_again(open_trackers: Any, tmp_path: Path) -> None:
    with open_trackers(Flaky) as trackers:
        trackers.start()
        for step in range(1, 7):
            trackers.log({"step": step, "loss": 1.0})
    assert [call[2] for call in Recorder.made[0].calls if call[0] == "log"] == [2, 4, 6]
    (warning,) = _findings(tmp_path)
    assert warning["what"] == "tensorboard could not store metrics at step 1"
    assert "MLFLOW" not in warning["fix"]
    assert _events(tmp_path, "note")[-1]["text"] == "tensorboard failed 3 times in all; what it missed is not there"


def test_a_tracker_whose_failures_take_long_is_given_up(open_trackers: Any, tmp_path: Path) -> None:
    trackers = open_trackers(Slow)
    trackers.patience_s = 0.1
    with trackers:
        trackers.start()
        for step in range(1, 7):
            trackers.log({"step": step, "loss": 1.0})
    assert [call for call in Recorder.made[0].calls if call[0] == "log"] == [("log", 1), ("log", 2)]
    assert len(_findings(tmp_path)) == 1


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("x"), "failed"), (Interrupted.of("I101", "stopped"), "interrupted")]
)
def test_a_tracker_is_told_how_the_run_ended(open_trackers: Any, error: Exception, outcome: str) -> None:
    trackers = open_trackers(Recorder)

    def fail() -> None:
        with trackers:
            trackers.start()
            raise error

    with pytest.raises(type(error)):
        fail()
    assert Recorder.made[0].calls[-1] == ("finish", outcome)
    assert trackers.patience_s == (15 if outcome == "interrupted" else 120)


def test_a_resumed_run_continues_the_run_of_each_tracker(open_trackers: Any, tmp_path: Path) -> None:
    for step in (0, 7):
        with open_trackers(Recorder) as trackers:
            trackers.start(step)
    first, second = Recorder.made
    assert second.calls[0] == ("start", Tracking(id="its-id", url="https://example.org/run"))
    assert first.run.key == second.run.key
    assert (first.run.first_step, second.run.first_step) == (0, 7)
    kept = json.loads((tmp_path / "20261128T120000Z-abcdef" / "trackers.json").read_text())
    assert kept["key"] == first.run.key


def log_steps(trackers: Trackers, *steps: int) -> None:
    """A row of training for each step, and in every second one also a row of an evaluation."""
    for step in steps:
        trackers.log({"step": step, "loss": 1.0 / step})
        if step % 2 == 0:
            trackers.log({"step": step, "eval_loss": 2.0 / step})


def rows_of(tracker: Recorder) -> list[tuple[int, str]]:
    return [(call[2], *call[1]) for call in tracker.calls if call[0] == "log"]


def test_rows_and_alerts_that_a_killed_process_has_sent_are_not_sent_again(open_trackers: Any) -> None:
    alert = Finding("T604", "it went wrong", why="because", fix="do this")
    killed = open_trackers(Recorder)
    killed.start()
    log_steps(killed, 1, 2, 3)
    killed.log({"step": 4, "loss": 0.25})  # before its evaluation was sent
    killed.alert(alert)
    with open_trackers(Recorder) as trackers:
        trackers.start(first_step=2)
        log_steps(trackers, 3, 4)
        trackers.alert(alert)
        log_steps(trackers, 5)
        trackers.alert(alert)
    second = Recorder.made[1]
    assert rows_of(second) == [(4, "eval_loss"), (5, "loss")]
    assert [call for call in second.calls if call[0] == "alert"] == [("alert", "it went wrong", "because\ndo this")]


def test_a_row_that_failed_or_was_lost_is_sent_again(open_trackers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Flaky` refuses odd steps. The process lost the row of step 4, which its tracker had taken and not stored."""
    killed = open_trackers(Flaky)
    killed.start()
    log_steps(killed, 1, 2, 3, 4)
    monkeypatch.setattr(Recorder, "last_step", lambda self: 3)
    with open_trackers(Recorder) as trackers:
        trackers.start()
        log_steps(trackers, 1, 2, 3, 4)
    assert rows_of(Recorder.made[1]) == [(1, "loss"), (3, "loss"), (4, "loss"), (4, "eval_loss")]


def test_rows_before_the_checkpoint_that_a_tracker_has_lost_are_sent_again(
    open_trackers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = open_trackers(Recorder)
    killed.start()
    log_steps(killed, 1, 2, 3, 4)
    rows = [{"step": step, "loss": 1.0 / step} for step in range(1, 5)]
    killed.run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(Recorder, "last_step", lambda self: 1)
    with open_trackers(Recorder) as trackers:
        trackers.start(first_step=3)
        log_steps(trackers, 4)
    assert rows_of(Recorder.made[1]) == [(2, "loss"), (3, "loss"), (4, "loss"), (4, "eval_loss")]


def test_a_tracker_that_replaces_rows_or_is_new_gets_all_of_them(
    open_trackers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = open_trackers(Recorder)
    killed.start()
    log_steps(killed, 1, 2)
    with open_trackers(Recorder, Recorder) as trackers:
        trackers.start()
        log_steps(trackers, 1)
    assert [rows_of(tracker) for tracker in Recorder.made[1:]] == [[], [(1, "loss")]]
    monkeypatch.setattr(Recorder, "replaces_rows", True)
    with open_trackers(Recorder) as trackers:
        trackers.start()
        log_steps(trackers, 1)
    assert rows_of(Recorder.made[-1]) == [(1, "loss")]


def test_a_damaged_record_sends_rows_again(open_trackers: Any, tmp_path: Path) -> None:
    killed = open_trackers(Recorder)
    killed.start()
    record = tmp_path / "20261128T120000Z-abcdef" / "trackers_sent.jsonl"
    log_steps(killed, 1, 3)
    whole = record.read_text()
    record.write_text(f'[]\n{{"by": 3}}\n{whole[: len(whole) - 20]}')  # the last line was cut off
    with open_trackers(Recorder) as trackers:
        trackers.start()
        log_steps(trackers, 1, 3)
    assert rows_of(Recorder.made[1]) == [(3, "loss")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "x", "runs": {"tensorboard": {"other": 1}}}'])
def test_a_damaged_file_starts_another_run(open_trackers: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "20261128T120000Z-abcdef" / "trackers.json").write_text(text)
    with open_trackers(Recorder) as trackers:
        trackers.start()
    assert Recorder.made[0].earlier is None
    assert _findings(tmp_path) == []


def test_only_the_first_process_reports(open_trackers: Any, tmp_path: Path) -> None:
    with open_trackers(Recorder, is_main=False) as trackers:
        trackers.start()
        trackers.log({"step": 1, "loss": 1.0})
        trackers.attach_report()
    assert Recorder.made == []
    assert not (tmp_path / "20261128T120000Z-abcdef" / "trackers.json").exists()


def test_nothing_is_attached_if_the_recipe_says_so(open_trackers: Any) -> None:
    with open_trackers(Recorder, overrides=("tracking.attach=false",)) as trackers:
        trackers.start()
        trackers.attach_report()
    assert [call[0] for call in Recorder.made[0].calls] == ["start", "finish"]


def test_names_come_from_the_recipe_then_the_environment_then_the_run(
    open_trackers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(*overrides: str) -> tuple[str, str, str | None]:
        with open_trackers(Recorder, overrides=overrides) as trackers:
            trackers.start()
        tracker = Recorder.made[-1]
        return tracker.project, tracker.name, tracker.group

    assert names() == ("minimal", "minimal-20261128T120000Z-abcdef", None)
    monkeypatch.setenv("RECORDER_PROJECT", "theirs")
    monkeypatch.setenv("RECORDER_GROUP", "a")
    assert names() == ("theirs", "minimal-20261128T120000Z-abcdef", "a")
    ours = ("tracking.project=ours", "tracking.run_name=trial-1", "tracking.group=sweep")
    assert names(*ours) == ("ours", "trial-1", "sweep")


def test_a_wait_is_shorter_where_other_processes_wait_too(open_trackers: Any) -> None:
    assert open_trackers(Recorder).patience_s == 120
    assert open_trackers(Recorder, overrides=("launch.timeout_minutes=2",)).patience_s == 30


def test_the_parent_is_told_that_a_run_which_waits_is_alive(
    open_trackers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_recipes.engine.trackers.calls._ALIVE_EVERY_S", 0.02)
    trackers = open_trackers(Silent)
    trackers.patience_s = 0.1
    trackers.start()
    assert 2 <= len(_events(tmp_path, "alive")) <= 5


def test_metrics_are_named_as_transformers_names_them() -> None:
    row = {"loss": 1.0, "rewards/margins": 2.0, "eval_loss": 3.0, "test_rewards/chosen": 4.0, "evaluated": 5.0}
    assert by_split(row) == {
        "train/loss": 1.0, "train/rewards/margins": 2.0, "eval/loss": 3.0, "test/rewards/chosen": 4.0,
        "train/evaluated": 5.0,
    }  # fmt: skip


def test_the_values_of_the_recipe_have_paths(open_trackers: Any) -> None:
    with open_trackers(Recorder) as trackers:
        trackers.start()
    flat = Recorder.made[0].flat_config
    assert flat["training.learning_rate"] == 5e-6
    assert flat["data.train.0.limit"] == 100
