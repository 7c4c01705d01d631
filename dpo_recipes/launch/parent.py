"""Workers end with the command that started them, even if it is killed and cannot ask them to."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "DPO_RECIPE_PARENT"
"""The variable with the process id of the command. A worker's own parent may be torchrun, which would keep running."""
_LOOK_EVERY_S = 0.5


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
