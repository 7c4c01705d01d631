"""The table of choices that a device does not support, each rule with its reason, its source and two ways out.

The first rule that applies answers a question, so refusals come before warnings. The facts are taken from torch 2.13,
transformers 5.23, accelerate 1.15 and bitsandbytes 0.50.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from dpo_recipes.hardware.choice import FLASH_CAPABILITY, FLOAT16_OVERFLOWS, Question, Rule

_HF = "https://github.com/huggingface"
_ACCELERATE = f"{_HF}/accelerate/blob/v1.15.0/src/accelerate"
_TRANSFORMERS = f"{_HF}/transformers/blob/v5.23.0/src/transformers"
_BNB = "https://github.com/bitsandbytes-foundation/bitsandbytes"
_BNB_DEVICES = f"{_BNB}/blob/0.50.0/README.md#accelerator-support"
_FLASH = "https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support"

_DTYPE = (
    Rule(
        "bf16-needs-ampere",
        lambda device, ask: ask.dtype == "bfloat16" and device.older_than(8),
        "GPUs have bfloat16 units since compute capability 8.0 (Ampere); before it, torch emulates them, slower than "
        "float32",
        "https://docs.nvidia.com/cuda/ampere-tuning-guide/index.html#improved-tensor-core-operations",
        ("write `dtype: auto` or `dtype: float16`", "run on an Ampere or newer GPU (RTX 30, A40, A100, L4 and later)"),
    ),
    Rule(
        "fp16-not-on-cpu",
        lambda device, ask: ask.dtype == "float16" and device.kind == "cpu",
        "on a CPU, accelerate has neither autocast nor a gradient scaler for float16, so it would be ignored silently",
        f"{_ACCELERATE}/accelerator.py#L563",
        ("write `dtype: auto`", "write `hardware.device: cuda` and run it on a GPU"),
    ),
    Rule(
        "fp16-trouble-on-mps",
        lambda device, ask: ask.dtype == "float16" and device.kind == "mps",
        "float16 on MPS has open reports of NaN and wrong values where the same code is correct on CUDA",
        f"{_HF}/diffusers/issues/7563",
        ("write `dtype: auto`", "write `dtype: bfloat16` (macOS 14 and later)"),
    ),
    Rule(
        "fp16-overflows",
        lambda device, ask: ask.dtype == "float16" and ask.model_type in FLOAT16_OVERFLOWS,
        "this model's activations exceed the range of float16, 65504, and the loss becomes NaN",
        f"{_HF}/transformers/issues/36822",
        ("write `dtype: float32`", "run in bfloat16 on an Ampere or newer GPU"),
        "warn",
    ),
    Rule(
        "fp16-slow-before-volta",
        lambda device, ask: ask.dtype == "float16" and device.older_than(7),
        "before compute capability 7.0 there are no tensor cores, and GeForce 10 cards run float16 at 1/64 of "
        "float32's rate",
        "https://docs.nvidia.com/cuda/archive/12.6.3/cuda-c-programming-guide/index.html#arithmetic-instructions",
        ("write `dtype: float32`", "run on a GPU with tensor cores (V100, T4, RTX 20 and later)"),
        "warn",
    ),
    Rule(
        "bf16-slow-without-matrix-units",
        lambda device, ask: ask.dtype == "bfloat16" and device.kind == "cpu" and not device.has_bf16_matrix_units,
        "without AMX or Arm's BFMMLA, bfloat16 is slower: 60 GFLOP/s against 285 in float32, measured on two cores",
        "https://docs.pytorch.org/tutorials/recipes/amx.html",
        ("write `dtype: auto` or `dtype: float32`", "run on a CPU with AMX (Intel Xeon of 2023 and later)"),
        "warn",
    ),
    Rule(
        "bf16-emulated-on-mps",
        lambda device, ask: ask.dtype == "bfloat16" and device.kind == "mps",
        "bfloat16 needs macOS 14, and Metal emulates it in float32 on M1 and M2, where it saves memory but no time",
        f"{_TRANSFORMERS}/utils/import_utils.py#L657",
        ("write `dtype: auto` or `dtype: float32`", "keep it if memory is short, on macOS 14 and later"),
        "warn",
    ),
)

_BITSANDBYTES = (
    Rule(
        "no-bitsandbytes-on-mps",
        lambda device, ask: ask.uses_bitsandbytes and device.kind == "mps",
        "bitsandbytes has no 8-bit or paged optimizers for MPS; transformers loads its 4- and 8-bit bases onto the CPU",
        _BNB_DEVICES,
        ("remove `model.quantization` and use `optimizer: adafactor`", "run on a CUDA GPU, or on the CPU"),
    ),
    Rule(
        "bitsandbytes-not-installed",
        lambda device, ask: ask.uses_bitsandbytes and ask.lacks("bitsandbytes"),
        "4- and 8-bit bases and 8-bit and paged optimizers need bitsandbytes, which is not installed",
        "https://huggingface.co/docs/bitsandbytes/main/en/installation",
        ("pip install 'dpo-recipe[quant]'", "remove `model.quantization` and use `optimizer: adamw_torch`"),
    ),
    Rule(
        "bitsandbytes-needs-pascal",
        lambda device, ask: ask.uses_bitsandbytes and device.older_than(6),
        "bitsandbytes is built for compute capability 6.0 and higher",
        _BNB_DEVICES,
        ("remove `model.quantization` and use `optimizer: adamw_torch`", "run on a newer GPU (7.5 and higher is best)"),
    ),
)

_QUANTIZATION = (
    *_BITSANDBYTES,
    Rule(
        "int8-slow-before-turing",
        lambda device, ask: ask.bits == 8 and device.older_than(7, 5),
        "GPUs have int8 tensor cores since compute capability 7.5; before it, bitsandbytes multiplies 8-bit weights "
        "slowly",
        f"{_BNB}/blob/0.50.0/bitsandbytes/diagnostics/cuda.py",
        ("write `bits: 4`", "run on a Turing or newer GPU (T4, RTX 20 and later)"),
        "warn",
    ),
    Rule(
        "quantized-slow-on-cpu",
        lambda device, ask: ask.bits is not None and device.kind == "cpu",
        "on a CPU the base is dequantized for every matrix product, which saves memory and costs time",
        _BNB_DEVICES,
        ("remove `model.quantization` if the base fits in memory", "run on a CUDA GPU"),
        "warn",
    ),
)

_OPTIMIZER = (
    *_BITSANDBYTES,
    Rule(
        "paged-optimizer-on-cpu",
        lambda device, ask: device.kind == "cpu" and (ask.optimizer or "").startswith("paged_"),
        "a CPU has nothing to page: bitsandbytes warns and keeps the same state without paging",
        f"{_BNB}/blob/0.50.0/bitsandbytes/optim/optimizer.py",
        ("write the name without `paged_`", "run on a CUDA GPU"),
        "warn",
    ),
)

_ATTENTION = (
    Rule(
        "flash-attention-needs-cuda",
        lambda device, ask: ask.uses_flash and device.kind != "cuda",
        "its kernels are written for CUDA",
        _FLASH,
        ("write `attn_implementation: auto`", "run on a CUDA GPU of compute capability 8.0 or higher"),
    ),
    Rule(
        "flash-attention-needs-ampere",
        lambda device, ask: device.older_than(*FLASH_CAPABILITY.get(ask.attention or "", (0, 0))),
        "FlashAttention 2 and 3 need compute capability 8.0 (Ampere) or higher, 4 needs 9.0 (Hopper) or higher",
        _FLASH,
        ("write `attn_implementation: sdpa`, torch's own memory-efficient kernel", "run on a newer GPU"),
    ),
    Rule(
        "flash-attention-needs-16-bit",
        lambda device, ask: ask.uses_flash and ask.dtype == "float32",
        "its kernels support only float16 and bfloat16",
        f"{_TRANSFORMERS}/modeling_utils.py#L1620",
        ("write `dtype: auto`", "write `attn_implementation: sdpa`"),
    ),
    Rule(
        "flash-attention-not-installed",
        lambda device, ask: ask.uses_flash and ask.lacks("flash_attn", "flash_attn_interface"),
        "flash-attn is not installed",
        f"{_TRANSFORMERS}/utils/import_utils.py#L1306",
        ("write `attn_implementation: sdpa`", "pip install flash-attn --no-build-isolation"),
    ),
    Rule(
        "flex-attention-cannot-train-here",
        lambda device, ask: ask.attention == "flex_attention" and device.kind != "cuda",
        "torch's FlexAttention has no backward pass on CPU and MPS",
        "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/attention/flex_attention.py#L2075",
        ("write `attn_implementation: sdpa`", "run on a CUDA GPU"),
    ),
    Rule(
        "flash-attention-3-is-for-hopper",
        lambda device, ask: ask.attention == "flash_attention_3" and (device.compute_capability or (9, 0))[0] != 9,
        "FlashAttention 3 is written for Hopper (9.0); its documentation requires an H100 or H800",
        _FLASH,
        ("write `attn_implementation: flash_attention_2`", "write `attn_implementation: sdpa`"),
        "warn",
    ),
)

_ONE_PROCESS = Rule(
    "mps-is-one-process",
    lambda device, ask: device.kind == "mps" and (ask.processes > 1 or ask.strategy is not None),
    "a Mac has one GPU, and torch.distributed has no backend for it",
    "https://docs.pytorch.org/docs/stable/distributed.html#backends",
    ("run one process and raise `gradient_accumulation_steps`", "run on several CUDA GPUs, or on CPU processes"),
)

_STRATEGY = (
    _ONE_PROCESS,
    Rule(
        "no-fsdp-on-cpu",
        lambda device, ask: device.kind == "cpu" and ask.strategy in ("fsdp", "fsdp2"),
        "accelerate replaces FSDP on CPUs with DDP, so every process would have the whole model",
        f"{_ACCELERATE}/state.py",
        ("use DeepSpeed ZeRO, which shards on CPUs", "use DDP if the model fits in each process"),
    ),
    Rule(
        "int8-cannot-be-sharded",
        lambda device, ask: ask.shards_weights and ask.bits == 8,
        "FSDP and ZeRO-3 shard only floating-point weights, but LLM.int8 stores integers",
        "https://huggingface.co/docs/bitsandbytes/main/en/fsdp_qlora",
        ("use DDP, ZeRO-1 or ZeRO-2, with which each process has its whole base", "remove `model.quantization`"),
    ),
    Rule(
        "sharded-4-bit-needs-float-storage",
        lambda device, ask: ask.shards_weights and ask.bits == 4 and not ask.stores_4_bit_as_float,
        "a 4-bit base can be sharded only if its bytes are stored in the floating-point type of the other weights",
        "https://huggingface.co/docs/bitsandbytes/main/en/fsdp_qlora",
        ("use DDP, ZeRO-1 or ZeRO-2, with which each process has its whole base", "remove `model.quantization`"),
    ),
)

_MEMORY_LIMIT = (
    Rule(
        "mps-watermarks-cross",
        lambda device, ask: device.kind == "mps" and ask.watermarks_cross,
        "the low watermark (1.4 if it is not set) is above the high one: torch fails with `invalid low watermark`",
        "https://github.com/kohya-ss/sd-scripts/issues/603",
        ("set PYTORCH_MPS_LOW_WATERMARK_RATIO below the high one", "set neither of the two variables"),
    ),
    Rule(
        "mps-watermark-lets-it-swap",
        lambda device, ask: device.kind == "mps" and (ask.high_watermark is None or not 0 < ask.high_watermark <= 1),
        "torch's limit is 1.7 times Metal's recommended size, or none with 0.0, more than the Mac has, so it swaps",
        "https://docs.pytorch.org/docs/stable/mps_environment_variables.html",
        ("export PYTORCH_MPS_HIGH_WATERMARK_RATIO=1.0 PYTORCH_MPS_LOW_WATERMARK_RATIO=0.9", "use a smaller batch"),
        "warn",
    ),
)

_TORCH = (
    Rule(
        "old-gpu-needs-cuda-12-build",
        lambda device, ask: device.older_than(7, 5),
        "torch from PyPI is built with CUDA 13, which does not support Volta and Pascal: `no kernel image is "
        "available`",
        "https://github.com/pytorch/pytorch/issues/172352",
        ("pip install torch --index-url https://download.pytorch.org/whl/cu126", "run on a Turing or newer GPU"),
        "warn",
    ),
)

RULES: Mapping[Question, tuple[Rule, ...]] = {
    "dtype": _DTYPE,
    "quantization": _QUANTIZATION,
    "optimizer": _OPTIMIZER,
    "attention": _ATTENTION,
    "processes": (_ONE_PROCESS,),
    "strategy": _STRATEGY,
    "memory_limit": _MEMORY_LIMIT,
    "torch": _TORCH,
}
"""All rules by the question that they answer; those of bitsandbytes and of single-process MPS answer two."""
