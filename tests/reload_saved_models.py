"""Reloads saved models with only transformers and peft, as other users do, and compares their logits."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

IDS = torch.arange(3, 63)[None]


def reload_model(cell: dict[str, Any]) -> Any:
    """Load the model as its card shows."""
    if cell["form"] != "adapter":
        return AutoModelForCausalLM.from_pretrained(cell["folder"])
    if not cell["is_quantized"]:
        return AutoPeftModelForCausalLM.from_pretrained(cell["folder"])
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoPeftModelForCausalLM.from_pretrained(cell["folder"], quantization_config=four_bits, device_map="cpu")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # it rounds to bfloat16
            module.support_avx512bf16_for_cpu = False
    return model


def compare(cell: dict[str, Any]) -> dict[str, Any]:
    """The largest difference of logits, and properties of the model according to its files."""
    expected = torch.load(cell["expected"])
    tokenizer = AutoTokenizer.from_pretrained(cell["folder"])
    model = reload_model(cell).eval()
    ids = torch.cat([IDS, torch.arange(len(tokenizer) - 6, len(tokenizer))[None]], dim=1)
    with torch.no_grad():
        logits = model(ids).logits.float()
    if logits.shape != expected.shape:
        return {**cell, "difference": float("inf"), "why": f"{tuple(logits.shape)}, not {tuple(expected.shape)}"}
    return {**cell, "difference": (logits - expected).abs().max().item(), "scale": expected.abs().max().item()}


def main() -> None:
    """Read the cells of the table, and write one line of JSON."""
    warnings.simplefilter("ignore")
    compared = []
    for cell in json.loads(Path(sys.argv[1]).read_text()):
        try:
            compared.append(compare(cell))
        except Exception as error:  # noqa: BLE001  (a cell that cannot be loaded is a result)
            compared.append({**cell, "difference": float("inf"), "why": f"{type(error).__name__}: {error}"[:300]})
    print(json.dumps(compared))


if __name__ == "__main__":
    main()
