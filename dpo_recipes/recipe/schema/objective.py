"""The `objective` section, whose fields depend on its `kind`: each objective brings the class of its own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from dpo_recipes import registry
from dpo_recipes.objectives import DEFAULT_KIND, all_params, get_objective
from dpo_recipes.objectives.base import ObjectiveParams
from dpo_recipes.section import ChosenSection, section_error, unknown_choice


def _of_kind(value: Mapping[str, Any]) -> type[ObjectiveParams]:
    """The parameters of the objective that `kind` names; only its module is imported."""
    if "kind" not in value:
        raise section_error("missing", ("kind",), value)
    kind = value["kind"]
    if kind not in registry.OBJECTIVES and kind not in registry.names("objectives"):
        raise unknown_choice("kind", kind, registry.names("objectives"))
    return get_objective(kind).params


Params = Annotated[ObjectiveParams, ChosenSection(ObjectiveParams, _of_kind, lambda: [*all_params().values()])]


def default_params() -> ObjectiveParams:
    """The parameters of a recipe without an `objective` section."""
    return _of_kind({"kind": DEFAULT_KIND}).model_validate({"kind": DEFAULT_KIND})
