"""The settings of sampling answers for preference data: the step `kind: sample` of a chain."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.evaluate import SEEDS, Generate, TemplateOfOthers
from dpo_recipes.recipe.schema.machine import Device
from dpo_recipes.reward_settings import Reward
from dpo_recipes.section import Section

_SEEDS_OF_A_ROUND = 1_000_003
"""The distance of the seeds of two rounds, so that chains with neighbouring seeds have no random numbers in common."""


class GenerateSamples(Generate):
    """How answers are generated, which must be able to differ."""

    temperature: float = Field(
        default=1.0, ge=0.0, le=10.0, description="0 decodes greedily, so that all answers of a model are equal."
    )


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
    prompts: Literal["same", "next"] = Field(
        default="same",
        description="In a chain with `rounds`, whether each round answers the `same` prompts, or the `next` ones: "
        "round 2 begins behind the `limit` rows of round 1.",
    )
    round: int = Field(
        default=1,
        ge=1,
        description="The number of the round, which a chain with `rounds` sets. Each has other random numbers.",
    )
    answers: int = Field(default=4, ge=1, le=64, description="The number of answers of each model to each prompt.")
    generate: GenerateSamples = Field(default_factory=GenerateSamples, description="How answers are generated.")
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
    chat_template: TemplateOfOthers = None
    device: Device = "auto"

    @property
    def rows(self) -> slice:
        """The rows to use."""
        if self.limit is None or self.prompts == "same":
            return slice(self.limit)
        return slice(self.limit * (self.round - 1), self.limit * self.round)

    @property
    def generation(self) -> Generate:
        """How answers are generated in this round."""
        seed = (self.generate.seed + _SEEDS_OF_A_ROUND * (self.round - 1)) % SEEDS
        return self.generate.model_copy(update={"seed": seed})
