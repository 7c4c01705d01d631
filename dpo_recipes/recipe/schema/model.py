"""The `model` section: which base model, in which precision, tuned how."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


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
    save_as: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="`adapter` saves the adapter alone, `merged` the whole model with the adapter added to its "
        "weights. `auto` merges where the base is a GGUF file, which an adapter cannot name as its base.",
    )


class Model(Section):
    """The base model and how it is tuned."""

    path: str = Field(
        min_length=1,
        description="Where the base model is: a hub id (`Qwen/Qwen2-0.5B-Instruct`), a local folder, a local `.gguf` "
        "file, or `pypi:NAME==VERSION/FILE.gguf` for a model file inside a Python wheel. A local path is relative "
        "to the recipe that names it.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a hub model. Pin a commit for a run others can repeat."
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the model file, 64 lower-case hexadecimal digits; required with `pypi:`, where it "
        "is that of the `.gguf` file.",
    )
    dtype: Dtype = Field(
        default="auto",
        description="Precision of the forward and backward pass. `auto`: bfloat16 on CUDA devices that have it "
        "(compute capability 8.0 and up), float32 everywhere else.",
    )
    adapter: LoraAdapter | None = Field(
        default=None, description="The adapter to train. Absent: full fine-tuning, every weight is trained."
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="Attention code path of transformers; `auto` lets it choose (SDPA where it can)."
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="What happens when the tokenizer lacks special tokens that the chat template writes: true adds "
        "them, and their rows of the embeddings are trained and saved (also with an adapter); false leaves them as "
        "ordinary text of several tokens; absent, the run ends with an error that names them.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="The model needs Python code from its repository. Takes effect only together with the "
        "command-line flag `--trust-remote-code`: a recipe from somebody else must not run code by itself.",
    )
