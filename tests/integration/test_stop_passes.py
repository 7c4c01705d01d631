"""A requested stop is raised inside whatever library call is running: no wrapper of libraries' errors may eat it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.data.sources import read_rows
from dpo_recipes.data.template import Renderer, find_template
from dpo_recipes.engine.callbacks.stop import StopRequest, interrupted
from dpo_recipes.errors import Interrupted
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.recipe.schema.data import Source


def _stop(*args: Any, **kwargs: Any) -> Any:
    raise interrupted("somebody asked")


def test_while_a_model_loads(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), loading_errors("model", ModelLocation(str(tmp_path))):
        _stop()


def test_while_a_template_renders() -> None:
    renderer = Renderer(find_template("{{ stop() }}"), {})
    with pytest.raises(Interrupted):
        renderer.render([{"role": "user", "content": "Hi"}], stop=_stop)


def test_while_a_dataset_is_taken_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", _stop)
    with pytest.raises(Interrupted):
        list(read_rows(Source(path="some/dataset")))


@pytest.mark.parametrize("trained", [False, True])
def test_a_stop_before_or_after_training_ends_at_once_and_once(tmp_path: Path, trained: bool) -> None:
    request = StopRequest(tmp_path)
    request.trained = trained
    with pytest.raises(Interrupted) as caught:
        request._on_signal(signal.SIGTERM, None)
    assert (caught.value.findings[0].code, caught.value.exit_code) == ("I130", 130)
    assert ("training was over" in str(caught.value)) == trained
    request._on_signal(signal.SIGTERM, None)  # what keeps something after the first is not disturbed


def test_a_stop_while_training_waits_for_the_step(tmp_path: Path) -> None:
    request = StopRequest(tmp_path)
    request.training = True
    request._on_signal(signal.SIGINT, None)
    assert request.is_set
