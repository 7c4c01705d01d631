"""(b) Our engine and TRL's trainer on the same pairs: pairs a second, memory, share of the matrix products' rate."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import pairs as pair_source
import throughput
import throughput_side
from context import Context

JOBS: dict[str, dict[str, Any]] = {
    "qwen2-0.5b lora": dict(shape="qwen2-0.5b", adapter="lora", batch=16, steps=14, checkpointing=False),
    "qwen2-0.5b full": dict(shape="qwen2-0.5b", adapter="full", batch=16, steps=14, checkpointing=False),
    "llama-3-8b lora": dict(shape="llama-3-8b", adapter="lora", batch=8, steps=9, checkpointing=True),
    "llama-3-8b qlora": dict(shape="llama-3-8b", adapter="qlora", batch=8, steps=9, checkpointing=True),
}
TINY = {"tiny lora": dict(shape="tiny", adapter="lora", batch=2, steps=5, checkpointing=True)}
SIDES = ("ours", "trl")
_WARM_UP = 3
"""Steps that are not timed: kernels are compiled and memory is taken in them."""
_MAX_LENGTH = 512


def run(context: Context, name: str, side: str) -> None:
    """Train one side of a job, and record it."""
    import datasets

    job = (TINY if context.is_tiny else JOBS)[name]
    datasets.disable_caching()
    rows, source = pair_source.read_pairs(
        job["batch"] * job["steps"], models.SHAPES[job["shape"]]["vocab_size"], longest=24 if context.is_tiny else None
    )
    recipe = throughput.build_recipe(
        SimpleNamespace(
            objective="dpo",
            model=str(models.write_folder(job["shape"], context.scratch)),
            data="pairs.jsonl",
            epochs=1,
            max_length=_MAX_LENGTH,
            **job,
        )
    )
    bundle = models.build(recipe, context.device.kind)
    context.device.reset_peak()
    measured = _train(context, recipe, bundle, datasets.Dataset.from_list(rows), side)
    shares = _per_pair(rows, bundle, measured, context)
    context.record("speed", f"{name}, {side}", {**job, "pairs": source, **measured, **shares})


def _train(context: Context, recipe: Any, bundle: Any, rows: Any, side: str) -> dict[str, Any]:
    """Build the trainer, the reference pass included, and train."""
    device, clock = context.device, _clock(context.device)
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder, _no_digest():
        device.sync()
        started = time.perf_counter()
        if side == "ours":
            trainer = throughput_side.build_ours(recipe, bundle, rows, Path(folder))
        else:
            trainer = throughput_side.build_trls(recipe, bundle, rows, Path(folder), best=False)
        trainer.add_callback(clock)
        device.sync()
        reference_s = time.perf_counter() - started
        trainer.train()
    times = clock.times
    step_s = (times[-1] - times[_WARM_UP - 1]) / (len(times) - _WARM_UP)
    batch = recipe.training.micro_batch_size
    # TRL computes its reference within each step.
    reference = reference_s / len(rows) if side == "ours" else 0.0
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {
        "training_pairs_per_second": batch / step_s,
        "pairs_per_second": 1 / (step_s / batch + reference),
        "reference_s": reference_s,
        "step_s": step_s,
        **device.peaks(),
        "trainable": trainable,
        "sharing": str(bundle.model_info.get("prefix_sharing")) if side == "ours" else None,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }


def _per_pair(rows: list[Any], bundle: Any, measured: dict[str, Any], context: Context) -> dict[str, Any]:
    """Useful arithmetic of the training steps over the measured rate of matrix products; the same work for both sides:
    each distinct token once forward and backward, without the reference."""
    from dpo_recipes.engine.speed import flops_per_token

    distinct = sum(len(ids) for row in rows for ids in pair_source.texts_of(row)) / len(rows)
    flops = flops_per_token(bundle.policy, bundle.model_info["total_parameters"], measured["trainable"])
    done = flops * distinct * measured["training_pairs_per_second"]
    known = context.results.read().get("device", {}).get("matmul_flops")
    return {
        "distinct_tokens_per_pair": distinct,
        "useful_flops_per_second": done,
        "matmul_share": done / known if known else None,
    }


def _clock(device: Any) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """The time after each step."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            device.sync()
            self.times.append(time.perf_counter())

    return Clock()


class _no_digest:
    """The engine's digest of the base's weights, by which it finds a reference again, takes a CPU some seconds for each
    ten gigabytes, once a run: no part of a rate."""

    def __enter__(self) -> None:
        from dpo_recipes.engine import reference

        self.module, self.own = reference, reference.hash_weights
        reference.hash_weights = lambda trainer: "random weights"

    def __exit__(self, *_: object) -> None:
        self.module.hash_weights = self.own
