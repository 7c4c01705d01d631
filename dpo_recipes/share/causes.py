"""The likely cause of a difference between two runs of the same job."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_recipes.share.comparison import Change, Part

_OF_INPUTS = {
    "settings": "resolved.yaml was changed after the run: settings or a seed",
    "tokenizer": "the tokenizer's files have changed, or its library",
    "chat template": "the chat template has changed",
    "base": "the weights of the base have changed",
}
_OF_COMPUTATION = (
    "device",
    "device name",
    "dtype",
    "attention",
    "processes",
    "micro batch size",
    "strategy",
    "threads",
)
_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "datasets", "bitsandbytes", "deepspeed",
    "dpo-recipe", "safetensors",
)  # fmt: skip


def likely_cause(parts: Sequence[Part], changes: Sequence[Change], device: str | None) -> str | None:
    """A sentence about the first difference, from what else differs; None if nothing does."""
    first = next((part for part in parts if part.state == "different"), None)
    first = first or next((part for part in parts if part.state == "close"), None)
    if first is None:
        return None
    if first.name in _OF_INPUTS:
        return _OF_INPUTS[first.name]
    if first.name.startswith("rows of"):
        return "the data have changed: a file was edited, or a dataset on the hub has moved"
    packages = [change for change in changes if change.name in _PACKAGES]
    computation = [change for change in changes if change.name in _OF_COMPUTATION]
    others = [change for change in changes if change not in packages and change not in computation]
    for found in ([*packages, *computation], others):
        if found:
            return "; ".join(map(str, found))
    if any(part.name == "inputs" and part.state == "unknown" for part in parts):
        return "not known: the run is of an earlier version, which recorded neither inputs nor the number of threads"
    if device == "cuda":
        return "nothing that a run records differs; on a GPU some backward passes, such as flash attention's, add in "\
               "an order that varies"  # fmt: skip
    return "nothing that a run records differs: an operation that is not deterministic, or a part of the code that "\
           "draws random numbers without the recipe's seed"  # fmt: skip
