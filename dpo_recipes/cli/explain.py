"""`dpo-recipe explain`: what an error code means, at more length than the error itself."""

from __future__ import annotations

import difflib
import json
from typing import Annotated

import typer

from dpo_recipes.cli.options import JsonOption
from dpo_recipes.errors import RecipeError
from dpo_recipes.guards import outside_codes
from dpo_recipes.objectives import all_codes


def explain(
    code: Annotated[str | None, typer.Argument(help="A code such as R203; none lists all.", metavar="CODE")] = None,
    json_: JsonOption = False,
) -> None:
    """Explain an error code, or list all of them."""
    codes = {**outside_codes(), **all_codes()}
    wanted = codes if code is None else {code.upper(): codes.get(code.upper())}
    if code is not None and wanted[code.upper()] is None:
        near = difflib.get_close_matches(code.upper(), codes, n=1, cutoff=0.4)
        raise RecipeError.of(
            "U403",
            f"there is no code {code}",
            why="`dpo-recipe explain` lists all of them",
            fix=f"did you mean {near[0]}?" if near else "check the code",
        )
    if json_:
        typer.echo(json.dumps({key: entry.__dict__ for key, entry in wanted.items() if entry}, indent=2))
    elif code is None:
        for key, entry in codes.items():
            typer.echo(f"{key}  {entry.title}")
    else:
        entry = codes[code.upper()]
        typer.echo(f"{code.upper()}: {entry.title}\n\n{entry.text}")
