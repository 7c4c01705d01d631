"""The `model.quantization` section: a base in 4 or 8 bits."""

from typing import Literal

from pydantic import Field

from dpo_recipes.section import Section


class Quantization(Section):
    """Quantization of the frozen base by bitsandbytes while it is loaded (QLoRA, Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314). Needs an adapter. A base that is already quantized (GPTQ, AWQ) needs no such
    section, because its own configuration describes it."""

    bits: Literal[4, 8] = Field(description="4 is QLoRA; 8 is LLM.int8 (https://arxiv.org/abs/2208.07339).")
    quant_type: Literal["nf4", "fp4"] = Field(
        default="nf4", description="With 4 bits: `nf4`, designed for normally distributed weights, or `fp4`."
    )
    double_quant: bool = Field(
        default=True, description="With 4 bits: quantize the scales too, which saves 0.4 bits per weight."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="With 4 bits: the precision to which weights are dequantized for matrix products. `auto`: `dtype`.",
    )
