"""How a worker's process ends: with all done that libraries want done at exit, but without taking Python apart.

A thread of gloo drops a collective's tensors when it comes to it, and lives as long as anything holds the process
group, as DDP does after `destroy_process_group`. Where Python has begun to take itself apart by then, the thread's
request for the interpreter aborts the process ("terminate called without an active exception";
ProcessGroupGloo::runLoop of torch 2.13 with Python before 3.14), although all was saved.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


class Ending:
    """Makes `with_code` end this process where Python would begin to take itself apart. To be made before libraries
    are loaded: what they register with `atexit` is then called before."""

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._end)

    def with_code(self, code: int) -> NoReturn:
        """Exit with this code."""
        self._code = code
        sys.exit(code)

    def _end(self) -> None:
        if self._code is None:  # an exception that nobody caught: Python tells it and sets the code
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed stream
                stream.flush()
        os._exit(self._code)
