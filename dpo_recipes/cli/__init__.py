"""The command line: one file for each command, no logic. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any

# A short command spends most of its time creating the objects of imported modules. Garbage collection would take a
# fifth of that time and free nothing.
gc.disable()

import typer  # noqa: E402
from typer.core import TyperGroup  # noqa: E402
from typer.main import get_command  # noqa: E402

from dpo_recipes import __version__  # noqa: E402
from dpo_recipes.cli.progress import write_message  # noqa: E402
from dpo_recipes.errors import EXIT_INTERRUPTED, EXIT_RUN, DpoRecipeError, is_no_space  # noqa: E402

gc.enable()

VERBS = (
    "run",
    "launch",
    "lock",
    "reproduce",
    "validate",
    "plan",
    "data",
    "show",
    "runs",
    "report",
    "evaluate",
    "pack",
    "push",
    "pull",
    "inspect",
    "verify",
    "schema",
    "ls",
    "cp",
    "init",
    "import",
    "explain",
    "doctor",
)
"""The commands in the order of `--help`; `cli/<verb>.py` has a function of the same name, or `app` for a command with
commands of its own. The names of a verb that is a keyword of Python end in `_`."""


class _Verbs(TyperGroup):
    """Imports the file of a command on demand, because most commands need libraries that a check does not."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(VERBS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in VERBS:  # typer suggests a similar one among those that are loaded
            for verb in VERBS:
                self.get_command(ctx, verb)
        elif cmd_name not in self.commands:
            gc.disable()
            name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
            module = import_module(f"dpo_recipes.cli.{name}")
            alone = getattr(module, "app", None)
            if alone is None:
                alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
                alone.command(cmd_name)(getattr(module, name))
            gc.freeze()
            gc.enable()
            self.commands[cmd_name] = get_command(alone)
        return self.commands.get(cmd_name)


app = typer.Typer(
    name="dpo-recipe",
    cls=_Verbs,
    help="One YAML recipe in, one preference-optimized language model out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version_option(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """One YAML recipe in, one preference-optimized language model out."""
    if version:
        typer.echo(f"dpo-recipe {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script: runs a command and turns errors into text and an exit code."""
    # Logs of libraries would mix with the output: bitsandbytes 0.50 warns about a kernel when it is imported.
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed, as by some services
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (for good)
    if sys.argv[1:2] != ["run"] and hasattr(signal, "SIGPIPE"):  # a run continues without its output
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app()
    except DpoRecipeError as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C finds nothing left to stop
        write_message(f"{error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        if not is_no_space(error):
            raise
        write_message(f"error: the output cannot be written: {error.strerror}\n")
        for stream in (sys.stdout, sys.stderr):  # Python would try again at exit, and set an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(EXIT_RUN)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
