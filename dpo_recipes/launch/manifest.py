"""A self-contained recipe for another system, and the YAML of that system's job file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dpo_recipes import __version__
from dpo_recipes.hardware.profiles import Device, profile
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.model_checks import optimizer_library
from dpo_recipes.recipe.paths import is_url, local_data_paths, parent_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.trackers import LIBRARIES
from dpo_recipes.recipe.validate import Validated

RENDEZVOUS_PORT = 29500


@dataclass(frozen=True)
class ExportRequest:
    """A recipe that is to run on another system, and the settings of that system."""

    validated: Validated
    num_processes: int | None = None
    """The total, or None for one on each GPU."""
    num_nodes: int = 1
    image: str | None = None
    """A container image with dpo-recipe in it."""
    claim: str | None = None
    """A volume for runs and caches."""
    secrets: tuple[str, ...] = field(default=())
    """Names of secrets that hold environment variables such as HF_TOKEN."""

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.validated.recipe

    @property
    def device(self) -> Device | None:
        """The device that the recipe names, or None."""
        name = self.recipe.hardware.profile
        return profile(name) if name else None

    @property
    def gpus_per_node(self) -> int:
        """GPUs of a node: one for each process, 0 if the recipe is for a CPU."""
        device = self.device
        if self.recipe.hardware.device == "cpu" or (device is not None and device.kind == "cpu"):
            return 0
        return -(-(self.num_processes or self.num_nodes) // self.num_nodes)

    def run_flags(self, rendezvous: str) -> list[str]:
        """The flags of `dpo-recipe run` on each node; `rendezvous` is the address of the first one."""
        processes = self.num_processes or self.num_nodes
        flags = ["--num-processes", str(processes)] if processes > 1 else []
        if self.num_nodes > 1:
            flags += ["--num-nodes", str(self.num_nodes), "--rendezvous", f"{rendezvous}:{RENDEZVOUS_PORT}"]
        return flags


def travelling_recipe(request: ExportRequest) -> tuple[str, dict[str, Path]]:
    """The recipe as one text with parents and overrides merged, and the local files that it needs.

    Files are named relative to the recipe, as `files/0/rows.jsonl`; a template file becomes part of the text. Launch
    settings of this machine are left out.
    """
    data = copy.deepcopy(request.validated.composed.data)
    for key in ("backend", "slurm"):
        data.get("launch", {}).pop(key, None)
    if data.get("launch") == {}:
        del data["launch"]
    files: dict[str, Path] = {}
    for at in local_data_paths(data):
        parent = parent_of(data, at)
        # The function of a reward source is FILE.py:NAME.
        text, colon, function = parent[at[-1]].rpartition(":") if at[-1] == "function" else (parent[at[-1]], "", "")
        path = Path(text)
        if at[-1] == "chat_template":
            parent[at[-1]] = path.read_text(encoding="utf-8")
        else:
            name = f"files/{len(files)}/{path.name}"
            files[name] = path
            parent[at[-1]] = f"./{name}{colon}{function}"
    return dump_plain(data), files


def requirements(recipe: Recipe) -> list[str]:
    """The packages that pip installs for a recipe: this version with the extras that the recipe uses, and packages that
    have no extra."""
    data, library = recipe.data, optimizer_library(recipe.training.optimizer)
    wanted = {
        "quant": recipe.model.quantization is not None or (library is not None and library[0] == "bitsandbytes"),
        "deepspeed": recipe.launch.strategy.startswith("deepspeed"),
        "remote": any(is_url(source.path) for source in (*data.train, *data.eval.sources, *data.test.sources)),
    }
    trackers = [LIBRARIES[name] for name in dict.fromkeys(recipe.tracking.report_to)]
    extras = ",".join(
        dict.fromkeys(
            [
                *(name for name, is_wanted in wanted.items() if is_wanted),
                *(tracker.extra for tracker in trackers if tracker.extra),
            ]
        )
    )
    other = [library[0]] if library is not None and library[0] != "bitsandbytes" else []
    other += [tracker.package for tracker in trackers if tracker.package and not tracker.extra]
    return [f"dpo-recipe[{extras}]=={__version__}" if extras else f"dpo-recipe=={__version__}", *other]


def dump_documents(*documents: dict[str, Any]) -> str:
    """YAML text of one or more documents; texts of several lines stay readable."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
