"""The `evaluation` section: sample answers before and after training."""

from pydantic import Field

from dpo_recipes.section import Section


class Evaluation(Section):
    """Answers of the original base and of the tuned model to the same held-out prompts, decoded greedily."""

    num_samples: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="The number of held-out prompts to answer before and after training (prompts of the training data "
        "if nothing is held out). 0 generates nothing.",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="The maximum length of an answer in tokens.")
