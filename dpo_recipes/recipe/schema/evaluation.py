"""The `evaluation` section: what is asked of the model before and after."""

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section


class Evaluation(Section):
    """Answers of the untouched base and of the tuned model to the same held-out prompts, decoded greedily."""

    num_samples: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="How many held-out prompts to answer before and after training (those of the training data "
        "when nothing is held out). 0 generates nothing.",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
