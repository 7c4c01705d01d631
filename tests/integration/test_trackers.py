"""Runs that report to trackers: what these have stored is read back, and their failures do not end a run."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.trackers import table
from dpo_recipes.engine.trackers.base import by_split
from dpo_recipes.engine.trackers.session import Trackers
from dpo_recipes.engine.trackers.tensorboard import TensorBoard
from dpo_recipes.engine.trackers.wandb_files import read_history
from dpo_recipes.errors import EXIT_RESUMABLE
from dpo_recipes.events import EventLog
from dpo_recipes.guards.base import Sighting
from dpo_recipes.guards.spikes import Spikes
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_dir import RunDirectory

Work = Callable[..., "Outcome"]  # noqa: F821
Scalars = dict[str, dict[int, float]]
# Libraries that come to these tests only where they are installed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., str]:
    """A recipe that reports to a tracker, with six steps and an evaluation after each third."""
    pairs = write_pairs(tmp_path / "pairs.jsonl", 40)

    def text(*names: str, more: str = "") -> str:
        tracking = f"tracking: {{report_to: [{', '.join(names)}], project: ours, group: together{more}}}"
        return recipe_text(tiny_model, pairs, tracking).replace("max_steps: 3", "max_steps: 6, eval_steps: 3")

    return text


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable of a tracker is set, files go to the test's folder, and handlers of libraries are removed."""
    for name in os.environ:
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_", "TENSORBOARD_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers


def expected(outcome: Any) -> Scalars:
    """The numbers of metrics.jsonl by the names that trackers show."""
    found: Scalars = {}
    for line in outcome.run.metrics.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name != "step" and value is not None:
                split, rest = name.split("_", 1) if name.startswith(("eval_", "test_")) else ("train", name)
                found.setdefault(f"{split}/{rest}", {})[row["step"]] = value
    assert {"train/loss", "eval/loss", "eval/rewards/accuracies"} <= found.keys()
    return found


def warnings(outcome: Any) -> list[dict[str, Any]]:
    return [
        event["finding"]
        for event in outcome.events
        if event["event"] == "finding" and event["finding"]["code"] == "T660"
    ]


def tensorboard_scalars(folder: Path) -> tuple[Scalars, Any]:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    stored = reading.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    stored.Reload()
    tags = stored.Tags()["scalars"]
    return {tag: {event.step: event.value for event in stored.Scalars(tag)} for tag in tags}, stored


def assert_same(found: Scalars, wanted: Scalars) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


def test_tensorboard_has_all_rows_and_the_recipe(work: Work, recipe: Callable[..., str]) -> None:
    outcome = work(recipe("tensorboard"))
    assert (outcome.exit_code, warnings(outcome)) == (0, [])
    scalars, stored = tensorboard_scalars(outcome.run.path / "tensorboard")
    assert_same(scalars, expected(outcome))

    def text(tag: str) -> str:
        return stored.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert "learning_rate: 0.01" in text("config")
    assert "group: together" in text("run")
    assert "max_steps: 6" in text("recipe/recipe.yaml")
    assert '"prediction"' in text("recipe/plan.json")
    assert '"splits"' in text("recipe/data_report.json")
    assert '"status": "finished"' in text("report/result.json")
    assert "Trained with dpo-recipe" in text("report/README.md")


def test_a_resumed_run_has_each_step_once_in_tensorboard(
    work: Work, recipe: Callable[..., str], stop_at: Callable[[int], None]
) -> None:
    pytest.importorskip("tensorboard")
    stop_at(3)
    stopped = work(recipe("tensorboard"))
    assert stopped.exit_code == EXIT_RESUMABLE
    folder = stopped.run.path / "tensorboard"
    (first,) = folder.iterdir()
    # A process that was killed instead of stopped has stored rows after its last checkpoint, which come again.
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder), filename_suffix=".killed") as writer:
        writer.add_scalar("train/loss", 99.0, 5)
    outcome = work(recipe("tensorboard"), resume=True)
    assert (outcome.exit_code, outcome.run.path) == (0, stopped.run.path)
    assert len(list(folder.iterdir())) == 3
    assert first.exists()
    scalars, _ = tensorboard_scalars(folder)
    assert_same(scalars, expected(outcome))
    assert sorted(scalars["train/loss"]) == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """trackio with a folder of its own: the library reads TRACKIO_DIR when it is imported."""
    library = pytest.importorskip("trackio")
    folders = {"TRACKIO_DIR": tmp_path / "trackio"}
    folders |= {"MEDIA_DIR": folders["TRACKIO_DIR"] / "media", "ARTIFACTS_DIR": folders["TRACKIO_DIR"] / "artifacts"}
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "trackio"]:
        for name in folders.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, folders[name])
    return library


