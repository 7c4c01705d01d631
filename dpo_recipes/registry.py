"""Names to code: visible tables of "module:attribute" strings, resolved on first use.

A table costs nothing to read, so the command line can list what exists without loading it. Outside
packages add entries through the entry-point group `dpo_recipes.<table>`.
"""

from __future__ import annotations

import importlib
from typing import Any

from dpo_recipes.errors import RecipeError

OBJECTIVES = {
    "cpo": "dpo_recipes.objectives.cpo:CPO",
    "dpo": "dpo_recipes.objectives.dpo:OBJECTIVE",
    "grpo": "dpo_recipes.objectives.grpo:OBJECTIVE",
    "kto": "dpo_recipes.objectives.kto:OBJECTIVE",
    "orpo": "dpo_recipes.objectives.orpo:OBJECTIVE",
    "reward": "dpo_recipes.objectives.reward:OBJECTIVE",
    "rloo": "dpo_recipes.objectives.rloo:OBJECTIVE",
    "sft": "dpo_recipes.objectives.sft:OBJECTIVE",
    "simpo": "dpo_recipes.objectives.cpo:SIMPO",
}

DATA_FORMATS = {
    "preference": "dpo_recipes.data.formats.trl:PREFERENCE",
    "implicit_prompt": "dpo_recipes.data.formats.implicit:IMPLICIT_PROMPT",
    "unpaired": "dpo_recipes.data.formats.trl:UNPAIRED",
    "messages": "dpo_recipes.data.formats.trl:MESSAGES",
    "prompt": "dpo_recipes.data.formats.trl:PROMPT",
    "prompt_completion": "dpo_recipes.data.formats.trl:PROMPT_COMPLETION",
    "ultrafeedback": "dpo_recipes.data.formats.scored:ULTRAFEEDBACK",
    "helpsteer2": "dpo_recipes.data.formats.scored:HELPSTEER2",
    "helpsteer3": "dpo_recipes.data.formats.scored:HELPSTEER3",
    "winner": "dpo_recipes.data.formats.winner:WINNER",
    "ranked": "dpo_recipes.data.formats.ranked:RANKED",
    "hh_rlhf": "dpo_recipes.data.formats.hh_rlhf:HH_RLHF",
    "dahoas": "dpo_recipes.data.formats.hh_rlhf:DAHOAS",
    "openai": "dpo_recipes.data.formats.openai:OPENAI",
    "alpaca": "dpo_recipes.data.formats.llama_factory:ALPACA",
    "alpaca_kto": "dpo_recipes.data.formats.llama_factory:ALPACA_KTO",
    "alpaca_sft": "dpo_recipes.data.formats.llama_factory:ALPACA_SFT",
    "sharegpt": "dpo_recipes.data.formats.llama_factory:SHAREGPT",
    "chosen_messages": "dpo_recipes.data.formats.llama_factory:CHOSEN_MESSAGES",
    "sharegpt_pair": "dpo_recipes.data.formats.llama_factory:SHAREGPT_PAIR",
    "sharegpt_kto": "dpo_recipes.data.formats.llama_factory:SHAREGPT_KTO",
    "sharegpt_sft": "dpo_recipes.data.formats.llama_factory:SHAREGPT_SFT",
    "ms_swift": "dpo_recipes.data.formats.ms_swift:MS_SWIFT",
    "ms_swift_query": "dpo_recipes.data.formats.ms_swift:MS_SWIFT_QUERY",
    "ms_swift_kto": "dpo_recipes.data.formats.ms_swift:MS_SWIFT_KTO",
    "chatml.default": "dpo_recipes.data.formats.axolotl:CHATML_DEFAULT",
    "llama3.default": "dpo_recipes.data.formats.axolotl:LLAMA3_DEFAULT",
    "chatml.argilla": "dpo_recipes.data.formats.axolotl:CHATML_ARGILLA",
    "llama3.argilla": "dpo_recipes.data.formats.axolotl:LLAMA3_ARGILLA",
    "chatml.argilla_chat": "dpo_recipes.data.formats.axolotl:CHATML_ARGILLA_CHAT",
    "llama3.argilla_chat": "dpo_recipes.data.formats.axolotl:LLAMA3_ARGILLA_CHAT",
    "chatml.icr": "dpo_recipes.data.formats.axolotl:CHATML_ICR",
    "llama3.icr": "dpo_recipes.data.formats.axolotl:LLAMA3_ICR",
    "chatml.intel": "dpo_recipes.data.formats.axolotl:CHATML_INTEL",
    "llama3.intel": "dpo_recipes.data.formats.axolotl:LLAMA3_INTEL",
    "chatml.prompt_pairs": "dpo_recipes.data.formats.axolotl:CHATML_PROMPT_PAIRS",
    "llama3.prompt_pairs": "dpo_recipes.data.formats.axolotl:LLAMA3_PROMPT_PAIRS",
    "chatml.ultra": "dpo_recipes.data.formats.axolotl:CHATML_ULTRA",
    "llama3.ultra": "dpo_recipes.data.formats.axolotl:LLAMA3_ULTRA",
    "chat_template.default": "dpo_recipes.data.formats.axolotl:CHAT_TEMPLATE_DEFAULT",
    "chat_template.argilla_chat": "dpo_recipes.data.formats.axolotl:CHAT_TEMPLATE_ARGILLA_CHAT",
    "zephyr.nectar": "dpo_recipes.data.formats.axolotl:ZEPHYR_NECTAR",
    "passthrough": "dpo_recipes.data.formats.axolotl:PASSTHROUGH",
    "kto.chatml.argilla": "dpo_recipes.data.formats.axolotl_kto:CHATML_ARGILLA",
    "kto.llama3.argilla": "dpo_recipes.data.formats.axolotl_kto:LLAMA3_ARGILLA",
    "kto.chatml.argilla_chat": "dpo_recipes.data.formats.axolotl_kto:CHATML_ARGILLA_CHAT",
    "kto.llama3.argilla_chat": "dpo_recipes.data.formats.axolotl_kto:LLAMA3_ARGILLA_CHAT",
    "kto.chatml.intel": "dpo_recipes.data.formats.axolotl_kto:CHATML_INTEL",
    "kto.llama3.intel": "dpo_recipes.data.formats.axolotl_kto:LLAMA3_INTEL",
    "kto.chatml.prompt_pairs": "dpo_recipes.data.formats.axolotl_kto:CHATML_PROMPT_PAIRS",
    "kto.llama3.prompt_pairs": "dpo_recipes.data.formats.axolotl_kto:LLAMA3_PROMPT_PAIRS",
    "kto.chatml.ultra": "dpo_recipes.data.formats.axolotl_kto:CHATML_ULTRA",
    "kto.llama3.ultra": "dpo_recipes.data.formats.axolotl_kto:LLAMA3_ULTRA",
}

