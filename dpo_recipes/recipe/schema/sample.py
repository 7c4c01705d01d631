"""The settings of sampling answers for preference data: the step `kind: sample` of a chain."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.evaluate import Generate
from dpo_recipes.reward_settings import Reward
from dpo_recipes.section import Section


class Sample(Section):
    """Answers of one or several models to each prompt, judged by sources of rewards, as preference data."""

    models: list[str] = Field(
        min_length=1,
        description="The models that answer: directories of finished runs, folders of models, `.gguf` files or hub "
        "ids; `base` is the base of the first run.",
    )
    data: str = Field(
        min_length=1,
        description="Where the prompts come from: a recipe, or a file or hub dataset, of which all rows are used. "
        "Answers in the data are not used.",
    )
    split: Literal["train", "eval", "test"] = Field(default="train", description="The rows of a recipe to use.")
    limit: int | None = Field(default=None, ge=1, description="The number of rows to use, the first ones. Absent: all.")
    answers: int = Field(default=4, ge=1, le=64, description="The number of answers of each model to each prompt.")
    generate: Generate = Field(
        default_factory=lambda: Generate(temperature=1.0), description="How answers are generated."
    )
    rewards: list[Reward] = Field(
        min_length=1,
        description="Sources of rewards, which judge the answers. The sum of all, each multiplied by its weight, ranks "
        "them.",
    )
    keep: Literal["best_worst", "all"] = Field(
        default="best_worst",
        description="`best_worst`: a row is a pair of the best and the worst answer to a prompt. `all`: a row has all "
        "answers with their ranks and scores (format `ranked`), of which each one below the best makes a pair with it.",
    )
    min_difference: float = Field(
        default=0.0,
        ge=0.0,
        description="Answers whose rewards differ by no more than this are ties. A prompt whose best and worst answer "
        "tie is left out.",
    )
    cut_off: Literal["drop", "keep"] = Field(
        default="drop",
        description="What becomes of answers that reached `max_new_tokens` without an end. A model that learns from "
        "them learns to stop in the middle of a sentence.",
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="The template for models that are not runs: the name of a shipped template or the path of a "
        "`.jinja` file. Absent: the template of each model's tokenizer.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="`auto` uses CUDA if available, then Apple's MPS, then the CPU."
    )