def trackio_rows(run: str) -> Scalars:
    from trackio.sqlite_storage import SQLiteStorage

    found: Scalars = {}
    for row in SQLiteStorage.get_logs("ours", run, max_points=None):
        for name, value in row.items():
            if "/" in name:
                # A row of training and one of an evaluation in the same step both have the epoch.
                assert found.get(name, {}).get(row["step"]) is None or name == "train/epoch", "each row comes once"
                found.setdefault(name, {})[row["step"]] = value
    return found


def test_trackio_has_all_rows_the_recipe_and_the_files(
    work: Work, recipe: Callable[..., str], trackio: Any, tmp_path: Path
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    outcome = work(recipe("trackio"))
    assert (outcome.exit_code, warnings(outcome)) == (0, [])
    name = f"tiny-{outcome.run.path.name}"
    assert SQLiteStorage.get_runs("ours") == [name]
    assert_same(trackio_rows(name), expected(outcome))
    config = SQLiteStorage.get_run_config("ours", name)
    assert config is not None
    assert config["recipe"]["training"]["learning_rate"] == 0.01
    assert config["_Group"] == "together"
    blobs = [path.read_bytes() for path in (tmp_path / "trackio").rglob("*") if path.is_file()]
    for file in (outcome.run.given_recipe, outcome.run.plan, outcome.run.data_report, outcome.run.report):
        assert file.read_bytes() in blobs


def test_a_resumed_run_continues_in_trackio(
    work: Work, recipe: Callable[..., str], trackio: Any, stop_at: Callable[[int], None]
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    stop_at(3)
    assert work(recipe("trackio")).exit_code == EXIT_RESUMABLE
    outcome = work(recipe("trackio"), resume=True)
    assert outcome.exit_code == 0
    (name,) = SQLiteStorage.get_runs("ours")
    assert_same(trackio_rows(name), expected(outcome))


def log_twice(
    recipe_text: str,
    folder: Path,
    *,
    lost: tuple[int, ...] = (),
    after_kill: Callable[[RunDirectory], None] | None = None,
) -> tuple[RunDirectory, Scalars]:
    """Rows of a run that was killed after step 5 and resumed from the checkpoint of step 3, and what must be stored.
    The `lost` steps were taken by the tracker and not stored."""
    run = RunDirectory(folder / "20261128T120000Z-abcdef")
    run.path.mkdir()
    path = run.given_recipe
    path.write_text(recipe_text)
    rows = [{"step": step, "loss": 1 / step, "epoch": step / 6} for step in range(1, 7)]
    rows[3:3] = [{"step": 3, "eval_loss": 0.5, "eval_rewards/accuracies": 0.75, "epoch": 0.5}]
    record = run.path / "trackers_sent.jsonl"
    with EventLog(folder / "events.jsonl") as events:
        with Trackers(validate(path).recipe, run, events) as killed:
            killed.start()
            for row in rows:
                if row["step"] <= 5 and row["step"] not in lost:
                    killed.log(row)
        line = json.loads(record.read_text().splitlines()[-1])
        with record.open("a") as file:
            file.writelines(json.dumps({**line, "step": step}) + "\n" for step in lost)
        if after_kill is not None:
            after_kill(run)
        run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= 3))
        with Trackers(validate(path).recipe, run, events) as resumed:
            resumed.start(first_step=3)
            for row in rows:
                if row["step"] > 3:
                    resumed.log(row)
    assert "finding" not in (folder / "events.jsonl").read_text()
    wanted: Scalars = {}
    for row in rows:
        for name, value in by_split({name: value for name, value in row.items() if name != "step"}).items():
            wanted.setdefault(name, {})[row["step"]] = value
    return run, wanted


@pytest.mark.parametrize("lost", [(), (5,)])
def test_a_killed_run_has_each_step_once_in_trackio(
    recipe: Callable[..., str], trackio: Any, tmp_path: Path, lost: tuple[int, ...]
) -> None:
    run, wanted = log_twice(recipe("trackio"), tmp_path, lost=lost)
    assert_same(trackio_rows(f"tiny-{run.path.name}"), wanted)


