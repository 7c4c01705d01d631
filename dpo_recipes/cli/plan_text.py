"""The output of `dpo-recipe plan` in a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dpo_recipes.data.report import describe_conversion
from dpo_recipes.fit.check import describe_settings
from dpo_recipes.formats import NO_VALUE, align_columns
from dpo_recipes.objectives import objective_of

if TYPE_CHECKING:
    from dpo_recipes.data.report import SplitReport
    from dpo_recipes.fit.planner.changes import Change
    from dpo_recipes.fit.planner.plan import JobPlan
    from dpo_recipes.jobs.chain_plan import ChainPlan
    from dpo_recipes.launch.choose import LaunchSketch

_PARTS = {
    "weights": "weights of the base",
    "adapter": "adapter",
    "reference": "reference",
    "reward_models": "reward models",
    "cache": "keys and values",
    "vllm": "vLLM",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "optimizer_step": "optimizer step",
    "activations": "activations",
    "head_or_layer": "LM head or one layer",
    "unpacked": "a matrix unpacked",
    "overhead": "libraries",
    "fragmentation": "fragmentation",
}


def describe_plan(
    plan: JobPlan, launch: LaunchSketch | None = None, reports: Mapping[str, SplitReport] | None = None
) -> Iterator[str]:
    """The plan, line by line; the verdict first. `reports` are those of the data, if it was read."""
    device, memory = plan.target.device, plan.memory
    where = f"{device.name}, {'this machine' if plan.target.is_here else 'described'}"
    yield f"{plan.recipe.name} on {where}: {_verdict(plan)}"
    yield ""
    processes = f" of each of {plan.sharding.num_processes} processes" if plan.sharding.num_processes > 1 else ""
    yield f"peak memory{processes}, while {_PHASES[memory.highest.name]}"
    for name, size in memory.highest.parts.items():
        yield f"  {_PARTS[name]:<24}{describe_bytes(size):>12}"
    yield f"  {'in all':<24}{describe_bytes(memory.peak_bytes):>12}   of {describe_bytes(plan.target.usable_bytes)}"
    others = [f"{phase.name} {describe_bytes(phase.peak_bytes)}" for phase in memory.phases if phase != memory.highest]
    yield f"  {'other stages':<24}{', '.join(others)}"
    yield ""
    yield from _work(plan)
    for name, report in (reports or {}).items():
        for conversion in report.conversions:
            yield f"converted   {describe_conversion(conversion)} ({name})"
    yield from _disk(plan)
    if launch is not None:
        yield from _launch(launch, objective_of(plan.recipe).row_noun)
    if plan.changes:
        yield ""
        fit = any(change.fits for change in plan.changes)
        yield "what would make it fit, cheapest first" if fit else "no change makes it fit; the closest are"
        for change in plan.changes:
            yield f"  {_change(plan, change)}"


_PHASES = {
    "loading": "loading the base",
    "reference": "computing the reference",
    "evaluation": "evaluating the base",
    "training": "training",
    "generation": "answers are written",
    "optimizer step": "the optimizer steps",
}


def _verdict(plan: JobPlan) -> str:
    if plan.fits:
        return f"fits, with {describe_bytes(plan.spare_bytes)} to spare"
    return f"does not fit, by {describe_bytes(-plan.spare_bytes)}"


def _work(plan: JobPlan) -> Iterator[str]:
    facts, duration = plan.facts, plan.duration
    most = "" if plan.workload.is_read else "at most "
    noun = objective_of(plan.recipe).row_noun
    count = f"{facts.num_train_rows:,}" if facts.num_train_rows is not None else "unknown"
    held_out = f", {facts.num_eval_rows:,} held out" if facts.num_eval_rows else ""
    longest = plan.longest.lengths
    held_out += f"; the longest micro-batch has {sum(longest.distinct):,} tokens"
    yield f"{noun + 's':<11} {count} to train on{held_out}"
    tokens = plan.workload.tokens("train")
    if tokens is not None and facts.num_train_rows:
        yield f"tokens      {tokens:,} distinct, {tokens / facts.num_train_rows:,.0f} per {noun}"
    else:
        length = plan.recipe.data.max_length
        yield f"            not read, assumed to have {length} tokens each, half of them prompt (see --read-data)"
    if facts.num_steps is not None:
        yield f"steps       {facts.num_steps:,} of {facts.rows_per_step:,} {noun}s each, {plan.dtype}"
    total = duration.total_s
    if total is None or duration.stages_s is None:
        yield f"time        {most}{format_seconds(duration.step_s)} a step; their number depends on the data"
        return
    stages = ", ".join(
        f"{name} {format_seconds(seconds)}" for name, seconds in duration.stages_s.items() if seconds >= 1
    )
    yield f"time        {most}{format_seconds(total)}: {stages}"
    yield (
        f"work        {most}{(duration.flops or 0) / 1e12:,.0f} TFLOP, {plan.weights.num_base / 1e6:,.0f}M parameters, "
        + (
            f"{plan.weights.num_trainable / 1e6:,.1f}M of them trained"
            if plan.recipe.model.adapter is None
            else f"{plan.weights.num_trainable / 1e6:,.1f}M trained beside them"
        )
    )


def _disk(plan: JobPlan) -> Iterator[str]:
    names = {"base": "base", "checkpoint": "a checkpoint", "checkpoints": "all checkpoints", "model": "the saved model"}
    names["sweep"] = "models and checkpoints of the sweep"
    sizes = [f"{names[name]} {describe_bytes(size)}" for name, size in plan.disk.items() if size]
    yield f"disk        {', '.join(sizes)}"


def _launch(launch: LaunchSketch, noun: str) -> Iterator[str]:
    yield f"launch      {launch.plan.batch.describe(noun)}"
    if launch.plan.batch.num_processes > 1 or launch.plan.strategy != "ddp":
        yield f"strategy    {launch.plan.strategy}: {launch.plan.reason}"
    yield f"command     {shlex.join(launch.command)}"
    for name, config in launch.configurations.items():
        yield f"            RUN_DIR/launch/{name}: {json.dumps(config)}"


def _change(plan: JobPlan, change: Change) -> str:
    fits = "" if change.fits else ", still too much"
    cost = f"{describe_bytes(change.peak_bytes)}{fits}, {format_seconds(change.step_s)} a step; {change.price}"
    return f"{describe_settings(plan, change)}\n      {cost}"


def describe_chain_plan(plan: ChainPlan) -> Iterator[str]:
    """The plan of a chain: a line for each step, and the sums; the verdict first."""
    wrong = [name for name, step in plan.steps.items() if not step.fits]
    verdict = f"does not fit: {', '.join(wrong)}" if wrong else "fits"
    yield f"chain {plan.name}: {verdict}"
    yield ""
    rows = [["step", "peak memory", "of", "time", "disk"]]
    for name, step in plan.steps.items():
        most = "at most " if step.is_upper_bound else ""
        sizes = [_size(size) for size in (step.peak_bytes, step.device_bytes)]
        time = NO_VALUE if step.time_s is None else f"{most}{format_seconds(step.time_s)}"
        rows.append([name, *sizes, time, _size(step.disk_bytes)])
    highest = plan.steps[plan.highest].peak_bytes if plan.highest else None
    time = NO_VALUE if plan.time_s is None else format_seconds(plan.time_s)
    rows.append(["in all", _size(highest), "", time, _size(plan.disk_bytes)])
    yield from align_columns(rows)
    yield ""
    yield "The peak is the highest one, time is that of one step after the other, and disk use includes the bases."


def _size(size: int | None) -> str:
    return NO_VALUE if size is None else describe_bytes(size)


def describe_bytes(size: int) -> str:
    """A size with its unit."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def format_seconds(seconds: float) -> str:
    """A duration with its unit."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
