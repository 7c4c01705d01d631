"""A file with `steps`: a chain of runs, of which later ones use what earlier ones made."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from dpo_recipes.recipe.schema.recipe import NAME
from dpo_recipes.section import Section

MAX_STEP_NAME = 40
STEP_NAME = rf"^[A-Za-z_][A-Za-z0-9_-]{{0,{MAX_STEP_NAME - 1}}}$"
NOT_IN_A_STEP = {
    "schema": "it stands once, at the top of the file",
    "name": "a step has the name that is its key in `steps`",
    "output_dir": "the runs of a chain share one folder: write it at the top of the file",
    "extends": "`recipe` names the recipe that a step begins with",
    "sweep": "later steps need one model, and a sweep makes many",
}
"""Keys of a recipe that a step cannot have, with the reasons."""
FROM_THE_CHAIN = ("schema", "name", "output_dir")
"""Keys of a step's recipe file that those of the chain replace."""


class StepHead(Section):
    """What every step of a chain has. The sections of its kind, those of a recipe for `train`, stand beside these keys,
    or in a recipe that the step names."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(default="train", description="What the step does. `train`: one run of a recipe.")
    recipe: str | None = Field(
        default=None,
        min_length=1,
        description="The path of the recipe that the step begins with, relative to this file. Sections that stand in "
        "the step are merged over it, as with `extends`.",
    )
    set: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Values by their path, as `--set` takes it: {training.learning_rate: 1e-5}. They are applied last.",
    )
    once: bool = Field(
        default=False, description="In a chain with `rounds`, the step is done once and not in each round."
    )


class Chain(Section):
    """Named steps, each of them a run. A step that another one needs is done before it: `step:NAME` instead of a path
    stands for what the step NAME makes (docs/chains.md)."""

    schema_version: Literal[1] = Field(alias="schema", description="The version of this schema.")
    name: str = Field(
        pattern=NAME,
        description="The name of the chain and of its folder: letters, digits, dot, dash and underscore.",
    )
    summary: str = Field(default="", description="One line that describes the chain; `dpo-recipe ls` shows it.")
    extends: str | None = Field(
        default=None, description="The path of a parent chain, relative to this one. Mappings are merged."
    )
    parallel: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto",
        description="The number of steps that a command executes at the same time if they do not need each other. The "
        "machine's GPUs are divided among them, or its cores. `auto`: as many as there are GPUs for, and one at a time "
        "without GPUs.",
    )
    steps: dict[Annotated[str, Field(pattern=STEP_NAME)], StepHead] = Field(
        min_length=1, description="The steps by their names: letters, digits, dash and underscore."
    )
    rounds: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="How often the steps are done, one round after the other; those with `once: true` are done once. "
        "Round 2 of the step `dpo` is called `dpo-2`, and a key of this name in `steps` has what differs in it. "
        "`step:NAME` means what NAME makes in the same round, and `previous:NAME` what it made in the round before.",
    )
    start: dict[Annotated[str, Field(pattern=STEP_NAME)], Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="What `previous:NAME` stands for in the first round, by NAME: the path or hub id of a model or of "
        "data, or `step:NAME` of a step with `once: true`.",
    )
    output_dir: str = Field(
        default="runs",
        min_length=1,
        description="The folder for the chain's directory, relative to the folder in which the command is started.",
    )
