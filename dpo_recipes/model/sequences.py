"""Token ids of sequences that a model continues: padding before them, and the end of what it wrote."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch


def pad_left(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, [sequences, longest], with padding before each sequence."""
    width = max(map(len, sequences))
    ids = [[pad_id] * (width - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def until_end(ids: Sequence[int], ends: Collection[int]) -> tuple[list[int], bool]:
    """The ids up to the first token that ends an answer, after which there is padding, and whether there is one."""
    end = next((place for place, token in enumerate(ids, 1) if token in ends), None)
    return list(ids[:end]), end is not None
