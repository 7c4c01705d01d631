"""The top level of a recipe, and the JSON schema of recipes."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from dpo_recipes.recipe.schema.checkpoints import Checkpoints
from dpo_recipes.recipe.schema.data import Data
from dpo_recipes.recipe.schema.evaluation import Evaluation
from dpo_recipes.recipe.schema.guards import Guards, GuardsSection
from dpo_recipes.recipe.schema.launch import Launch
from dpo_recipes.recipe.schema.machine import Hardware
from dpo_recipes.recipe.schema.model import Model
from dpo_recipes.recipe.schema.objective import Params, default_params
from dpo_recipes.recipe.schema.sweep import Sweep
from dpo_recipes.recipe.schema.tracking import Tracking
from dpo_recipes.recipe.schema.training import Training
from dpo_recipes.section import Section

SCHEMA_VERSION = 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Recipe(Section):
    """The full description of one preference-optimization job."""

    schema_version: Literal[1] = Field(
        alias="schema", description="The version of this schema. It is raised only when the meaning of a field changes."
    )
    name: str = Field(
        pattern=NAME,
        description="The name of the job and of its run folder: letters, digits, dot, dash and underscore.",
    )
    summary: str = Field(default="", description="One line that describes the job; `dpo-recipe ls` shows it.")
    extends: str | None = Field(
        default=None,
        description="The path of a parent recipe, relative to this one. Mappings are merged; lists and values replace "
        "those of the parent.",
    )
    model: Model = Field(description="The base model and how it is tuned.")
    data: Data = Field(description="Training and held-out rows.")
    chat_template: str = Field(
        default="tokenizer",
        min_length=1,
        description="The template that turns messages into text: `tokenizer` (the model's own template, or an "
        "encoder's own form of two texts), the name of a shipped template (docs/templates.md), the path of a `.jinja` "
        "file relative to the recipe, or the text of the template itself.",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Variables for the chat template, such as {enable_thinking: false}. A row's own "
        "`chat_template_kwargs` override them.",
    )
    objective: Params = Field(default_factory=default_params, description="The loss and its settings.")
    training: Training = Field(default_factory=Training, description="Length, batch, optimizer and schedule.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="Sample answers before and after training.")
    guards: GuardsSection = Field(
        default_factory=Guards, description="Watching the metrics of the run, to say early what goes wrong."
    )
    hardware: Hardware = Field(default_factory=Hardware, description="The device that the run is for.")
    launch: Launch = Field(default_factory=Launch, description="How worker processes are started.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="Checkpoints, from which a run resumes.")
    tracking: Tracking = Field(default_factory=Tracking, description="Experiment trackers.")
    sweep: Sweep | None = Field(
        default=None, description="Values to try: the recipe is then many runs, of which the best one is chosen."
    )
    accept_advice: list[Annotated[str, Field(pattern=r"^(F78|F79|D42|D43|D49)[0-9]$")]] = Field(
        default_factory=list,
        description="Codes of advice that you have considered and accept, for example [F795, D431]: those of "
        "docs/advice.md, and those that docs/data.md lists as checked during tokenization. They are not reported and "
        "do not end the run.",
    )
    output_dir: str = Field(
        default="runs",
        min_length=1,
        description="The folder for run directories, relative to the folder in which the command is started.",
    )


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe file.

    A recipe that extends another may omit what its parent has, so the required fields of the recipe and of its sections
    are required only in a recipe without `extends`.
    """
    schema = Recipe.model_json_schema(by_alias=True)
    required, sections = schema.pop("required"), {}
    for name, section in schema["properties"].items():
        definition = schema["$defs"].get(section.get("$ref", "").rpartition("/")[2], {})
        if "required" in definition:
            sections[name] = {"required": definition.pop("required")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dpo-recipe, schema version 1",
        **{key: value for key, value in schema.items() if key != "title"},
        "anyOf": [{"required": ["extends"]}, {"required": required, "properties": sections}],
    }
