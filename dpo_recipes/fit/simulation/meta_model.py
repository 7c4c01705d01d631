"""A model without weights: every module and parameter of the base and its adapter, from the configuration alone."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dpo_recipes.model.adapters import adapter_config
from dpo_recipes.model.build import load_config, switch_off_dropout
from dpo_recipes.model.heads import auto_class, configure_head, head_modules, is_of_head
from dpo_recipes.model.quantize import check_own_quantization
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Head
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.quantization import Quantization

_STORED_4_BIT = 0.5
_GPTQ_GROUP = 128


@dataclass(frozen=True)
class Weights:
    """Sizes of a model's parameters as training holds them, in bytes unless said otherwise."""

    base: int
    adapter: int
    num_base: int
    """Parameters of the base, each counted once whatever its bits."""
    num_trainable: int
    trainable_bytes: int
    largest_quantized: int
    """Numbers in the largest quantized matrix: what is unpacked for a product."""
    cast_copy: int
    """Bytes of the 16-bit copies of 32-bit weights that autocast keeps for a backward pass."""


@dataclass(frozen=True)
class MetaModel:
    """What simulations are made with. `config` has the attention implementation that the run will use."""

    recipe: Recipe
    config: Any
    location: ModelLocation
    device: str
    dtype: str
    own_quantization: str | None
    trains: bool = True
    """Whether the model is loaded to be trained, or else to be used."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def weight_dtype(self) -> torch.dtype:
        """Of weights that are not quantized. Full fine-tuning keeps 32 bits (model/build.py)."""
        return getattr(torch, self.dtype if self.recipe.model.adapter or not self.trains else "float32")

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What products are computed in where that is not float32."""
        return None if self.dtype == "float32" else getattr(torch, self.dtype)

    @property
    def has_uniform_layers(self) -> bool:
        """Whether all layers of a kind are adapted alike. A regular expression can choose some of them."""
        adapter = self.recipe.model.adapter
        if adapter is None:
            return True
        return adapter.path is None and (
            adapter.target_modules == "all-linear" or isinstance(adapter.target_modules, list)
        )

    def with_recipe(self, recipe: Recipe) -> MetaModel:
        """The same base for another recipe."""
        return replace(self, recipe=recipe)

    def with_dtype(self, dtype: str) -> MetaModel:
        """The same, computed in another precision."""
        return replace(self, dtype=dtype)

    def build(self, num_layers: int | None = None) -> Any:
        """The base with its adapter on torch's `meta` device, with fewer layers if asked."""
        from peft import PeftModel, get_peft_model

        head = objective_of(self.recipe).head
        config = self.config if num_layers is None else with_layers(self.config, num_layers)
        with quiet(), torch.device("meta"):
            model: Any = auto_class(head).from_config(configure_head(config, head), dtype=self.weight_dtype)
        switch_off_dropout(model)
        wanted = adapter_config(self.recipe, model)
        if wanted is None:
            return model
        model.requires_grad_(False)
        with quiet():
            wrapped: PeftModel = get_peft_model(model, wanted)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return wrapped


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries warn of what a model without weights lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_meta_model(recipe: Recipe, location: ModelLocation, device: str, *, trust_remote_code: bool) -> MetaModel:
    """Read the configuration of the base; of its weights nothing. Raises `RunError` M504, M509 and M511."""
    config = copy.deepcopy(load_config(location, trust_remote_code=trust_remote_code))
    model = recipe.model
    own = check_own_quantization(
        config,
        model.path,
        wants_more=model.quantization is not None,
        has_adapter=model.adapter is not None,
        needs_library=False,
    )
    if own:
        del config.quantization_config
    # Flash attention keeps what SDPA keeps, and has no kernel for the CPU that simulations run on.
    is_eager = model.attn_implementation == "eager" or not _has_sdpa(config, objective_of(recipe).head)
    config._attn_implementation = "eager" if is_eager else "sdpa"
    return MetaModel(recipe, config, location, device, "float32", own)


def _has_sdpa(config: Any, head: Head) -> bool:
    """Whether an architecture has SDPA; transformers has not implemented it for DeBERTa and a few others."""
    mapping = auto_class(head)._model_mapping
    return type(config) not in mapping or mapping[type(config)]._supports_sdpa