def test_what_a_guard_sees_is_an_alert_in_trackio(
    work: Work, recipe: Callable[..., str], trackio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    def look(self: Any, job: Any, history: Any) -> Sighting | None:
        return Sighting("a jump", "jump less") if history.training[-1]["step"] >= 2 else None

    monkeypatch.setattr(Spikes, "look", look)
    outcome = work(recipe("trackio"))
    assert (outcome.exit_code, warnings(outcome)) == (0, [])
    raised = {(alert["what"], alert["step"]) for alert in outcome.result["guards"]["alerts"]}
    stored = {alert["title"]: alert for alert in SQLiteStorage.get_alerts("ours")}
    assert {(title, alert["step"]) for title, alert in stored.items()} == raised
    (jump,) = (alert for title, alert in stored.items() if "a jump" in title)
    assert (jump["level"], jump["step"]) == ("warn", 2)
    assert jump["text"].endswith("jump less")


def test_a_tracker_that_fails_in_a_run_is_one_warning(
    work: Work, recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any, row: Any, step: int) -> None:
        raise ConnectionError("the server is away")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr(TensorBoard, "log", fail)
    outcome = work(recipe("tensorboard"))
    assert outcome.exit_code == 0
    (warning,) = warnings(outcome)
    assert warning["what"] == "tensorboard could not store metrics"
    assert warning["why"] == "ConnectionError: the server is away"
    assert capfd.readouterr().err.count("ConnectionError: the server is away") == 1
    assert len(expected(outcome)["train/loss"]) == 6


def test_a_tracker_that_cannot_be_imported_is_one_warning(
    work: Work, recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(TensorBoard):
        def load(self, module: str | None = None) -> Any:
            raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.32' not found")

    pytest.importorskip("tensorboard")
    monkeypatch.setitem(table.TRACKERS, "tensorboard", Broken)
    outcome = work(recipe("tensorboard"))
    assert outcome.exit_code == 0
    (warning,) = warnings(outcome)
    assert warning["what"] == "tensorboard could not start"
    assert "GLIBCXX" in warning["why"]


def test_wandb_keeps_a_run_offline(
    work: Work, recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stop_at: Callable[[int], None]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    stop_at(3)
    assert work(recipe("wandb")).exit_code == EXIT_RESUMABLE
    outcome = work(recipe("wandb"), resume=True)
    assert (outcome.exit_code, warnings(outcome)) == (0, [])
    key = json.loads((outcome.run.path / "trackers.json").read_text())["key"]
    stored = sorted((outcome.run.path / "wandb").glob("offline-run-*"))
    assert [path.name.rpartition("-")[2] for path in stored] == [key, key]
    content = when(
        lambda: b"".join(path.read_bytes() for folder in stored for path in folder.glob("*.wandb")),
        lambda content: b"report.html" in content,
    )
    for text in (b"train/global_step", b"rewards/margins", b"together", b"report.html", b"plan.json"):
        assert text in content


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_killed_run_has_each_step_once_in_wandb(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """W&B writes blocks of 32 KiB: a process that is killed early leaves a file with nothing but its first 7 bytes."""
    pytest.importorskip("wandb")
    record = import_module("wandb.proto.wandb_internal_pb2").Record
    monkeypatch.setenv("WANDB_MODE", "offline")

    def kill(run: RunDirectory) -> None:
        time.sleep(1.1)  # the names of its folders have seconds
        (file,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
        when(lambda: list(read_history(file, record)), lambda rows: len(rows) == 6)
        if is_lost:
            file.write_bytes(file.read_bytes()[:7])

    run, wanted = log_twice(recipe("wandb"), tmp_path, after_kill=kill)
    files = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    rows = when(lambda: [row for file in files for row in read_history(file, record)], lambda rows: len(rows) >= 7)
    found: Scalars = {}
    for row in rows:
        step = int(row["train/global_step"])
        for name, value in row.items():
            if not name.startswith("_") and name != "train/global_step":
                assert step not in found.get(name, {}) or name == "train/epoch", "each row comes once"
                found.setdefault(name, {})[step] = value
    assert_same(found, wanted)


def when(read: Callable[[], Any], is_whole: Callable[[Any], bool]) -> Any:
    """What is read when W&B has written all of it, which it may still do when its run has been finished."""
    until = time.monotonic() + 30
    while not is_whole(found := read()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def test_a_killed_run_has_each_step_once_in_mlflow(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    _, wanted = log_twice(recipe("mlflow"), tmp_path)
    client = mlflow.MlflowClient(address)
    (stored,) = client.search_runs([client.get_experiment_by_name("ours").experiment_id])
    history = {name: client.get_metric_history(stored.info.run_id, name) for name in stored.data.metrics}
    assert_same({name: {m.step: m.value for m in metrics} for name, metrics in history.items()}, wanted)
    assert [metric.step for metric in history["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_mlflow_keeps_a_run_on_this_machine(
    work: Work, recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    stop_at: Callable[[int], None],
) -> None:  # fmt: skip
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    stop_at(3)
    assert work(recipe("mlflow")).exit_code == EXIT_RESUMABLE
    outcome = work(recipe("mlflow"), resume=True)
    assert (outcome.exit_code, warnings(outcome)) == (0, [])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ours")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["group"] == "together"
    assert run.data.params["training.learning_rate"] == "0.01"
    found = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }
    assert_same(found, expected(outcome))
    files = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert {"report/report.html", "report/result.json"} <= files
