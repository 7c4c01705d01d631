"""Computes sequences in batches that fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from dpo_recipes.errors import is_out_of_memory

T = TypeVar("T")


def in_batches(items: Sequence[T], size: int, compute: Callable[[Sequence[T]], None]) -> None:
    """Call `compute` for consecutive batches of at most `size` items.

    If a batch does not fit into the memory of a GPU, it and all later ones are halved; a single item that does not fit
    raises the library's error. `compute` must do all of its lasting work after whatever needs the memory.
    """
    start = 0
    while start < len(items):
        try:
            compute(items[start : start + size])
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = min(size, len(items) - start) // 2 or 1
        else:
            start += size
            continue
        free_memory()  # after the error, whose traceback holds tensors


def free_memory() -> None:
    """Return the memory of tensors that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