MODEL_SOURCES = {
    "hub": "dpo_recipes.model.sources:resolve_hub",
    "local": "dpo_recipes.model.sources:resolve_local",
    "pypi": "dpo_recipes.model.pypi:resolve_pypi",
}

GUARDS = {
    "non_finite": "dpo_recipes.guards.non_finite:NonFinite",
    "spikes": "dpo_recipes.guards.spikes:Spikes",
    "displacement": "dpo_recipes.guards.displacement:Displacement",
    "saturation": "dpo_recipes.guards.saturation:Saturation",
    "memorizing": "dpo_recipes.guards.memorizing:Memorizing",
    "chance": "dpo_recipes.guards.chance:Chance",
    "length": "dpo_recipes.guards.length:Length",
    "drift": "dpo_recipes.guards.drift:Drift",
}

REWARDS = {
    "model": "dpo_recipes.rewards.model_reward:load_reward_model",
    "function": "dpo_recipes.rewards.function_reward:FunctionSource",
    "length": "dpo_recipes.rewards.rules:Length",
    "regex": "dpo_recipes.rewards.rules:Regex",
    "json": "dpo_recipes.rewards.rules:Json",
    "exact": "dpo_recipes.rewards.rules:Exact",
    "repetition": "dpo_recipes.rewards.rules:Repetition",
}
"""Their sections of a recipe are in `reward_settings`."""

