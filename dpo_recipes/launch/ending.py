"""Ends a worker's process after the exit handlers of libraries have run, but before Python finalizes itself.

A thread of gloo releases the tensors of a collective late, and it lives as long as anything holds the process group, as
DDP does after `destroy_process_group`. If Python is finalizing by then, the thread's request for the interpreter aborts
the process ("terminate called without an active exception"; ProcessGroupGloo::runLoop of torch 2.13 with Python before
3.14), although everything was saved.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


class Ending:
    """Lets `with_code` end this process before Python finalizes itself. Create it before libraries are loaded, so that
    the handlers that they register with `atexit` run first."""

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._end)

    def with_code(self, code: int) -> NoReturn:
        """Exit with this code."""
        self._code = code
        sys.exit(code)

    def _end(self) -> None:
        if self._code is None:  # an uncaught exception: Python prints it and sets the code
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed stream
                stream.flush()
        os._exit(self._code)
