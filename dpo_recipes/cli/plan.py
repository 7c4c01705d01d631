"""`dpo-recipe plan`: predict whether a job fits and how long it takes, and list what would make it fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dpo_recipes.cli.options import JsonOption, NodesOption, ProcessesOption, RecipeArgument, SetOption, find_recipe
from dpo_recipes.errors import EXIT_FIT, DpoRecipeError, Finding
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.plan import PlanOptions, plan_run
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.recipe.schema.launch import Strategy
from dpo_recipes.recipe.validate import Validated

if TYPE_CHECKING:
    from dpo_recipes.jobs.plan import PlannedRun


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
    """Predict peak memory, time and disk use of a job, without its weights. Exit code 5 means that it does not fit.

    Of a chain: those of each step, with the sums of time and disk use, and the highest peak.
    """
    overrides = [*(set_ or []), *([f"hardware.profile={hardware}", "hardware.device=auto"] if hardware else [])]
    overrides += [f"launch.strategy={strategy}"] if strategy else []
    validated = validate_file(find_recipe(recipe), overrides)
    from dpo_recipes.cli.progress import Progress

    with Progress() as progress:

        def on_stage(name: str, detail: str) -> None:
            progress.on_event({"event": "stage", "name": name, "detail": detail})

        flags = LaunchFlags(num_processes, num_nodes)
        options = PlanOptions(flags, read_data, trust_remote_code, on_stage=on_stage)
        if isinstance(validated, ValidatedChain):
            fits = _plan_chain(validated, options, json_=json_)
        else:
            fits = _plan_recipe(validated, options, json_=json_)
    raise typer.Exit(0 if fits else EXIT_FIT)


def _plan_recipe(validated: Validated, options: PlanOptions, *, json_: bool) -> bool:
    """Plan a run and show it. Returns whether it fits."""
    try:
        planned = plan_run(validated.recipe, options)
    except DpoRecipeError as error:
        raise error.located(validated.composed.where) from error
    findings = (*validated.warnings, *(finding.located(validated.composed.where) for finding in planned.findings))
    if json_:
        plain = {**_plain(planned), "warnings": [finding.to_json() for finding in findings]}
        typer.echo(json.dumps(plain, indent=2))
    else:
        from dpo_recipes.cli.plan_text import describe_plan

        typer.echo("\n".join(describe_plan(planned.job, planned.launch, planned.reports)))
        _show_findings(findings)
    return planned.job.fits


def _plan_chain(validated: ValidatedChain, options: PlanOptions, *, json_: bool) -> bool:
    """Plan the steps of a chain and show them. Returns whether all fit."""
    from dpo_recipes.jobs.chain_plan import plan_chain

    planned = plan_chain(validated, options)
    findings = (*validated.warnings, *planned.findings)
    if json_:
        plain = {**planned.to_json(), "warnings": [finding.to_json() for finding in findings]}
        typer.echo(json.dumps(plain, indent=2))
    else:
        from dpo_recipes.cli.plan_text import describe_chain_plan

        typer.echo("\n".join(describe_chain_plan(planned)))
        _show_findings(findings)
    return planned.fits


def _plain(planned: PlannedRun) -> dict[str, object]:
    conversions = {name: report.conversions for name, report in planned.reports.items()}
    return {**planned.job.to_json(), **planned.launch.to_json(), "conversions": conversions}


def _show_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        typer.echo("\n" + finding.render(), err=True)
