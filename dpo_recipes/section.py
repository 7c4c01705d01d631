"""The base class of all sections of the schema, and sections whose class depends on their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are refused, types are not converted, and instances are immutable."""

    # One validator is built, for the whole recipe and when it is first needed, and not one for each section too.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    selector: ClassVar[str] = "kind"
    """The key by which a class is chosen where several classes share a place in the recipe: by the value, if the field
    is a Literal, or because the key is present."""


@dataclass(frozen=True)
class ChosenSection:
    """Annotates the base class of sections: a mapping is validated with the class that `choose` returns for it."""

    base: type[Section]
    choose: Callable[[Mapping[str, Any]], type[Section]]
    """Raises `ValidationError` (see `section_error`) if no class fits."""
    classes: Callable[[], Sequence[type[Section]]]
    """All classes, for the JSON schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kinds = [handler(_core_schema(section)) for section in self.classes()]
        return kinds[0] if len(kinds) == 1 else {"oneOf": kinds}

    def _validate(self, value: Any) -> Section:
        """The section of a mapping. Raises `ValidationError` with paths inside the section."""
        if isinstance(value, self.base):
            return value
        if not isinstance(value, dict):
            raise section_error("model_type", (), value, {"class_name": self.base.__name__})
        return self.choose(value).model_validate(value)


def section_error(
    kind: Any, place: tuple[str, ...], value: Any, context: dict[str, Any] | None = None
) -> ValidationError:
    """An error of one of pydantic's kinds, at a path inside a section."""
    detail: Any = {"type": kind, "loc": place, "input": value, "ctx": context or {}}
    return ValidationError.from_exception_data("section", [detail])


def unknown_choice(key: str, value: Any, choices: Sequence[str]) -> ValidationError:
    """The error for a key that has none of its possible values."""
    return section_error("literal_error", (key,), value, {"expected": " or ".join(f"'{name}'" for name in choices)})


def _core_schema(section: type[Section]) -> CoreSchema:
    """A section's schema, which is built when it is first needed."""
    section.model_rebuild()
    return section.__pydantic_core_schema__


def _dump(value: Section, info: SerializationInfo) -> dict[str, Any]:
    return value.model_dump(
        mode=info.mode,
        by_alias=info.by_alias,
        exclude_unset=info.exclude_unset,
        exclude_defaults=info.exclude_defaults,
        exclude_none=info.exclude_none,
    )
