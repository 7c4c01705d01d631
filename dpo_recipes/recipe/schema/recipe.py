"""The recipe as a whole."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dpo_recipes.recipe.schema.checkpoints import Checkpoints
from dpo_recipes.recipe.schema.data import Data
from dpo_recipes.recipe.schema.evaluation import Evaluation
from dpo_recipes.recipe.schema.launch import Launch
from dpo_recipes.recipe.schema.machine import Hardware, Tracking
from dpo_recipes.recipe.schema.model import Model
from dpo_recipes.recipe.schema.objective import Dpo
from dpo_recipes.recipe.schema.section import Section
from dpo_recipes.recipe.schema.training import Training

SCHEMA_VERSION = 1


class Recipe(Section):
    """One preference-optimization job, fully described."""

    schema_version: Literal[1] = Field(
        alias="schema", description="Version of this schema. Raised only when a field changes its meaning."
    )
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Names the run's folder: letters, digits, dot, dash and underscore.",
    )
    summary: str = Field(default="", description="One line that says what the job is; shown by `dpo-recipe ls`.")
    extends: str | None = Field(
        default=None,
        description="Path of a parent recipe, relative to this one. Mappings merge, lists and values replace.",
    )
    model: Model = Field(description="The base model and how it is tuned.")
    data: Data = Field(description="Training and held-out preference pairs.")
    chat_template: str = Field(
        default="tokenizer",
        min_length=1,
        description="How messages become text: `tokenizer` (the model's own template), the name of a shipped "
        "template (docs/templates.md), the path of a `.jinja` file relative to the recipe, or the template itself.",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Variables for the chat template, such as {enable_thinking: false}. A row's own "
        "`chat_template_kwargs` go before them.",
    )
    objective: Dpo = Field(default_factory=lambda: Dpo(kind="dpo"), description="What the preference pairs teach.")
    training: Training = Field(default_factory=Training, description="How long, how large, how fast.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="Sample answers before and after.")
    hardware: Hardware = Field(default_factory=Hardware, description="The device the run is for.")
    launch: Launch = Field(default_factory=Launch, description="How worker processes start.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="What is kept so that a run can go on.")
    tracking: Tracking = Field(default_factory=Tracking, description="Experiment trackers.")
    accept_advice: list[Annotated[str, Field(pattern=r"^(F79|D42|D43|D49)[0-9]$")]] = Field(
        default_factory=list,
        description="Codes that are known and meant, for example [F795, D431]: those of docs/advice.md, and those that "
        "docs/data.md lists as checked while tokenizing. They are not shown and end no run.",
    )
    output_dir: str = Field(
        default="runs",
        min_length=1,
        description="Folder that run directories are made in, relative to where the command is started.",
    )
