"""The hub is left alone where it does not answer, and only there."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hub_server import serve_hub
from huggingface_hub import constants

from dpo_recipes import hub


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_PAUSE_S", 0.0)
    hub.go_offline_if_unreachable.cache_clear()
    yield
    hub.go_offline_if_unreachable.cache_clear()


def test_one_that_answers_with_an_error_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub({}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        assert not hub.is_offline()
        assert not hub.go_offline_if_unreachable()
        assert hub.is_reachable()
    assert not constants.HF_HUB_OFFLINE
    assert not hub.is_offline()


def test_all_libraries_are_told_where_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = SimpleNamespace(config=SimpleNamespace(HF_HUB_OFFLINE=False))
    monkeypatch.setitem(sys.modules, "datasets", datasets)  # type: ignore[arg-type]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert hub.go_offline_if_unreachable()
    assert hub.is_offline()
    assert constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE


def test_offline_mode_chosen_by_the_user_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.go_offline_if_unreachable()
