"""The recipes and chat templates that are part of the package."""

from __future__ import annotations

from pathlib import Path

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
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def template_paths() -> dict[str, Path]:
    """Shipped chat templates by name, sorted."""
    return {path.stem: path for path in sorted(_shipped_folder("templates").glob("*.jinja"))}
