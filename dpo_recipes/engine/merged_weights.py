"""The weights of a policy as a model without an adapter has them, one at a time and without changing the policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

_WRAPPER, _BASE, _TRAINED = "base_model.model.", ".base_layer", "modules_to_save.default."
_LEFT_OUT = ("original_module", "modules_to_save.", "trainable_tokens_")
"""Parts of names of weights that the base does not have under any name: untrained originals, and copies."""


def merged_parameters(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The names in the base and the weights, with the active adapter added to a copy.

    peft's `merge_adapter` and `unmerge_adapter` would add it in place and subtract it again. In 16 bits that does not
    give back the same weights: the base, and with it the reference, would change a little in each step.
    """
    layers = {
        id(parameter): layer
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer)
        for parameter in layer.get_base_layer().parameters()
    }
    of_adapter = str(model.base_model.prefix)
    for name, parameter in model.named_parameters():
        plain = name.removeprefix(_WRAPPER).replace(_BASE, "").replace(_TRAINED, "")
        if of_adapter in plain or any(part in plain for part in _LEFT_OUT):
            continue
        layer = layers.get(id(parameter))
        yield plain, parameter.data if layer is None else _merged(layer, parameter)


@torch.no_grad()
def _merged(layer: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter of an adapted layer with the adapter added. Raises `ValueError` if the sum is not finite."""
    own = [(each, each.data) for each in layer.get_base_layer().parameters()]
    try:
        layer.merge(safe_merge=True)  # safe: it adds to a copy
        return parameter.data
    finally:
        for each, data in own:
            each.data = data
        layer.merged_adapters.clear()
