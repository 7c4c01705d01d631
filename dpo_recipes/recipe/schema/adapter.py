"""The `model.adapter` section: low-rank adapters and their initialization."""

from typing import Literal

from pydantic import Field

from dpo_recipes.section import Section

AdapterInit = Literal["default", "gaussian", "pissa", "olora", "orthogonal", "loftq"]


class LoraAdapter(Section):
    """Low-rank adaptation (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685): the base stays frozen, and a
    trained update (alpha / r) · B·A is added to each target matrix W."""

    kind: Literal["lora"] = Field(description="The kind of adapter.")
    r: int = Field(default=16, ge=1, le=1024, description="The rank of the update. Usual: 8 to 64.")
    alpha: int = Field(
        default=32, ge=1, description="The scale of the update, which is divided by `r`. Usual: r to 2 r."
    )
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Dropout on the adapter's input during training, at least 0 and below 1. The base's own dropout is "
        "always off, so that policy and reference are the same network.",
    )
    target_modules: str | list[str] = Field(
        default="all-linear",
        description="`all-linear`; or the names of the modules to adapt, for example [q_proj, v_proj]; or a regular "
        "expression that the module's whole path must match. If only the upper layers are adapted, the backward pass "
        "ends at the lowest of them.",
    )
    modules_to_save: list[str] = Field(
        default_factory=list,
        description="Names of modules whose weights are all trained and saved with the adapter, for example "
        "[embed_tokens, lm_head].",
    )
    use_rslora: bool = Field(
        default=False,
        description="Scale the update by alpha / √r instead of alpha / r, so that high ranks learn as fast as low ones "
        "(https://arxiv.org/abs/2312.03732).",
    )
    use_dora: bool = Field(
        default=False,
        description="Learn the magnitude of each weight column separately from its direction "
        "(https://arxiv.org/abs/2402.09353). Slower, and needs more memory.",
    )
    init: AdapterInit = Field(
        default="default",
        description="How the adapter is initialized. `default`, `gaussian` and `orthogonal` start with an update of "
        "zero. `pissa` (https://arxiv.org/abs/2404.02948) and `olora` (https://arxiv.org/abs/2406.01775) start from "
        "the base's own weights, so that training begins along their principal directions; the saved adapter applies "
        "to the original base. `loftq` (https://arxiv.org/abs/2310.08659) compensates for the quantization error of a "
        "4-bit base.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="An adapter to continue: a local folder or a hub id. Its own rank and target modules are used, so "
        "none of the fields above can be set.",
    )
    save_as: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="`adapter` saves the adapter alone, `merged` the whole model with the adapter added to its "
        "weights. `auto` merges if the base is a GGUF file, because an adapter cannot name such a file as its base.",
    )
