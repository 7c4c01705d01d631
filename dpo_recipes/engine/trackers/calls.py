"""Calls a library in a thread of its own, and waits for it no longer than agreed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from dpo_recipes.launch.ending import leave_out_handlers

_ALIVE_EVERY_S = 5.0


class TookTooLong(Exception):
    """A call that had not returned in time. Its thread may never return."""


class CallingThread:
    """One thread for all calls of a tracker: several of them keep the current run in a variable of the thread.

    It is a daemon, so that a call that never returns does not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(self, function: Callable[[], Any], patience_s: float, while_waiting: Callable[[], None]) -> Any:
        """The result of the function, or its exception. `while_waiting` is called every few seconds.

        Raises `TookTooLong` after `patience_s` seconds. The process then ends without the library's own handlers.
        """
        future: Future[Any] = Future()
        self._calls.put((future, function))
        until = time.monotonic() + patience_s
        while not wait([future], timeout=max(0.0, min(_ALIVE_EVERY_S, until - time.monotonic()))).done:
            if time.monotonic() >= until:
                leave_out_handlers()
                raise TookTooLong(f"it did not answer within {patience_s:.0f} s")
            while_waiting()
        return future.result()

    def _work(self) -> None:
        while True:
            future, function = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # libraries may also call sys.exit
                future.set_exception(error)
