"""The settings of an evaluation of finished runs and other models: `dpo-recipe evaluate`."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_recipes.recipe.schema.machine import Device
from dpo_recipes.reward_settings import Reward
from dpo_recipes.section import Section

SEEDS = 2**32
"""The number of seeds that there are."""
BASE = "base"
"""Among models, the name of the base of the first run."""

TemplateOfOthers = Annotated[
    str | None,
    Field(
        min_length=1,
        description="The template for models that are not runs: the name of a shipped template or the path of a "
        "`.jinja` file. Absent: the template of each model's tokenizer.",
    ),
]
"""The type of a field with the chat template of models that bring none of their own."""


class Generate(Section):
    """How answers are generated. Each answer has random numbers of its own, so it depends neither on the other prompts
    nor on the size of a batch, and several models are given the same ones."""

    temperature: float = Field(
        default=0.0, ge=0.0, le=10.0, description="0 decodes greedily: the most probable token is always chosen."
    )
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Sample only from the most probable tokens whose probabilities sum to this.",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="The maximum length of an answer in tokens.")
    seed: int = Field(default=0, ge=0, lt=SEEDS, description="The seed of sampled answers.")
    batch_size: int = Field(
        default=8, ge=1, description="The number of sequences that are computed at once. It changes no answer."
    )


class Evaluate(Section):
    """An evaluation of one or several models on the same held-out prompts."""

    models: list[str] = Field(
        min_length=1,
        description="The models: directories of finished runs, folders of models, `.gguf` files or hub ids.",
    )
    against: str | None = Field(
        default=None,
        description="The model that each of the others is compared with; `base` is the base of the first run in "
        "`models`.",
    )
    data: str | None = Field(
        default=None,
        description="Where the prompts come from: a recipe, whose held-out rows are used, or a file or hub dataset, of "
        "which all rows are used. Absent: the held-out rows of the recipe of the first run in `models`.",
    )
    split: Literal["eval", "test"] = Field(default="eval", description="The held-out rows of a recipe to use.")
    limit: int | None = Field(
        default=200, ge=1, description="The number of rows to use, the first ones. null: all of them."
    )
    chat_template: TemplateOfOthers = None
    generate: Generate = Field(default_factory=Generate, description="How answers are generated.")
    overlap: bool = Field(
        default=True,
        description="Whether to compare the answers with the good ones in the data: BLEU and ROUGE-L (extra "
        "`evaluate`).",
    )
    bleu_tokenizer: Literal["13a", "intl", "zh", "char"] = Field(
        default="13a",
        description="How sacrebleu divides texts into words: `13a` for European languages, `zh` for Chinese, `char` by "
        "characters, `intl` by Unicode categories.",
    )
    rewards: list[Reward] = Field(
        default_factory=list,
        description="Sources of rewards, which judge the answers: reward models, rules and functions, as in the "
        "objectives that learn from rewards. With `against`, they also give win-rates.",
    )
    kl_prompts: int = Field(
        default=50,
        ge=0,
        description="The number of prompts, the first ones, for which each model samples an answer at temperature 1, "
        "to estimate its divergence from its base. 0: it is not estimated.",
    )
    device: Device = "auto"
