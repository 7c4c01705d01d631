"""What the kinds of steps share that let models answer prompts: `evaluate` and `sample`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from dpo_recipes.errors import Finding, RecipeError, path_text
from dpo_recipes.jobs.devices import DeviceWish
from dpo_recipes.jobs.plan import PlanOptions
from dpo_recipes.jobs.steps.base import CheckedStep, ProductKind, Step, StepKind, StepPlan
from dpo_recipes.jobs.steps.train import Train, reward_recipes, stand_in
from dpo_recipes.objectives import objective_of
from dpo_recipes.preparation import check_machine
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import (
    exists,
    local_data_paths,
    looks_local,
    near_file,
    parent_of,
    paths_in_rewards,
    relative_note,
    resolve_paths,
)
from dpo_recipes.recipe.reward_checks import check_allowed, check_reward_sources
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.chain import FROM_THE_CHAIN
from dpo_recipes.recipe.schema.evaluate import BASE
from dpo_recipes.recipe.schema_findings import schema_findings
from dpo_recipes.recipe.validate import in_order, validate
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.shipped import find_recipe, recipe_paths
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions

if TYPE_CHECKING:  # it loads libraries, which checks do not need
    from dpo_recipes.jobs.answers_plan import Unread

_NO_PART_OF_THE_RESULT = {"device": True, "generate": {"batch_size"}}


class AnswersStep(StepKind):
    """A step whose section names models, data and sources of rewards in the same fields as an evaluation."""

    compute: ClassVar[Callable[..., Any]]
    """`run_evaluation`, or a function with the same parameters."""

    def check(self, composed: Composed) -> CheckedStep:
        """The section with absolute paths. Raises `RecipeError` R2xx, R384 to R388 for sources of rewards, and the
        findings of `check_section`."""
        own = {key: value for key, value in composed.data.items() if key not in FROM_THE_CHAIN}
        composed = resolve_paths(replace(composed, data=own), list(_path_fields(own)))
        try:
            section: Any = self.section.model_validate(composed.data)
        except ValidationError as error:
            raise RecipeError(*in_order(schema_findings(error, composed, self.section))) from None
        findings = [*check_reward_sources(section.rewards, ("rewards",), composed), *_check_models(section, composed)]
        findings += _check_data(section.data, composed)
        findings += self.check_section(section, composed)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            raise RecipeError(*in_order(errors))
        return CheckedStep(section, composed, tuple(findings))

    def execute(self, checked: CheckedStep, run: RunDirectory, on_event: EventHandler, options: RunOptions) -> None:
        """Let the models answer. What an interrupted step has computed comes from the cache."""
        self.compute(
            checked.settings,
            run.path,
            on_event,
            trust_remote_code=options.trust_remote_code,
            reward_functions=options.reward_functions,
        )

    def check_section(self, section: Any, composed: Composed) -> Iterator[Finding]:
        """Yield findings about fields that do not fit together."""
        yield from ()

    def takes(self, settings: Any, at: DataPath) -> tuple[ProductKind, ...]:
        """Models that answer, a reward model as a source of rewards, and data."""
        if at[:1] == ("models",) or at == ("against",):
            return ("model",)
        if at[:1] == ("rewards",) and at[-1] == "model":
            return ("reward model",)
        return ("data",) if at == ("data",) else ()

    def check_permitted(self, checked: CheckedStep, options: RunOptions) -> None:
        """R316: a library that is not installed; R386: a function that the command does not allow."""
        check_machine(checked.warnings)
        check_allowed(checked.settings.rewards, options.reward_functions, ("rewards",), checked.composed)

    def devices(self, settings: Any) -> DeviceWish:
        """One device, because the models are loaded one after the other."""
        return DeviceWish(settings.device, 1)

    def path_at(self, at: DataPath, run: RunDirectory, product: Path) -> Path:
        """What the other step has made. A model or reward model is its run directory, which also has the template."""
        return product if at == ("data",) else run.shared_run.path

    def identity(self, settings: Any) -> dict[str, Any]:
        """The settings without those of the computation. What determines the rows of a recipe stands in its place."""
        plain = settings.model_dump(mode="json", exclude=_NO_PART_OF_THE_RESULT)
        recipe = _recipe_as_data(settings.data)
        if recipe is not None:
            section = recipe.data.model_dump(mode="json", by_alias=True)
            plain["data"] = {"data": section, "seed": recipe.training.seed, "rows": objective_of(recipe).rows}
        return plain

    def inputs(self, settings: Any) -> Iterator[DataPath]:
        """Local models, data, templates and functions, and the data of a recipe."""
        plain = self.identity(settings)
        for at in _path_fields(plain):
            value = parent_of(plain, at)[at[-1]]
            if isinstance(value, str) and Path(value).is_absolute():
                yield at
        if isinstance(plain["data"], dict):
            yield from (("data", *at) for at in local_data_paths(plain["data"]))

    def plan(self, step: Step, options: PlanOptions) -> StepPlan:
        """The plan of the models that the steps before will make, on rows of the length that is known before. Answers
        are taken to be as long as they may be. Nothing is predicted for models of steps that do not train."""
        from dpo_recipes.jobs.answers_plan import plan_section

        recipes = _recipes_of_models(step)
        if recipes is None:
            return StepPlan.unknown()
        own = replace(options, reward_recipes=reward_recipes(step))
        planned, bases = plan_section(step.checked.settings, own, recipes, _unread(step))
        return StepPlan(
            fits=planned.fits,
            peak_bytes=planned.highest.peak_bytes,
            device_bytes=planned.target.usable_bytes,
            time_s=planned.time_s,
            is_upper_bound=True,
            disk_bytes=planned.disk_bytes,
            bases=bases,
            details=planned.to_json(),
        )


def _check_models(section: Any, composed: Composed) -> Iterator[Finding]:
    """R301: a model does not exist; R303: a model inside a wheel, which only a recipe can name, because it says the
    checksum."""
    named: list[tuple[DataPath, str]] = [(("models", place), name) for place, name in enumerate(section.models)]
    named.append((("against",), getattr(section, "against", None) or ""))
    for at, name in named:
        if name.startswith("pypi:"):
            yield Finding(
                "R303",
                f"`{path_text(at)}` cannot be a model inside a wheel",
                composed.where(at),
                "its checksum is in the recipe of a run, and here is no place for it",
                "name a run or a step that was trained on it, or the path of its `.gguf` file; `base` is the base of "
                "the first run",
            )
        elif looks_local(name) and not exists(Path(name)):
            note = relative_note(composed, at)
            yield Finding("R301", f"the model {name} does not exist", composed.where(at), note, near_file(Path(name)))


def _check_data(given: str | None, composed: Composed) -> Iterator[Finding]:
    """R304: a data file does not exist; the errors of a recipe whose rows are used."""
    at: DataPath = ("data",)
    if given is None:
        return
    if _is_recipe(given):
        try:
            validate(find_recipe(given))
        except RecipeError as error:
            yield from error.findings
    elif looks_local(given) and not exists(Path(given)):
        note = relative_note(composed, at)
        yield Finding("R304", f"the data file {given} does not exist", composed.where(at), note, near_file(Path(given)))


def _is_recipe(given: str) -> bool:
    return given.endswith((".yaml", ".yml")) or given in recipe_paths()


def _recipe_as_data(given: str | None) -> Recipe | None:
    """The recipe that the rows come from. None if they come from elsewhere, or if it has errors, which `_check_data`
    reports."""
    if given is None or not _is_recipe(given):
        return None
    try:
        return validate(find_recipe(given)).recipe
    except RecipeError:
        return None


def _recipes_of_models(step: Step) -> dict[str, Recipe] | None:
    """The recipes of the models that other steps make for a step, by the references to them; None if one of these
    steps trains none."""
    needs = [need for need in step.needs if need.step.product.kind == "model"]
    if not all(isinstance(need.step.kind, Train) for need in needs):
        return None
    return {step.reference_at(need.at): stand_in(need.step) for need in needs}


def _unread(step: Step) -> Unread | None:
    """What is known of the rows that another step makes; None if no step does."""
    from dpo_recipes.jobs.answers_plan import UNKNOWN, Unread, assume_rows

    maker = step.need_at(("data",))
    if maker is None:
        return None
    if not isinstance(maker.kind, AnswersStep):
        return replace(UNKNOWN, num_rows=maker.product.num_rows)
    section, recipes = maker.checked.settings, _recipes_of_models(maker)
    prompts = _unread(maker) or assume_rows(section, list((recipes or {}).values()))
    return Unread(maker.product.num_rows or prompts.num_rows, prompts.prompt_tokens, section.generate.max_new_tokens)


def _path_fields(data: dict[str, Any]) -> Iterator[DataPath]:
    """The places in the data of a step that may have a path. `base` is a name."""
    models = data.get("models")
    if isinstance(models, list):
        yield from (("models", place) for place, name in enumerate(models) if name != BASE)
    yield from ((key,) for key in ("against", "data", "chat_template") if key in data and data[key] != BASE)
    yield from paths_in_rewards(data.get("rewards"), ("rewards",))
