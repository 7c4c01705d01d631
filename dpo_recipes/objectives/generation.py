"""Where the answers of a policy are generated: the `generation` section, its checks, and the correction of a sampler
that computes other probabilities than the policy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.objectives.base import Locate
from dpo_recipes.section import Section

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_recipes.recipe.schema import Recipe

URL = r"^https?://[^\s/]+(/\S*)?$"
"""A pattern of addresses of servers."""
SAMPLER_DIFFERENCE = "sampling/sampling_logp_difference/mean"
"""The metric of how far the log-probabilities of the sampler are from those of the policy, token by token."""
SAMPLER_RATIO = "sampling/importance_sampling_ratio/mean"
"""The metric of the factors that correct the difference."""


class Generation(Section):
    """Where answers are generated. With `transformers`, the trained model generates itself, on any device. With `vllm`,
    vLLM generates on CUDA, on the GPU of the run or on a server, and gets the trained weights before each step."""

    backend: Literal["transformers", "vllm"] = Field(
        default="transformers",
        description="What generates. `vllm` is an extra: pip install 'dpo-recipe[vllm]'.",
    )
    server: str | None = Field(
        default=None,
        pattern=URL,
        description="The address of a vLLM server with the base of the recipe, for example http://localhost:8000, on "
        "other GPUs than those of the run. docs/rl.md has the command that starts it. Absent: vLLM shares the GPU of "
        "each process with the training.",
    )
    gpu_memory_utilization: float = Field(
        default=0.3,
        gt=0.0,
        lt=1.0,
        description="The share of each GPU's memory that vLLM reserves for its weights and its cache. Not with a "
        "`server`, which has its own.",
    )
    sleep: bool = Field(
        default=False,
        description="Whether vLLM frees its memory while the policy is trained, so that both need not fit beside each "
        "other. Each generation then loads the weights again. Not with a `server`.",
    )
    server_timeout_s: float = Field(
        default=240.0, ge=0.0, description="How long the start of a run waits until the `server` answers, in seconds."
    )
    group_port: int = Field(
        default=51216,
        ge=1024,
        le=65535,
        description="The port on which the run sends its weights to the `server`. Runs that use several servers on one "
        "machine need different ports.",
    )
    importance_sampling: Literal["sequence_mask", "sequence_truncate", "token_mask", "token_truncate", "none"] = Field(
        default="sequence_mask",
        description="vLLM computes slightly different probabilities than the policy. The gain of an answer is "
        "multiplied by the policy's probability of it divided by vLLM's, as `vllm_importance_sampling_mode` of TRL's "
        "GRPOTrainer does: for whole answers (`sequence`) or, in `grpo`, for each token; a factor above "
        "`importance_sampling_max` becomes 0 (`mask`) or this maximum (`truncate`). `none`: no correction.",
    )
    importance_sampling_max: float = Field(
        default=3.0, gt=0.0, description="The largest factor. `vllm_importance_sampling_clip_max` in TRL."
    )

    @property
    def address(self) -> str | None:
        """The server without a slash at the end, to which paths are added."""
        return None if self.server is None else self.server.rstrip("/")

    @property
    def uses_vllm(self) -> bool:
        """Whether vLLM generates."""
        return self.backend == "vllm"

    @property
    def is_colocated(self) -> bool:
        """Whether vLLM shares the GPUs of the run."""
        return self.uses_vllm and self.server is None

    @property
    def is_corrected(self) -> bool:
        """Whether the difference between sampler and policy is corrected."""
        return self.uses_vllm and self.importance_sampling != "none"


def importance_weights(generation: Generation, policy: Tensor, sampler: Tensor, mask: Tensor) -> Tensor:
    """The factors of the gains, [B, K, T] for tokens or [B, K, 1] for whole answers, from log-probabilities and the
    mask of answers' tokens, [B, K, T], as in TRL 1.16's GRPOTrainer. A log-probability that the sampler does not know
    is NaN and corrects nothing."""
    apart = ((policy - sampler) * mask).nan_to_num(nan=0.0)
    level, _, how = generation.importance_sampling.partition("_")
    ratio = (apart.sum(dim=2, keepdim=True) if level == "sequence" else apart).exp()
    most = generation.importance_sampling_max
    return ratio.clamp(max=most) if how == "truncate" else ratio.masked_fill(ratio > most, 0.0)


def has_vllm() -> bool:
    """Whether vLLM can be imported. It is not imported by this check."""
    return importlib.util.find_spec("vllm") is not None


def check_generation(
    recipe: Recipe, generation: Generation, locate: Locate, *, top_p: float, has_token_ratios: bool
) -> Iterator[Finding]:
    """R316: vLLM is not installed; R327: a setting without an effect; R400: vLLM cannot generate for this recipe."""
    at = ("objective", "generation")
    yield from _check_effects(generation, locate)
    if not generation.uses_vllm:
        return
    if not has_vllm():
        yield Finding(
            "R316",
            "vllm is not installed",
            locate((*at, "backend")),
            "`backend: vllm` generates with it",
            "pip install 'dpo-recipe[vllm]', or write `backend: transformers`",
        )
    yield from _check_base(recipe, locate)
    if not generation.is_corrected:
        return
    if top_p < 1.0:
        yield Finding(
            "R400",
            "`importance_sampling` needs a `top_p` of 1",
            locate((*at, "importance_sampling")),
            "vLLM returns the probabilities among the tokens that `top_p` leaves, and the policy's are those of all "
            "tokens, so that long answers would get factors near 0",
            "write `top_p: 1.0`, or `importance_sampling: none`",
        )
    if generation.importance_sampling.startswith("token") and not has_token_ratios:
        yield Finding(
            "R400",
            f"`{generation.importance_sampling}` needs ratios of single tokens",
            locate((*at, "importance_sampling")),
            "this objective has one ratio for each whole answer",
            "write `sequence_mask` or `sequence_truncate`, or use `kind: grpo`",
        )


def _check_effects(generation: Generation, locate: Locate) -> Iterator[Finding]:
    fields, defaults = type(generation).model_fields, Generation()
    of_server, of_colocated = {"server_timeout_s", "group_port"}, {"gpu_memory_utilization", "sleep"}
    if not generation.uses_vllm:
        idle, why = set(fields) - {"backend"}, "only vLLM reads it, and `backend` is transformers"
        fix = "write `backend: vllm`, or remove it"
    elif generation.is_colocated:
        idle, why = of_server, "there is no `server`"
        fix = "name the `server`, or remove it"
    else:
        idle, why = of_colocated, "the `server` was started with settings of its own"
        fix = "remove it, and start the server with what you need"
    for name in fields:
        if name in idle and getattr(generation, name) != getattr(defaults, name):
            where = locate(("objective", "generation", name), key=True)
            yield Finding("R327", f"`{name}` has no effect here", where, why, fix)


def _check_base(recipe: Recipe, locate: Locate) -> Iterator[Finding]:
    """R400: vLLM does not run on the device, or cannot take the weights of the base."""
    fix = "write `backend: transformers`"
    named = _device_without_cuda(recipe)
    if named is not None:
        key, device = named
        what, why = f"vLLM does not generate on {device}", "here it gets the weights of the policy from a CUDA device"
        yield Finding("R400", what, locate(("hardware", key)), why, f"{fix}, or name a CUDA device")
    model = recipe.model
    if model.quantization is not None:
        yield Finding(
            "R400",
            f"vLLM cannot take the weights of a base of {model.quantization.bits} bits",
            locate(("model", "quantization"), key=True),
            "each step adds the adapter to the weights that vLLM gets, and quantizing the sums again would round away "
            "what the adapter has learned; TRL 1.16 does not send the scales of quantized weights either",
            f"{fix}, or remove `model.quantization`",
        )
    if model.path.endswith(".gguf"):
        why = "the run trains its unpacked weights, which vLLM cannot read from that file"
        what = "vLLM cannot take the weights of a GGUF base"
        fix = f"{fix}, or name the folder or hub id of the unpacked model"
        yield Finding("R400", what, locate(("model", "path")), why, fix)


def _device_without_cuda(recipe: Recipe) -> tuple[str, str] | None:
    """The key of `hardware` that names a device without CUDA, and the device; None if none is named."""
    device, name = recipe.hardware.device, recipe.hardware.profile
    if device not in ("auto", "cuda"):
        return "device", device
    if name is None or device == "cuda":
        return None
    from dpo_recipes.hardware.profiles import profile

    try:
        return None if profile(name).kind == "cuda" else ("profile", name)
    except RecipeError:  # an unknown profile has a finding of its own
        return None
