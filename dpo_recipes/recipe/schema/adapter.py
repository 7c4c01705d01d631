"""The `model.adapter` section: low-rank adapters and how they begin."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section

AdapterInit = Literal["default", "gaussian", "pissa", "olora", "orthogonal", "loftq"]


class LoraAdapter(Section):
    """Low-rank adaptation (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685): the base stays frozen and
    each target matrix W gets a trained update (alpha / r) · B·A."""

    kind: Literal["lora"] = Field(description="The kind of adapter.")
    r: int = Field(default=16, ge=1, le=1024, description="Rank of the update. Usual: 8 to 64.")
    alpha: int = Field(default=32, ge=1, description="Scale of the update, divided by `r`. Usual: r to 2 r.")
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Dropout on the adapter's input while training, at least 0 and below 1. The base's own dropout is "
        "always off, so that policy and reference are the same network.",
    )
    target_modules: str | list[str] = Field(
        default="all-linear",
        description="`all-linear`; or the names of the modules to adapt, for example [q_proj, v_proj]; or a regular "
        "expression that the module's whole path must match. Where only the upper layers are adapted, the backward "
        "pass ends at the lowest of them.",
    )
    modules_to_save: list[str] = Field(
        default_factory=list,
        description="Names of modules that are trained whole and saved with the adapter, for example [embed_tokens, "
        "lm_head].",
    )
    use_rslora: bool = Field(
        default=False,
        description="Scale by alpha / √r, so that high ranks learn as fast (https://arxiv.org/abs/2312.03732).",
    )
    use_dora: bool = Field(
        default=False,
        description="Learn the length of each weight column beside its direction (https://arxiv.org/abs/2402.09353); "
        "slower, more memory.",
    )
    init: AdapterInit = Field(
        default="default",
        description="How the update begins. `default`, `gaussian`, `orthogonal`: at zero. `pissa` "
        "(https://arxiv.org/abs/2404.02948), `olora` (https://arxiv.org/abs/2406.01775): from the base's own weights, "
        "so that training starts along their main directions; what is saved fits the untouched base again. `loftq` "
        "(https://arxiv.org/abs/2310.08659): makes up for the error of a 4-bit base.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="An adapter to go on from: a local folder or a hub id. Its own rank and targets hold, so that "
        "none of the fields above can be set.",
    )
    save_as: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="`adapter` saves the adapter alone, `merged` the whole model with the adapter added to its "
        "weights. `auto` merges where the base is a GGUF file, which an adapter cannot name as its base.",
    )
