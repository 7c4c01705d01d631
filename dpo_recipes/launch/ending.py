"""How a worker's process ends: with the command that started it, and before Python finalizes itself.

The command may be killed, so that it cannot ask its workers to stop.

A thread of gloo releases the tensors of a collective late, and it lives as long as anything holds the process group, as
DDP does after `destroy_process_group`. If Python is finalizing by then, the thread's request for the interpreter aborts
the process ("terminate called without an active exception"; ProcessGroupGloo::runLoop of torch 2.13 with Python before
3.14), although everything was saved.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from typing import NoReturn

PARENT = "DPO_RECIPE_PARENT"
"""The variable with the process id of the command. A worker's own parent may be torchrun, which would keep running."""
_LOOK_EVERY_S = 0.5
_without_handlers = threading.Event()


def end_with_parent() -> None:
    """Send this process SIGTERM, on which it writes a checkpoint, when the command has ended. Does nothing if no
    command started it."""
    number = os.environ.get(PARENT)
    if number is not None:
        threading.Thread(target=_watch, args=(int(number),), name="parent", daemon=True).start()


def _watch(number: int) -> None:
    import psutil  # workers alone need it

    try:
        parent = psutil.Process(number)  # psutil compares start times: another process may get the same id
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_LOOK_EVERY_S)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def leave_out_handlers() -> None:
    """Let `Ending.with_code` end this process without the handlers that libraries have registered with `atexit`, and
    without waiting for their threads: a library has not returned from a call, and its handler may not return either."""
    _without_handlers.set()


class Ending:
    """Lets `with_code` end this process before Python finalizes itself. Create it before libraries are loaded, so that
    the handlers that they register with `atexit` run first."""

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._end)

    def with_code(self, code: int) -> NoReturn:
        """Exit with this code."""
        self._code = code
        if _without_handlers.is_set():
            self._end()
        sys.exit(code)

    def _end(self) -> None:
        if self._code is None:  # an uncaught exception: Python prints it and sets the code
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed stream
                stream.flush()
        os._exit(self._code)
