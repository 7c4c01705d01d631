"""One run from the parent's side: validate, plan, make or find the run directory, start the workers, follow them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import Finding, RecipeError, RunError
from dpo_recipes.hardware import machine
from dpo_recipes.launch import local
from dpo_recipes.launch.job import Job, Order
from dpo_recipes.recipe.checks import NOT_INSTALLED
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.resume import find_unfinished, nothing_to_resume
from dpo_recipes.run_dir import create_run_directory, write_json, write_text_atomically
from dpo_recipes.shipped import recipe_paths
from dpo_recipes.supervise import Listener, WorkerBug, follow, may_not_come_again


@dataclass(frozen=True)
class RunPlan:
    """What is decided before a worker starts."""

    recipe: str
    command: list[str]
    pairs_per_step: int
    num_processes: int
    warnings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**self.__dict__, "warnings": [finding.to_json() for finding in self.warnings]}


def find_recipe(reference: str) -> Path:
    """The file of a recipe given by path, or by the name of a shipped one. Raises `RecipeError` R101."""
    path, shipped = Path(reference), recipe_paths()
    if path.is_file() or path.suffix in (".yaml", ".yml") or "/" in reference:
        return path
    if reference in shipped:
        return shipped[reference]
    raise RecipeError.of(
        "R101",
        f"there is no recipe {reference}",
        why=f"it is no file here, and the shipped recipes are {', '.join(shipped)}",
        fix="give the path of a YAML file or the name of a shipped recipe",
    )


def prepare_run(
    validated: Validated, *, trust_remote_code: bool = False, resume: bool | None = False
) -> tuple[Order, RunPlan, bool]:
    """Make the run directory with all that the worker needs, or find the one to go on with; the order to start it, its
    plan, and whether it is an earlier one.

    Raises `RecipeError` R316 (a library is not installed) and R317 (remote code without the flag), `RunError` T601,
    T602, and with `resume` T611, T614 and T615.
    """
    recipe = validated.recipe
    missing = [finding for finding in validated.warnings if finding.code == NOT_INSTALLED]
    if missing:
        raise RecipeError(*(replace(finding, severity="error") for finding in missing))
    if recipe.model.trust_remote_code and not trust_remote_code:
        raise RecipeError.of(
            "R317",
            "this recipe asks to run Python code from the model's repository",
            where=validated.composed.where(("model", "trust_remote_code"), key=True),
            why="a recipe must not be able to do that by itself",
            fix="read that code, then add `--trust-remote-code` to the command",
        )
    output_dir = Path(recipe.output_dir).expanduser().resolve()
    earlier = None if resume is False else find_unfinished(recipe, output_dir)
    if resume and earlier is None:
        raise nothing_to_resume(recipe, output_dir)
    run = earlier or create_run_directory(output_dir, recipe.name)
    order = Order(recipe, run, trust_remote_code=trust_remote_code)
    plan = RunPlan(
        recipe=recipe.name,
        command=local.command(order),
        pairs_per_step=recipe.training.micro_batch_size * recipe.training.gradient_accumulation_steps,
        num_processes=order.num_processes,
        warnings=validated.warnings,
    )
    write_text_atomically(run.given_recipe, validated.composed.text)
    write_text_atomically(run.resolved_recipe, dump_recipe(recipe))
    write_json(run.plan, plan.to_json())
    write_json(run.environment, {**machine.describe_machine(), "packages": machine.package_versions()})
    return order, plan, earlier is not None


def run_recipe(
    path: Path,
    overrides: list[str],
    listen: Listener,
    *,
    trust_remote_code: bool = False,
    resume: bool | None = None,
    retries: int = 0,
) -> dict[str, Any]:
    """Do the whole job; returns what stands in result.json.

    An unfinished run of the same recipe is gone on with, unless `resume` is False; with True there must be one. After a
    failure that may not come again, such as a killed process or a hang, the job is started again, up to `retries`
    times. `listen` gets each event of the worker, after a first one `{"event": "run", "dir", "plan", "resumed"}`.
    Raises every `DpoRecipeError` that a stage raised, `Interrupted` after Ctrl-C, and `WorkerBug` for a fault of ours.
    """
    validated = validate(path, overrides)
    order, plan, is_resumed = prepare_run(validated, trust_remote_code=trust_remote_code, resume=resume)
    listen({"event": "run", "dir": str(order.run.path), "plan": plan, "resumed": is_resumed})
    backend = validated.recipe.launch.backend
    start: Callable[[Order], Job] = registry.load("launchers", "local" if backend == "auto" else backend)
    while True:
        order.run.clear_events()
        try:
            follow(start(order), order, listen)
        except (RunError, WorkerBug) as error:
            if retries == 0 or not may_not_come_again(error):
                raise
            retries -= 1
            listen({"event": "retry", "error": error, "left": retries})
        else:
            return json.loads(order.run.result.read_text(encoding="utf-8"))
