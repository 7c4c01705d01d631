"""`dpo-recipe pull`: fetch a recipe from elsewhere, verified, to read and change it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts.artifact import SUFFIX, Artifact
from dpo_recipes.artifacts.references import find_artifact
from dpo_recipes.artifacts.signature import find_signer
from dpo_recipes.cli.artifact_text import describe_artifact, plain_artifact
from dpo_recipes.cli.options import JsonOption, ReferenceArgument, show_note
from dpo_recipes.cli.progress import write_message
from dpo_recipes.cli.verify import AllowedSignersOption
from dpo_recipes.errors import RecipeError


def pull(
    reference: ReferenceArgument,
    to: Annotated[
        Path | None,
        typer.Argument(help="The folder to make. Absent: the name of the recipe.", metavar="TO", show_default=False),
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Write the artifact itself, NAME.recipe.tar, and unpack nothing.")
    ] = False,
    allowed_signers: AllowedSignersOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch a recipe into a new folder. It is verified before, and nothing is overwritten."""
    artifact = find_artifact(reference, show_note)
    signer = find_signer(artifact.manifest_bytes, artifact.signature, allowed_signers, reference)
    name = artifact.manifest.name
    target = _copy(artifact, to or Path(f"{name}{SUFFIX}")) if packed else _unpack(artifact, to or Path(name))
    if json_:
        typer.echo(json.dumps({**plain_artifact(artifact, signer), "path": str(target)}, indent=2, ensure_ascii=False))
        return
    typer.echo(str(target))
    write_message("".join(f"{line}\n" for line in [*describe_artifact(artifact), f"signer    {signer}"]))


def _unpack(artifact: Artifact, folder: Path) -> Path:
    """Unpack an artifact beside the new folder and rename it when complete. Returns the path of the recipe."""
    _check_free(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        partial.mkdir(parents=True)
        artifact.unpack(partial)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _not_written(folder, error) from error
    return folder / artifact.manifest.recipe


def _copy(artifact: Artifact, target: Path) -> Path:
    target = target / f"{artifact.manifest.name}{SUFFIX}" if target.is_dir() else target
    _check_free(target)
    partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.copyfile(artifact.path, partial)
        partial.rename(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _not_written(target, error) from error
    return target


def _check_free(path: Path) -> None:
    if path.exists():
        raise RecipeError.of(
            "U401", f"{path} exists already", why="nothing is overwritten", fix="give another path after the reference"
        )


def _not_written(path: Path, error: OSError) -> RecipeError:
    return RecipeError.of(
        "U402",
        f"cannot write {path}",
        why=error.strerror or str(error),
        fix="choose another folder, or free some space",
    )
