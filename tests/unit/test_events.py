"""Events cross from the worker to its parent whole, once and in order."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dpo_recipes.errors import Finding, Where
from dpo_recipes.events import EventLog, EventReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_are_read_once_and_in_order_while_they_are_written(path: Path) -> None:
    reader = EventReader(path)
    with EventLog(path) as log:
        log.emit("step", step=1)
        log.emit("step", step=2)
        assert [event["step"] for event in reader.new_events()] == [1, 2]
        log.emit("step", step=3)
        assert [event["step"] for event in reader.new_events()] == [3]
    assert list(reader.new_events()) == []


def test_there_are_no_events_before_there_is_a_file(path: Path) -> None:
    assert list(EventReader(path).new_events()) == []


def test_an_unfinished_line_waits_until_it_is_finished(path: Path) -> None:
    reader = EventReader(path)
    path.write_text('{"event": "a"}\n{"event": ')
    assert list(reader.new_events()) == [{"event": "a"}]
    assert list(reader.new_events()) == []
    with path.open("a") as file:
        file.write('"b"}\n')
    assert list(reader.new_events()) == [{"event": "b"}]


def test_a_reader_that_stops_early_loses_nothing(path: Path) -> None:
    path.write_text('{"event": "a"}\n{"event": "b"}\n')
    reader = EventReader(path)
    assert next(reader.new_events()) == {"event": "a"}
    assert list(reader.new_events()) == [{"event": "b"}]


def test_positions_are_counted_in_bytes(path: Path) -> None:
    path.write_text('{"event": "模型"}\n', encoding="utf-8")
    reader = EventReader(path)
    assert list(reader.new_events()) == [{"event": "模型"}]
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "b"}\n')
    assert list(reader.new_events()) == [{"event": "b"}]


def test_a_worker_that_is_run_again_writes_a_new_log(path: Path) -> None:
    for name in ("a", "b"):
        with EventLog(path) as log:
            log.emit(name)
    assert [event["event"] for event in EventReader(path).new_events()] == ["b"]


def test_an_event_carries_the_time(path: Path) -> None:
    before = time.time()
    with EventLog(path) as log:
        log.stage("train", "on cpu")
    (event,) = EventReader(path).new_events()
    assert before - 0.01 <= event["time"] <= time.time() + 0.01
    assert (event["event"], event["name"], event["detail"]) == ("stage", "train", "on cpu")


def test_text_of_many_lines_stays_on_one(path: Path) -> None:
    with EventLog(path) as log:
        log.emit("note", text="a\nb\u2028c\r\n")
    assert [event["text"] for event in EventReader(path).new_events()] == ["a\nb\u2028c\r\n"]


@pytest.mark.parametrize("where", [None, Where("r.yaml"), Where("r.yaml", 3, 5, 2, "  beta: 0")])
def test_findings_arrive_as_they_were(path: Path, where: Where | None) -> None:
    finding = Finding("D401", "a row is odd", where, "because", "drop it", "warning")
    with EventLog(path) as log:
        log.findings([finding])
    (event,) = EventReader(path).new_events()
    assert Finding.from_json(event["finding"]) == finding


def test_a_worker_that_begins_anew_is_read_from_its_start(path: Path) -> None:
    reader = EventReader(path)
    with EventLog(path) as log:
        log.emit("step", step=1)
        log.emit("step", step=2)
        assert len(list(reader.new_events())) == 2
    with EventLog(path) as log:
        log.emit("stage", name="start")
        assert [event["event"] for event in reader.new_events()] == ["stage"]
