"""What all sections of the schema share."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in a recipe: unknown keys are refused, types are not converted, and nothing changes afterwards."""

    # One validator is built, for the whole recipe and when it is first needed, and not one for each section too.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
