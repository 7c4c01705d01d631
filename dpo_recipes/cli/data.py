"""The command `dpo-recipe data`, which shows the training data token by token before a model is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption, find_recipe
from dpo_recipes.errors import EXIT_DATA, DpoRecipeError, RecipeError
from dpo_recipes.jobs.chain_file import validate_recipe
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Locate
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.run_dir import write_text_atomically

_ROWS = 1000
"""The pairs that --model measures unless the person gives another number."""
Split = Literal["train", "eval", "test"]


def data(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    recipe: RecipeArgument,
    set_: SetOption = None,
    json_: JsonOption = False,
    show: Annotated[
        int, typer.Option("--show", help="Show this number of rows of each split, token by token.", min=0, metavar="N")
    ] = 0,
    split: Annotated[Split | None, typer.Option(help="Show only this split.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page for a browser.", metavar="FILE")] = None,
    model: Annotated[
        bool,
        typer.Option(
            "--model",
            help="Also load the base model, and name the pairs that are most likely to make chosen answers less likely "
            "in training.",
        ),
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option(
            help=f"With --model: the number of pairs to measure, evenly spread over the split, {_ROWS:,} by default. "
            "0: all.",
            min=0,
            metavar="N",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Allow a tokenizer or model that needs code from its repository."),
    ] = False,
) -> None:
    """Show the training data: counts, lengths, unusual texts and tokens. Needs no model weights without --model.

    The exit code is 4 if `run` would refuse the data.
    """
    if rows is not None and not model:
        raise typer.BadParameter("--rows is the number of pairs that --model measures; add --model")
    validated = validate_recipe(find_recipe(recipe), set_, "data")
    if model:
        _check_has_pairs(validated)
    num_measured = (_ROWS if rows is None else rows) if model else None
    inspection = _inspect(validated, show, split, num_measured, trust_remote_code=trust_remote_code)
    if html is not None:
        _write_page(html, inspection)
    if json_:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        typer.echo(json.dumps(inspection, indent=2, ensure_ascii=not is_unicode))
    else:
        from dpo_recipes.cli.data_text import DataText

        DataText().write(inspection)
    if any(finding["severity"] == "error" for finding in inspection["warnings"]):
        raise typer.Exit(EXIT_DATA)


def _check_has_pairs(validated: Validated) -> None:
    """Raise `RecipeError` U407 if the objective does not learn likelihoods from pairs."""
    objective = objective_of(validated.recipe)
    if objective.rows == "pair" and objective.head == "causal_lm":
        return
    why = f"`{objective.kind}` learns from rows of one answer"
    if objective.rows == "pair":
        why = f"a model of `{objective.kind}` gives answers a number, and no likelihood"
    raise RecipeError.of(
        "U407",
        "there are no pairs whose likelihood can be displaced",
        where=validated.composed.where(("objective", "kind")),
        why=f"{why}; the measure compares the chosen with the rejected answer of a pair",
        fix="leave out `--model`, or inspect the recipe of an objective on pairs, such as `dpo`",
    )


def _inspect(
    validated: Validated, show: int, split: str | None, num_measured: int | None, *, trust_remote_code: bool
) -> dict[str, Any]:
    """What is known of the data; with `num_measured`, also what the model says about that number of pairs."""
    from dpo_recipes.cli.progress import Progress
    from dpo_recipes.data.inspect.rows import show_rows
    from dpo_recipes.data.inspect.splits import inspect_splits
    from dpo_recipes.prepared_data import prepare_data

    recipe, find, trust = validated.recipe, validated.composed.where, trust_remote_code
    displacement, doubts = None, []
    with Progress() as progress, _located(find):

        def emit(event: str, **fields: Any) -> None:
            progress.on_event({"event": event, **fields})

        def on_stage(name: str, detail: str) -> None:
            emit("stage", name=name, detail=detail)

        prepared = prepare_data(recipe, on_stage, trust_remote_code=trust, for_inspection=True)
        splits, tokenizer, chat = prepared.splits, prepared.tokenizer, prepared.chat
        if split is not None and split not in splits.datasets:
            raise typer.BadParameter(f"this recipe has no split `{split}`, only {', '.join(splits.datasets)}")
        on_stage("inspect", "every row")
        inspected = inspect_splits(splits, prepared.max_length, tokenizer.bos_token_id, split)
        shown = {
            name: [row.to_json() for row in show_rows(splits, tokenizer, chat.renderer, name, show)]
            for name in inspected
        }
        if num_measured is not None:
            from dpo_recipes.engine.displacement import measure_displacement

            displacement, doubts = measure_displacement(
                recipe, prepared, split or "train", num_measured, emit, trust_remote_code=trust
            )
    warnings = (*validated.warnings, *splits.warnings, *doubts)
    return {
        "recipe": recipe.name,
        "model": recipe.model.path,
        "chat_template": chat.template.name,
        "max_length": prepared.max_length,
        "overlong": recipe.data.overlong,
        "added_special_tokens": tokenizer.convert_ids_to_tokens(chat.added_ids),
        "warnings": [finding.located(find).to_json() for finding in warnings],
        "displacement": displacement,
        "splits": {name: {**part.to_json(), "shown": shown[name]} for name, part in inspected.items()},
    }


@contextmanager
def _located(find: Locate) -> Iterator[None]:
    """Give errors their line in the recipe."""
    try:
        yield
    except DpoRecipeError as error:
        raise error.located(find) from error


def _write_page(path: Path, inspection: dict[str, Any]) -> None:
    from dpo_recipes.report.data_page import render_data_page

    try:
        write_text_atomically(path, render_data_page(inspection))
    except OSError as error:
        raise RecipeError.of(
            "U402", f"cannot write {path}", why=error.strerror or str(error), fix="choose another folder"
        ) from error
