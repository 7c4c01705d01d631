"""(c) What `plan` predicts against what torch's allocator held, at points measured as benchmarks/memory.py does it;
four of them on a card that is made to look like one of 6 GB."""

from __future__ import annotations

from typing import Any

import memory
import models
from context import Context
from device import GIB

SMALL_CARD = 6 * GIB


def _point(model: str, tuning: str, length: int, batch: int, *, checkpointing: bool, small: bool = False) -> Any:
    return dict(
        model=model, tuning=tuning, length=length, batch=batch, checkpointing=checkpointing, is_small_card=small
    )  # fmt: skip


POINTS: tuple[dict[str, Any], ...] = (
    _point("qwen2-0.5b", "lora", 1024, 8, checkpointing=False),
    _point("qwen2-0.5b", "qlora", 1024, 16, checkpointing=True, small=True),
    _point("qwen2-0.5b", "full", 1024, 4, checkpointing=True),
    _point("llama-3.2-1b", "qlora", 1024, 4, checkpointing=True),
    _point("llama-3.2-1b", "lora", 1024, 4, checkpointing=True, small=True),
    _point("llama-3.2-1b", "full", 512, 2, checkpointing=True),
    _point("llama-3-8b", "qlora", 1024, 4, checkpointing=True),
    _point("qwen2-0.5b", "lora", 512, 3, checkpointing=False, small=True),
    _point("qwen2-0.5b", "lora", 2048, 4, checkpointing=True),
    _point("gpt2", "full", 1024, 2, checkpointing=False),
    _point("llama", "full", 1024, 3, checkpointing=False, small=True),
    _point("gemma3", "lora", 1024, 4, checkpointing=False),
)
TINY = (_point("tiny", "lora", 48, 2, checkpointing=True), _point("tiny", "full", 48, 1, checkpointing=False))


def points_of(context: Context) -> tuple[dict[str, Any], ...]:
    """The points that are measured."""
    return TINY if context.is_tiny else POINTS


def name_of(point: dict[str, Any]) -> str:
    """A point in words."""
    checkpointed = ", checkpointed" if point["checkpointing"] else ""
    card = ", 6 GB card" if point["is_small_card"] else ""
    return f"{point['model']} {point['tuning']} {point['length']} x {point['batch']}{checkpointed}{card}"


def run(context: Context, number: int) -> None:
    """Train at one point, and record the peaks."""
    import torch

    point = _placed(context, points_of(context)[number])
    try:
        with models.random_weights("cpu"):
            measured = memory.measure(point)
    except torch.OutOfMemoryError as error:
        measured = {"out_of_memory": str(error).splitlines()[0]}
    else:
        # On a CPU the files of a real base are mapped, and count only as long as nothing else wants their memory.
        phases = {
            name: size for name, size in measured["peaks"].items() if name != "loading" or point["device"] != "cpu"
        }
        measured["measured_bytes"] = max(phases.values())
    context.record("memory", name_of(point), {**points_of(context)[number], **measured})


def predict(context: Context) -> None:
    """What `plan` says of all points; takes no GPU and may run beside the measurements."""
    for point in points_of(context):
        predicted = memory.predict(_placed(context, point))
        context.record("predictions", name_of(point), predicted)


def _placed(context: Context, point: dict[str, Any]) -> dict[str, Any]:
    """A point as benchmarks/memory.py takes it."""
    fraction = 1.0
    if point["is_small_card"]:
        fraction = min(1.0, SMALL_CARD / context.results.read().get("device", {}).get("memory_bytes", SMALL_CARD))
    folder = models.write_folder(point["model"], context.scratch)
    return {**point, "device": context.device.kind, "fraction": fraction, "folder": str(folder)}
