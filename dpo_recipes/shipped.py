"""The recipes and chat templates that are part of the package."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.errors import RecipeError

LOCK_SUFFIX = ".lock.yaml"
"""The end of the name of a recipe's lock, which lies beside the recipe."""
_PACKAGE = Path(__file__).resolve().parent


def _shipped_folder(name: str) -> Path:
    """In a wheel the folder lies inside the package, in a checkout at the top of the repository."""
    inside = _PACKAGE / "_shipped" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipes_folder() -> Path:
    """The folder of the shipped recipes and the data they use."""
    return _shipped_folder("recipes")


def recipe_paths() -> dict[str, Path]:
    """Shipped recipes by name, sorted."""
    paths = sorted(recipes_folder().glob("*.yaml"))
    return {path.stem: path for path in paths if not path.name.endswith(LOCK_SUFFIX)}


def template_paths() -> dict[str, Path]:
    """Shipped chat templates by name, sorted."""
    return {path.stem: path for path in sorted(_shipped_folder("templates").glob("*.jinja"))}


def find_recipe(reference: str) -> Path:
    """The file of a recipe given by path, or by the name of a shipped one. Raises `RecipeError` R101."""
    path, shipped = Path(reference), recipe_paths()
    if path.is_file() or path.suffix in (".yaml", ".yml") or "/" in reference:
        return path
    if reference in shipped:
        return shipped[reference]
    raise RecipeError.of(
        "R101",
        f"there is no recipe {reference}",
        why=f"there is no such file, and the shipped recipes are {', '.join(shipped)}",
        fix="give the path of a YAML file or the name of a shipped recipe",
    )
