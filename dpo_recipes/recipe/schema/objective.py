"""The `objective` section: the loss that is minimized on the preference pairs."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section

DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]


class Dpo(Section):
    """Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) and its variants, as
    implemented in TRL 1.16."""

    kind: Literal["dpo"] = Field(description="The objective.")
    beta: float = Field(
        default=0.1,
        gt=0.0,
        description="How strongly the policy is kept near the reference: a higher value keeps it closer. Usual: 0.01 "
        "to 0.5. For `ipo` it is tau of the paper.",
    )
    loss_type: DpoLoss | list[DpoLoss] = Field(
        default="sigmoid",
        description="The loss: `sigmoid` is DPO as published, `ipo` https://arxiv.org/abs/2310.12036, `robust` "
        "https://arxiv.org/abs/2403.00409, `apo_zero` and `apo_down` https://arxiv.org/abs/2408.06266; TRL's "
        "documentation describes the others. The losses of a list are summed with `loss_weights`.",
    )
    loss_weights: list[float] | None = Field(
        default=None, description="One weight for each loss of a `loss_type` list. Absent: every weight is 1."
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0.0,
        lt=0.5,
        description="The assumed share of flipped labels. Used by `sigmoid`, `robust` (0.1 in the paper) and "
        "`exo_pair` (1e-3 in the paper).",
    )
