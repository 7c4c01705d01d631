"""The `guards` section: one field for each guard of `registry.GUARDS`, and for those of other packages that a recipe
names."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from dpo_recipes import registry
from dpo_recipes.guards import guard_classes, load_outside_guard, outside_guards
from dpo_recipes.guards.base import Guard
from dpo_recipes.section import ChosenSection, Section

_MEANING = (
    "Guards watch the metrics of a run and say when it begins to go wrong; docs/guards.md explains each with its "
    "source. A guard whose metrics an objective does not have is not active."
)


def _fields(guards: dict[str, type[Guard]]) -> dict[str, Any]:
    return {
        name: (guard, Field(default_factory=guard, description=" ".join((guard.__doc__ or "").split())))
        for name, guard in guards.items()
    }


if TYPE_CHECKING:

    class Guards(Section):
        """The section, whose fields are known when the table is read."""

else:
    Guards = create_model("Guards", __base__=Section, __doc__=_MEANING, **_fields(guard_classes()))


@cache
def _guards_with(names: tuple[str, ...]) -> type[Guards]:
    """The class of the section with guards of other packages. Raises `RecipeError` R318."""
    if not names:
        return Guards
    fields = _fields({name: load_outside_guard(name) for name in names})
    return create_model("Guards", __base__=Guards, __doc__=_MEANING, **fields)


def complete_guards() -> type[Guards]:
    """The class of the section with all guards of other packages. Raises `RecipeError` R318."""
    return _guards_with(tuple(outside_guards()))


def _with_named(section: Mapping[str, Any]) -> type[Guards]:
    """The class with the guards of other packages that the section names, whose modules are then imported."""
    unknown = section.keys() - Guards.model_fields.keys()
    return _guards_with(tuple(name for name in registry.names("guards") if name in unknown) if unknown else ())


GuardsSection = Annotated[Guards, ChosenSection(Guards, _with_named, lambda: [complete_guards()])]


def guards_of(recipe: Any) -> list[Guard]:
    """The guards of a recipe that are not off."""
    guards: list[Guard] = [getattr(recipe.guards, name) for name in type(recipe.guards).model_fields]
    return [guard for guard in guards if guard.action != "off"]
