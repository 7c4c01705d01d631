"""`dpo-recipe plan`: predict whether a job fits and how long it takes, and list what would make it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpo_recipes.cli.options import JsonOption, NodesOption, ProcessesOption, RecipeArgument, SetOption
from dpo_recipes.errors import EXIT_FIT, DpoRecipeError, Finding
from dpo_recipes.launch.batch import with_batch
from dpo_recipes.launch.choose import LaunchFlags, LaunchSketch, choose_batch, count_gpus, sketch_launch
from dpo_recipes.recipe.schema.launch import Strategy
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.shipped import find_recipe

if TYPE_CHECKING:
    from dpo_recipes.cli.progress import Progress
    from dpo_recipes.data.report import SplitReport
    from dpo_recipes.fit.planner.plan import JobPlan


def plan(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    recipe: RecipeArgument,
    set_: SetOption = None,
    json_: JsonOption = False,
    hardware: Annotated[
        str | None,
        typer.Option(help="A device by a name of docs/hardware.md, instead of the recipe's.", metavar="NAME"),
    ] = None,
    read_data: Annotated[
        bool | None,
        typer.Option(
            "--read-data/--no-data",
            help="Read and tokenize the data for exact lengths, or assume that every row is as long as `max_length` "
            "allows, with half of its tokens in the prompt. Without either, only data in local files are read.",
        ),
    ] = None,
    num_processes: ProcessesOption = None,
    num_nodes: NodesOption = None,
    strategy: Annotated[
        Strategy | None, typer.Option(help="How several processes share the model, instead of `launch.strategy`.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a model that needs Python code from its repository.")
    ] = False,
) -> None:
    """Predict peak memory, time and disk use of a job, without its weights. Exit code 5 means that it does not fit."""
    overrides = [*(set_ or []), *([f"hardware.profile={hardware}", "hardware.device=auto"] if hardware else [])]
    overrides += [f"launch.strategy={strategy}"] if strategy else []
    validated = validate(find_recipe(recipe), overrides)
    if read_data is None:
        read_data = all(Path(source.path).is_absolute() for source in validated.recipe.data.train)
    from dpo_recipes.cli.progress import Progress

    with Progress() as progress:
        flags = LaunchFlags(num_processes, num_nodes)
        try:
            job, launch, reports, doubts = _plan(
                validated, progress, flags, read_data=read_data, trust_remote_code=trust_remote_code
            )
        except DpoRecipeError as error:
            raise error.located(validated.composed.where) from error
    findings = (*validated.warnings, *(finding.located(validated.composed.where) for finding in doubts))
    if json_:
        plain = {
            **job.to_json(),
            **launch.to_json(),
            "conversions": {name: report.conversions for name, report in reports.items()},
            "warnings": [finding.to_json() for finding in findings],
        }
        typer.echo(json.dumps(plain, indent=2))
    else:
        from dpo_recipes.cli.plan_text import describe_plan

        typer.echo("\n".join(describe_plan(job, launch, reports)))
        for finding in findings:
            typer.echo("\n" + finding.render(), err=True)
    raise typer.Exit(0 if job.fits else EXIT_FIT)


def _plan(
    validated: Validated,
    progress: Progress,
    flags: LaunchFlags,
    *,
    read_data: bool,
    trust_remote_code: bool,
) -> tuple[JobPlan, LaunchSketch, dict[str, SplitReport], tuple[Finding, ...]]:
    from dpo_recipes.fit.advice.rules import advise
    from dpo_recipes.fit.planner.plan import Planner, advice_facts
    from dpo_recipes.fit.planner.sharding import Sharding
    from dpo_recipes.fit.planner.strategy import choose_strategy
    from dpo_recipes.fit.planner.target import find_target
    from dpo_recipes.fit.planner.workload import assume_workload, check_pass_budget, read_workload
    from dpo_recipes.model.preflight import check_base
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.prepared_data import prepare_data

    recipe = validated.recipe
    trust = trust_remote_code and recipe.model.trust_remote_code

    def on_stage(name: str, detail: str) -> None:
        progress.on_event({"event": "stage", "name": name, "detail": detail})

    target = find_target(recipe)
    # A described device is a single one; the recipe or the command gives their number.
    batch = choose_batch(recipe, flags, count_gpus() if target.is_here else 0)
    target, recipe = target.shared_by(batch.processes_per_node), with_batch(recipe, batch)
    location = resolve_model(recipe.model)
    on_stage("check", f"{recipe.model.path}: module names and weights")
    found = check_base(recipe, location, trust_remote_code=trust)
    workload = assume_workload(recipe)
    reports: dict[str, SplitReport] = {}
    if read_data:
        prepared = prepare_data(recipe, on_stage, trust_remote_code=trust)
        workload, reports = read_workload(prepared.splits.datasets), prepared.splits.reports
        found = [*found, *prepared.splits.warnings]
        check_pass_budget(recipe, prepared.splits, batch.num_processes)
    on_stage("plan", f"{recipe.model.path} on {target.device.name}")

    def plan_with(sharding: Sharding) -> JobPlan:
        return Planner(recipe, location, target, workload, sharding, trust_remote_code=trust).plan(recipe)

    job, reason = choose_strategy(recipe, batch.num_processes, target.device, plan_with)
    launch = sketch_launch(validated.recipe, batch, job.sharding.strategy, reason, job.dtype)
    return job, launch, reports, (*found, *advise(advice_facts(job, reports)))