def layer_period(config: Any) -> int:
    """After how many layers the kinds of layers (full and sliding attention, for example) repeat."""
    kinds = list(getattr(config.get_text_config(), "layer_types", None) or [])
    for period in range(1, len(kinds)):
        if all(kind == kinds[index % period] for index, kind in enumerate(kinds)):
            return period
    return max(1, len(kinds)) if kinds else 1


def with_layers(config: Any, num_layers: int) -> Any:
    """The configuration of the same model with its first `num_layers` layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:num_layers]
    text.num_hidden_layers = num_layers
    return config


def weigh(meta_model: MetaModel, model: Any) -> Weights:
    """Sizes of the parameters of a meta model."""
    quantized = _quantized_weights(meta_model, model)
    base = adapter = num_base = num_trainable = trainable = cast = largest = 0.0
    for name, parameter in model.named_parameters():
        num_bytes = parameter.numel() * parameter.element_size()
        is_adapter = "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name
        if is_adapter:
            adapter += num_bytes
        else:
            num_base += parameter.numel()
            if id(parameter) in quantized:
                num_bytes = parameter.numel() * quantized_bytes(meta_model)
                largest = max(largest, parameter.numel())
            base += num_bytes
        if parameter.requires_grad:
            num_trainable += parameter.numel()
            trainable += parameter.numel() * parameter.element_size()
        if meta_model.autocast_dtype is not None and parameter.dtype == torch.float32 and parameter.dim() == 2:
            cast += parameter.numel() * 2
    base += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    adapter_recipe = meta_model.recipe.model.adapter
    if adapter_recipe is not None and (adapter_recipe.path or adapter_recipe.init not in ("default", "gaussian")):
        adapter *= 2  # its start is kept beside it, as the reference
    counts = (base, adapter, num_base, num_trainable, trainable, largest, cast)
    return Weights(*(int(count) for count in counts))


def quantized_bytes(meta_model: MetaModel) -> float:
    """Bytes that one number of a quantized matrix takes, its share of the scales included.

    bitsandbytes, 4 bits: a float32 scale for each 64 numbers; doubly quantized, one byte instead, and a float32 for
    each 256 of these (QLoRA, section 3). 8 bits: one byte, a scale a row. GPTQ and AWQ: 4 bits and, a group of 128,
    one 16-bit scale and a zero point.
    """
    quantization: Quantization | None = meta_model.recipe.model.quantization
    if quantization is None:
        return _STORED_4_BIT + (2 + _STORED_4_BIT) / _GPTQ_GROUP
    if quantization.bits == 8:
        return 1.0
    scales = 1 / 64 + 4 / (64 * 256) if quantization.double_quant else 4 / 64
    return _STORED_4_BIT + scales


def _quantized_weights(meta_model: MetaModel, model: Any) -> set[int]:
    """Identities of the matrices that will be quantized: those of linear layers, the LM head excepted."""
    if meta_model.recipe.model.quantization is None and meta_model.own_quantization is None:
        return set()
    from transformers.pytorch_utils import Conv1D

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    kept = {id(head.weight)} if head is not None else set()
    kept.add(id(base.get_input_embeddings().weight))
    if objective_of(meta_model.recipe).head == "score":
        whole = head_modules(base)
        kept |= {id(weight) for name, weight in base.named_parameters() if is_of_head(name, whole)}
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and "lora_" not in name and id(module.weight) not in kept:
            found.add(id(module.weight))
    return found


def materialize(model: Any, mode: FakeTensorMode) -> list[torch.Tensor]:
    """Replace the parameters and buffers of a meta model by fake tensors on the CPU; returns them.

    On the CPU also for a GPU, because torch without CUDA cannot pass fake CUDA tensors through autograd; both choose
    attention that keeps queries, keys, values and the output.
    """
    made: dict[int, tuple[Any, torch.Tensor]] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    with mode:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    new = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
                    made[id(tensor)] = (tensor, new)
                store[name] = made[id(tensor)][1]
    return [new for _, new in made.values()]
