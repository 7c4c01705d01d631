"""The `guards` section: one field for each guard of `registry.GUARDS`."""

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from dpo_recipes.guards import guard_classes
from dpo_recipes.guards.base import Guard
from dpo_recipes.section import Section

_FIELDS: dict[str, Any] = {
    name: (guard, Field(default_factory=guard, description=" ".join((guard.__doc__ or "").split())))
    for name, guard in guard_classes().items()
}
_MEANING = (
    "Guards watch the metrics of a run and say when it begins to go wrong; docs/guards.md explains each with its "
    "source. A guard whose metrics an objective does not have is not active."
)
if TYPE_CHECKING:

    class Guards(Section):
        """The section, whose fields are known when the table is read."""

else:
    Guards = create_model("Guards", __base__=Section, __doc__=_MEANING, **_FIELDS)


def guards_of(recipe: Any) -> list[Guard]:
    """The guards of a recipe that are not off."""
    guards: list[Guard] = [getattr(recipe.guards, name) for name in type(recipe.guards).model_fields]
    return [guard for guard in guards if guard.action != "off"]
