"""The JSON schema of a file that describes a job: a recipe or a chain."""

from __future__ import annotations

from typing import Any

from dpo_recipes import registry
from dpo_recipes.recipe.schema import recipe_json_schema
from dpo_recipes.recipe.schema.chain import NOT_IN_A_STEP, Chain, StepHead

_DEFINITIONS = "#/$defs/{model}"
_OF_A_ROUND = "-[1-9][0-9]*$"
"""The end of the name of a round of a step."""


def job_json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe or chain. A file with `steps` is a chain."""
    recipe = recipe_json_schema()
    dialect, title, definitions = (recipe.pop(key) for key in ("$schema", "title", "$defs"))
    chain = Chain.model_json_schema(by_alias=True, ref_template=_DEFINITIONS)
    chain.pop("$defs")
    steps = chain["properties"]["steps"]
    (pattern,) = steps.pop("patternProperties")
    names = {
        f"^(?!.*{_OF_A_ROUND}){pattern[1:]}": {"$ref": "#/$defs/Step"},
        f"^(?=.*{_OF_A_ROUND}){pattern[1:]}": {"$ref": "#/$defs/StepOrRound"},
    }
    steps |= {"patternProperties": names, "additionalProperties": False}
    chain["anyOf"] = [{"required": ["extends"]}, {"required": chain.pop("required")}]
    # With `oneOf`, an error in a step would be reported for each kind, and not for the one that the step names.
    kinds = registry.names("step_kinds")
    for name in kinds:
        definitions[f"step-{name}"] = _step(name, recipe, definitions)
    of_kinds = {name: {"$ref": f"#/$defs/step-{name}"} for name in kinds}
    definitions["Step"] = {
        "type": "object",
        "properties": {"kind": {"enum": kinds}},
        "allOf": [{"if": _is_kind(name), "then": of_kinds[name]} for name in kinds],
    }
    # What differs in a round of another step has no kind.
    definitions["StepOrRound"] = {
        "if": {"required": ["kind"]},
        "then": {"$ref": "#/$defs/Step"},
        "else": {"anyOf": list(of_kinds.values())},
    }
    return {
        "$schema": dialect,
        "title": title,
        "$defs": definitions,
        "if": {"required": ["steps"]},
        "then": chain,
        "else": recipe,
    }


def _is_kind(name: str) -> dict[str, Any]:
    """The condition that a step is of a kind, also by default."""
    required = [] if name == StepHead.model_fields["kind"].default else ["kind"]
    return {"properties": {"kind": {"const": name}}, "required": required}


def _step(name: str, recipe: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a step of one kind. Its sections may be incomplete, because a recipe that it names may have the
    rest. Their definitions are added to the others."""
    kind = registry.load("step_kinds", name)
    head = StepHead.model_json_schema(by_alias=True, ref_template=_DEFINITIONS)["properties"]
    if name == "train":
        settings = recipe["properties"]
    else:
        schema = kind.section.model_json_schema(by_alias=True, ref_template=_DEFINITIONS)
        definitions |= schema.pop("$defs", {})
        settings = schema["properties"]
    sections = {key: value for key, value in settings.items() if key not in NOT_IN_A_STEP}
    return {
        "type": "object",
        "description": " ".join((type(kind).__doc__ or "").split()),
        "properties": {**head, "kind": {**head["kind"], "const": name}, **sections},
        "additionalProperties": False,
    }
