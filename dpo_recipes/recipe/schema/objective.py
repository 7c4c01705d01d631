"""The `objective` section, whose fields depend on its `kind`: each objective brings the class of its own parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationError
from pydantic_core import CoreSchema, core_schema

from dpo_recipes import registry
from dpo_recipes.objectives import DEFAULT_KIND, all_params, get_objective
from dpo_recipes.objectives.base import ObjectiveParams


class _ByKind:
    """Validates with the parameters of the objective that `kind` names; only its module is imported."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kinds = [handler(_core_schema(params)) for params in all_params().values()]
        return kinds[0] if len(kinds) == 1 else {"oneOf": kinds}


def _core_schema(params: type[ObjectiveParams]) -> CoreSchema:
    """A section's schema, which is built when it is first needed."""
    params.model_rebuild()
    return params.__pydantic_core_schema__


def _validate(value: Any) -> ObjectiveParams:
    """The parameters of the kind that the mapping names. Raises `ValidationError` with paths inside the section."""
    if isinstance(value, ObjectiveParams):
        return value
    if not isinstance(value, dict):
        raise _error("model_type", (), value, {"class_name": "ObjectiveParams"})
    kind = value.get("kind")
    if "kind" not in value:
        raise _error("missing", ("kind",), value)
    if kind not in registry.OBJECTIVES and kind not in registry.names("objectives"):
        expected = " or ".join(f"'{name}'" for name in registry.names("objectives"))
        raise _error("literal_error", ("kind",), kind, {"expected": expected})
    return get_objective(kind).params.model_validate(value)


def _error(kind: Any, place: tuple[str, ...], value: Any, context: dict[str, Any] | None = None) -> ValidationError:
    detail: Any = {"type": kind, "loc": place, "input": value, "ctx": context or {}}
    return ValidationError.from_exception_data("objective", [detail])


def _dump(value: ObjectiveParams, info: SerializationInfo) -> dict[str, Any]:
    return value.model_dump(
        mode=info.mode,
        by_alias=info.by_alias,
        exclude_unset=info.exclude_unset,
        exclude_defaults=info.exclude_defaults,
        exclude_none=info.exclude_none,
    )


Params = Annotated[ObjectiveParams, _ByKind()]


def default_params() -> ObjectiveParams:
    """The parameters of a recipe without an `objective` section."""
    return _validate({"kind": DEFAULT_KIND})
