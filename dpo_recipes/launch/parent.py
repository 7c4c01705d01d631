"""Workers end with the command that started them, also when it is killed and cannot say so."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "DPO_RECIPE_PARENT"
"""The variable that names the command's process. A worker's own parent may be torchrun, which would go on."""
_LOOK_EVERY_S = 0.5


def end_with_parent() -> None:
    """Get SIGTERM, on which a checkpoint is written, when the command has gone. Without one nobody is waited for."""
    number = os.environ.get(PARENT)
    if number is not None:
        threading.Thread(target=_watch, args=(int(number),), name="parent", daemon=True).start()


def _watch(number: int) -> None:
    import psutil  # of all that starts workers, they alone need it

    try:
        parent = psutil.Process(number)  # knows when it was started: another one may get its number
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_LOOK_EVERY_S)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
