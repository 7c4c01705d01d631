"""`dpo-recipe plan`: will it fit, how long will it take, and what would make it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption
from dpo_recipes.errors import EXIT_FIT, Finding
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.workflow import find_recipe

if TYPE_CHECKING:
    from dpo_recipes.cli.progress import Progress
    from dpo_recipes.fit.plan import JobPlan

Strategy = Literal["ddp", "fsdp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"]


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
            help="Read and tokenize the data for exact lengths, or take every pair to be as long as `data.max_length` "
            "lets it, half of it prompt. Without either: data that are files of this machine are read.",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(help="Plan for so many processes, one a device.", min=1)] = 1,
    strategy: Annotated[Strategy, typer.Option(help="What these share.")] = "ddp",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a model that needs Python code from its repository.")
    ] = False,
) -> None:
    """Predict peak memory, time and disk of a job, without its weights. Exit code 5 when it does not fit."""
    overrides = [*(set_ or []), *([f"hardware.profile={hardware}", "hardware.device=auto"] if hardware else [])]
    validated = validate(find_recipe(recipe), overrides)
    if read_data is None:
        read_data = all(Path(source.path).is_absolute() for source in validated.recipe.data.train)
    from dpo_recipes.cli.progress import Progress

    with Progress() as progress:
        job, advice = _plan(
            validated, progress, processes, strategy, read_data=read_data, trust_remote_code=trust_remote_code
        )
    findings = (*validated.warnings, *advice)
    if json_:
        plain = {**job.to_json(), "warnings": [finding.to_json() for finding in findings]}
        typer.echo(json.dumps(plain, indent=2))
    else:
        from dpo_recipes.cli.plan_text import describe_plan

        typer.echo("\n".join(describe_plan(job)))
        for finding in findings:
            typer.echo("\n" + finding.render(), err=True)
    raise typer.Exit(0 if job.fits else EXIT_FIT)


def _plan(
    validated: Validated,
    progress: Progress,
    processes: int,
    strategy: Strategy,
    *,
    read_data: bool,
    trust_remote_code: bool,
) -> tuple[JobPlan, tuple[Finding, ...]]:
    from dpo_recipes.fit.advice import advise
    from dpo_recipes.fit.plan import Planner, facts_of
    from dpo_recipes.fit.sharding import Sharding
    from dpo_recipes.fit.target import find_target
    from dpo_recipes.fit.workload import assume_workload, read_workload
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.pairs import prepare_pairs

    recipe = validated.recipe
    trust = trust_remote_code and recipe.model.trust_remote_code

    def say(name: str, detail: str) -> None:
        progress.on_event({"event": "stage", "name": name, "detail": detail})

    target = find_target(recipe)
    workload, reports = assume_workload(recipe), {}
    if read_data:
        prepared = prepare_pairs(recipe, say, trust_remote_code=trust)
        workload, reports = read_workload(prepared.splits.datasets), prepared.splits.reports
    say("plan", f"{recipe.model.path} on {target.device.name}")
    planner = Planner(
        recipe,
        resolve_model(recipe.model),
        target,
        workload,
        Sharding(processes, strategy),
        trust_remote_code=trust,
    )
    job = planner.plan(recipe)
    return job, advise(facts_of(job, reports), validated.composed.where)
