"""The command `dpo-recipe data`, which shows the training data token by token before a model is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption
from dpo_recipes.errors import EXIT_DATA, DpoRecipeError, RecipeError
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.run_dir import write_text_atomically
from dpo_recipes.shipped import find_recipe

Split = Literal["train", "eval", "test"]


def data(
    recipe: RecipeArgument,
    set_: SetOption = None,
    json_: JsonOption = False,
    show: Annotated[
        int, typer.Option("--show", help="Show this number of rows of each split, token by token.", min=0, metavar="N")
    ] = 0,
    split: Annotated[Split | None, typer.Option(help="Show only this split.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page for a browser.", metavar="FILE")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a tokenizer that needs Python code from its repository.")
    ] = False,
) -> None:
    """Show the training data: counts, lengths, unusual texts and tokens. Needs no model weights.

    The exit code is 4 if `run` would refuse the data.
    """
    validated = validate(find_recipe(recipe), set_)
    inspection = _inspect(validated, show, split, trust_remote_code=trust_remote_code)
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


def _inspect(validated: Validated, show: int, split: str | None, *, trust_remote_code: bool) -> dict[str, Any]:
    from dpo_recipes.cli.progress import Progress
    from dpo_recipes.data.inspect.rows import show_rows
    from dpo_recipes.data.inspect.splits import inspect_splits
    from dpo_recipes.prepared_data import prepare_data

    recipe, find = validated.recipe, validated.composed.where
    with Progress() as progress:
        try:
            prepared = prepare_data(
                recipe,
                lambda name, detail: progress.on_event({"event": "stage", "name": name, "detail": detail}),
                trust_remote_code=trust_remote_code,
                for_inspection=True,
            )
        except DpoRecipeError as error:
            raise error.located(find) from error
        splits, tokenizer, chat = prepared.splits, prepared.tokenizer, prepared.chat
        if split is not None and split not in splits.datasets:
            raise typer.BadParameter(f"this recipe has no split `{split}`, only {', '.join(splits.datasets)}")
        progress.on_event({"event": "stage", "name": "inspect", "detail": "every row"})
        inspected = inspect_splits(splits, recipe.data.max_length, tokenizer.bos_token_id, split)
    shown = {
        name: [row.to_json() for row in show_rows(splits, tokenizer, chat.renderer, name, show)] for name in inspected
    }
    return {
        "recipe": recipe.name,
        "model": recipe.model.path,
        "chat_template": chat.template.name,
        "max_length": recipe.data.max_length,
        "overlong": recipe.data.overlong,
        "added_special_tokens": tokenizer.convert_ids_to_tokens(chat.added_ids),
        "warnings": [finding.located(find).to_json() for finding in (*validated.warnings, *splits.warnings)],
        "splits": {name: {**part.to_json(), "shown": shown[name]} for name, part in inspected.items()},
    }


def _write_page(path: Path, inspection: dict[str, Any]) -> None:
    from dpo_recipes.report.data_page import render_data_page

    try:
        write_text_atomically(path, render_data_page(inspection))
    except OSError as error:
        raise RecipeError.of(
            "U402", f"cannot write {path}", why=error.strerror or str(error), fix="choose another folder"
        ) from error
