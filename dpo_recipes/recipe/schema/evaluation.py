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
    samples_each_eval: int = Field(
        default=0,
        ge=0,
        description="The number of these prompts, the first ones, that the model also answers at each evaluation of "
        "`training.eval_steps`, for the report. It changes nothing in the training. 0: none.",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="The maximum length of an answer in tokens.")
