"""Writes docs/recipe.md, the reference of all fields, from the descriptions in the schema.

python docs/make_reference.py
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.chain import Chain, StepHead
from dpo_recipes.recipe.schema_fields import below, labels_of, sections_in

INTRODUCTION = """# Recipe reference

This page is generated from the schema by `docs/make_reference.py`. Editors that use `dpo-recipe schema` show the same
descriptions.

**YAML.** Scalars follow the core schema of YAML 1.2: `5e-6` is a number; `yes`, `no`, `on`, `off` and `1:30` are text.
Types are not converted: `"5"` is text. Unknown keys, duplicate keys and tags are refused. A recipe has at most 1 MB.

**Paths.** A relative path is relative to the folder of the file that contains it; with `--set`, to the current folder. A
value that does not look like a path, and is not the name of a file or folder beside the recipe, is a hub id.

**Inheritance.** `extends: base.yaml` inherits everything from another recipe. Mappings are merged key by key; lists and
values replace the inherited ones. A mapping with another `kind` replaces the inherited mapping as a whole.

**Overrides.** `--set training.learning_rate=1e-5 --set data.train[0].limit=100` gives a path of keys and indices, and a
value in YAML syntax. An index one past the end appends an item. `dpo-recipe show` prints the origin of each value.

The smallest recipe has only the fields without a default:

```yaml
schema: 1
name: my-dpo
model: {path: Qwen/Qwen2-0.5B-Instruct}
data:
  train: [{path: trl-lib/ultrafeedback_binarized}]
```
"""


def make_reference() -> str:
    """The whole page."""
    sections = [INTRODUCTION, _section(Recipe, "The top level")]
    # Several kinds of an objective may have the same section.
    sections += [_section(model, f"`{path}`") for path, model in dict.fromkeys(_nested(Recipe, ""))]
    sections += [_section(Chain, "A chain"), _section(StepHead, "`steps.NAME` of a chain")]
    return "\n".join(sections)


def _section(model: type[BaseModel], title: str) -> str:
    rows = [
        f"\n## {title}\n",
        " ".join((model.__doc__ or "").split()),
        "",
        "| field | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in model.model_fields.items():
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{field.alias or name}` | {_type(field.annotation)} | {_default(field)} | {description} |")
    return "\n".join(rows)


def _nested(model: type[BaseModel], prefix: str) -> list[tuple[str, type[BaseModel]]]:
    """The sections inside a section with their titles: the path, and the kind if several share the path."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = sections_in(field.annotation)
        path = f"{prefix}{field.alias or name}" + below(field.annotation)
        for section in inner:
            kind = f"` with `{labels_of(section)[0]}" if len(inner) > 1 else ""
            found += [(path + kind, section), *_nested(section, path + ".")]
    return found


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if origin is Annotated:
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory is not None:
        return "" if sections_in(field.annotation) and field.default_factory is not dict else "empty"
    default = field.default
    if default is PydanticUndefined or default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else "empty"


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(make_reference() + "\n", encoding="utf-8")
