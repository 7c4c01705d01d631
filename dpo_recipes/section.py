"""The base class of all sections of the schema."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are refused, types are not converted, and instances are immutable."""

    # One validator is built, for the whole recipe and when it is first needed, and not one for each section too.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
