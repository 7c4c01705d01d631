"""The rule of everything that is saved: reloaded by plain transformers or peft in another process, it computes what the
trained model did. tests/saved_models.py has the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from saved_models import ARCHITECTURES, TUNINGS, reload_cells, save_cell

LARGEST = 2e-5
"""Of logits of about 1 in 32 bits; 7e-7 was measured."""
DIAGONAL = [
    ("llama", "full, tokens"),
    ("llama-tied", "LoRA on embeddings"),
    ("llama-tied", "added tokens"),
    ("qwen2", "DoRA"),
    ("qwen2-tied", "both whole"),
    ("gpt2", "embeddings whole"),
    ("gpt2-tied", "QLoRA"),
    ("gemma3", "head whole"),
    ("gemma3-tied", "full"),
    ("gemma3-tied", "LoRA"),
]


def check(cells: list[tuple[str, str]], folder: Path) -> list[dict[str, Any]]:
    """Save and reload some cells of the table; every one must compute what was trained."""
    saved = [
        cell
        for architecture, tuning in cells
        for cell in save_cell(architecture, tuning, folder / architecture / tuning, folder / "bases")
    ]
    compared = reload_cells(saved, folder)
    wrong = [cell for cell in compared if not cell["difference"] <= LARGEST]
    assert not wrong, json.dumps(wrong, indent=2)
    assert len(compared) == sum(1 if TUNINGS[tuning].adapter == "null" else 2 for _, tuning in cells)
    return compared


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, of tied weights
def test_saved_models_compute_what_the_trained_ones_did(tmp_path: Path) -> None:
    compared = check(DIAGONAL, tmp_path)
    config = {
        (cell["architecture"], cell["tuning"]): json.loads((Path(cell["folder"]) / "config.json").read_text())
        for cell in compared
        if cell["form"] != "adapter"
    }
    for tuning in ("LoRA on embeddings", "added tokens"):
        assert config["llama-tied", tuning]["tie_word_embeddings"] == (tuning == "added tokens")
    assert config["qwen2-tied", "both whole"]["tie_word_embeddings"] is False
    assert config["gemma3-tied", "LoRA"]["tie_word_embeddings"] is True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_whole_table(tmp_path: Path) -> None:
    check([(architecture, tuning) for architecture in ARCHITECTURES for tuning in TUNINGS], tmp_path)
