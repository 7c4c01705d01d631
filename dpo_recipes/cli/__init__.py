"""The command line: one file for each command, no logic. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from pathlib import Path

# Most of a short command's time is spent making the objects of imported modules; collecting among them in vain
# would take a fifth of it.
gc.disable()

import typer  # noqa: E402

from dpo_recipes import __version__  # noqa: E402
from dpo_recipes.cli.cp import cp  # noqa: E402
from dpo_recipes.cli.data import data  # noqa: E402
from dpo_recipes.cli.doctor import doctor  # noqa: E402
from dpo_recipes.cli.explain import explain  # noqa: E402
from dpo_recipes.cli.init import init  # noqa: E402
from dpo_recipes.cli.launch import launch  # noqa: E402
from dpo_recipes.cli.ls import ls  # noqa: E402
from dpo_recipes.cli.plan import plan  # noqa: E402
from dpo_recipes.cli.progress import say  # noqa: E402
from dpo_recipes.cli.run import run  # noqa: E402
from dpo_recipes.cli.schema import schema  # noqa: E402
from dpo_recipes.cli.show import show  # noqa: E402
from dpo_recipes.cli.validate import validate  # noqa: E402
from dpo_recipes.errors import EXIT_INTERRUPTED, EXIT_RUN, DpoRecipeError, is_no_space  # noqa: E402

gc.enable()

app = typer.Typer(
    name="dpo-recipe",
    help="One YAML recipe in, one preference-optimized language model out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (run, launch, validate, plan, data, show, schema, ls, cp, init, explain, doctor):
    app.command()(command)


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
    # What libraries log would mix with our words: bitsandbytes 0.50 warns of a kernel as soon as it is imported.
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed, as by some services
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (for good)
    if sys.argv[1:2] != ["run"] and hasattr(signal, "SIGPIPE"):  # what a run prints is not what it is there for
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app()
    except DpoRecipeError as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C finds nothing left to stop
        say(f"{error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        if not is_no_space(error):
            raise
        say(f"error: the output cannot be written: {error.strerror}\n")
        for stream in (sys.stdout, sys.stderr):  # Python would try again at exit, and set an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(EXIT_RUN)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