LAUNCHERS = {
    "local": "dpo_recipes.launch.local:LAUNCHER",
    "torchrun": "dpo_recipes.launch.torchrun:LAUNCHER",
    "accelerate": "dpo_recipes.launch.accelerate:LAUNCHER",
    "slurm": "dpo_recipes.launch.slurm:LAUNCHER",
}

JOB_FILES = {
    "kubernetes": "dpo_recipes.launch.kubernetes:export",
    "skypilot": "dpo_recipes.launch.skypilot:export",
}

STEP_KINDS = {
    "evaluate": "dpo_recipes.jobs.steps.evaluate:KIND",
    "sample": "dpo_recipes.jobs.steps.sample:KIND",
    "train": "dpo_recipes.jobs.steps.train:KIND",
}

REFERENCES = {
    "hf": "dpo_recipes.artifacts.hub_source:HubSource",
    "https": "dpo_recipes.artifacts.https_source:HttpsSource",
    "oci": "dpo_recipes.artifacts.oci_source:OciSource",
}
"""Where recipes are fetched from, by the scheme of the address."""

FOREIGN_TOOLS = {
    "axolotl": "dpo_recipes.share.foreign.axolotl:TOOL",
    "handbook": "dpo_recipes.share.foreign.handbook:TOOL",
    "llama-factory": "dpo_recipes.share.foreign.llama_factory:TOOL",
    "llama-factory-v1": "dpo_recipes.share.foreign.llama_factory_v1:TOOL",
    "ms-swift": "dpo_recipes.share.foreign.ms_swift:TOOL",
    "oumi": "dpo_recipes.share.foreign.oumi:TOOL",
    "trl": "dpo_recipes.share.foreign.trl:TOOL",
}

TABLES = {
    "objectives": OBJECTIVES,
    "data_formats": DATA_FORMATS,
    "model_sources": MODEL_SOURCES,
    "guards": GUARDS,
    "rewards": REWARDS,
    "launchers": LAUNCHERS,
    "exporters": JOB_FILES,
    "step_kinds": STEP_KINDS,
    "foreign_tools": FOREIGN_TOOLS,
    "references": REFERENCES,
}


def names(table: str) -> list[str]:
    """The names in a table, including those of other packages, sorted."""
    return sorted({**TABLES[table], **_outside(table)})


def load(table: str, name: str) -> Any:
    """The object behind `name`. Raises `KeyError` with the known names when there is none, and `RecipeError` R318 if it
    is another package's and cannot be loaded."""
    reference = TABLES[table].get(name)
    if reference is not None:
        module, _, attribute = reference.partition(":")
        return getattr(importlib.import_module(module), attribute)
    point = next((point for point in entry_points(group=f"dpo_recipes.{table}") if point.name == name), None)
    if point is None:
        raise KeyError(f"no `{name}` in {table}; known: {', '.join(names(table))}")
    try:
        return point.load()
    except Exception as error:  # the package is not ours, and its import may raise anything
        raise _not_loadable(table, point, error) from error


def _not_loadable(table: str, point: Any, error: Exception) -> RecipeError:
    package = point.dist.name if point.dist else "another package"
    return RecipeError.of(
        "R318",
        f"`{point.name}` of {package} cannot be loaded",
        why=f"its entry in `dpo_recipes.{table}` is {point.value}: {type(error).__name__}: {error}",
        fix=f"repair, upgrade or uninstall {package}",
    )


def entry_points(group: str) -> Any:
    """The entry points of a group. `importlib.metadata` takes 20 ms to import, which most commands do not need."""
    from importlib.metadata import entry_points as find

    return find(group=group)


def _outside(table: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"dpo_recipes.{table}")}
