"""A worker's process ends with its code, whatever would happen while Python takes itself apart."""

from __future__ import annotations

import signal
import subprocess
import sys

ENDING = """
import atexit, os, sys
from dpo_recipes.launch.ending import Ending, leave_out_handlers
ending = Ending()

class Thread:  # as gloo's thread does when Python is gone
    def __del__(self, abort=os.abort):
        abort()

kept = Thread()
atexit.register(print, "a library is done")
sys.stdout.write("unflushed ")
{end}
"""


def end(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ENDING.format(end=how)], capture_output=True, text=True, check=False)


def test_what_libraries_do_at_exit_is_done_and_nothing_after_it() -> None:
    ended = end("ending.with_code(75)")
    assert (ended.returncode, ended.stdout) == (75, "unflushed a library is done\n"), ended.stderr


def test_the_handlers_of_a_library_that_does_not_return_are_left_out() -> None:
    waiting = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    ended = end(f"{waiting}; leave_out_handlers(); ending.with_code(75)")
    assert (ended.returncode, ended.stdout) == (75, "unflushed "), ended.stderr


def test_without_it_the_process_would_abort() -> None:
    assert end("sys.exit(75)").returncode == -signal.SIGABRT


def test_an_exception_is_told_as_ever() -> None:
    assert "ZeroDivisionError" in end("1 / 0").stderr
