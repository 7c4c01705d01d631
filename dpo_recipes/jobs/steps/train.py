"""A step that trains: one run of a recipe, which makes a model or a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.finished_run import open_run
from dpo_recipes.formats import finite
from dpo_recipes.jobs.devices import DeviceWish
from dpo_recipes.jobs.plan import PlanOptions, plan_run
from dpo_recipes.jobs.steps.base import CheckedStep, Figure, Product, ProductKind, Step, StepKind, StepPlan
from dpo_recipes.objectives import objective_of
from dpo_recipes.preparation import check_permitted
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.model_checks import saves_adapter
from dpo_recipes.recipe.paths import local_data_paths
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.sweep_checks import nodes_by_hand
from dpo_recipes.recipe.validate import Validated, validate_composed
from dpo_recipes.resume import identity
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions, run_recipe

_BASE: DataPath = ("model", "path")
_ADAPTER: DataPath = ("model", "adapter", "path")
_OF_THE_TOKENIZER = "tokenizer"


class Train(StepKind):
    """One run of a recipe."""

    kind = "train"
    section = Recipe

    def check(self, composed: Composed) -> CheckedStep:
        """Check the recipe as `validate` does, and R368: several nodes that no launcher starts together."""
        validated = validate_composed(composed)
        launch = validated.recipe.launch
        if launch.num_nodes > 1 and not DeviceWish.of(validated.recipe).is_elsewhere:
            where = composed.where(("launch", "num_nodes"))
            raise RecipeError(replace(nodes_by_hand(launch.num_nodes, "step", "chain"), where=where))
        return CheckedStep(validated.recipe, validated.composed, validated.warnings)

    def takes(self, settings: Recipe, at: DataPath) -> tuple[ProductKind, ...]:
        """A model as base or adapter, data as a source of rows, and a reward model as a source of rewards."""
        if at in (_BASE, _ADAPTER):
            # A reward model begins as a language model, or continues another one.
            return ("model",) if objective_of(settings).head == "causal_lm" else ("model", "reward model")
        is_source = at[:2] == ("data", "train") or at[:3] in (("data", "eval", "sources"), ("data", "test", "sources"))
        if _is_reward(at):
            return ("reward model",)
        return ("data",) if is_source and at[-1] == "path" else ()

    def makes(self, settings: Recipe) -> Product:
        """The model, whose kind follows from the objective."""
        kind: ProductKind = "model" if objective_of(settings).head == "causal_lm" else "reward model"
        return Product(kind, settings.model.path if saves_adapter(settings) else None)

    def check_needs(self, step: Step) -> Iterator[Finding]:
        """R373: an adapter is continued that is none; R374: the base is only an adapter; R399: other templates."""
        base, adapter = step.need_at(_BASE), step.need_at(_ADAPTER)
        find = step.checked.composed.where
        if base is not None and (trained_on := base.product.adapter_of) is not None:
            yield Finding(
                "R374",
                f"step `{base.title}` saves an adapter, not a base model",
                find(_BASE),
                f"the base of that adapter is {trained_on}",
                f"to train a new adapter on top of it, write `model.adapter.save_as: merged` in step `{base.title}`; "
                f"to continue it, write `model.path: {trained_on}` and `model.adapter: {{kind: lora, path: "
                f"{step.text_at(_BASE)}}}` in this step",
            )
        if adapter is not None and adapter.product.adapter_of is None:
            yield Finding(
                "R373",
                f"step `{adapter.title}` saves a whole model, not an adapter",
                find(_ADAPTER),
                "only an adapter can be continued as one",
                f"write `model.path: {step.text_at(_ADAPTER)}` to train on top of it, or `model.adapter.save_as: "
                f"adapter` in step `{adapter.title}`",
            )
        elif adapter is not None:
            yield from _check_same_base(step, adapter)
        at, earlier = (_ADAPTER, adapter) if adapter is not None else (_BASE, base)
        if earlier is not None and isinstance(earlier.kind, Train):
            yield from _check_template(step, at, earlier)

    def check_permitted(self, checked: CheckedStep, options: RunOptions) -> None:
        """As for a single run."""
        check_permitted(
            _validated(checked),
            trust_remote_code=options.trust_remote_code,
            reward_functions=options.reward_functions,
        )

    def devices(self, settings: Recipe) -> DeviceWish:
        """Those of the recipe."""
        return DeviceWish.of(settings)

    def product_path(self, run: RunDirectory, settings: Recipe) -> Path:
        """The folder of the saved model."""
        return run.shared_run.path / MODEL_FOLDER

    def path_at(self, at: DataPath, run: RunDirectory, product: Path) -> Path:
        """What the other step has made. A source of rewards is its run directory, which also has the template."""
        return run.shared_run.path if _is_reward(at) else product

    def identity(self, settings: Recipe) -> dict[str, Any]:
        """That of the recipe, whatever its name is."""
        return {key: value for key, value in identity(settings).items() if key != "name"}

    def inputs(self, settings: Recipe) -> Iterator[DataPath]:
        """The local models, data and templates that the recipe names."""
        yield from local_data_paths(settings.model_dump(by_alias=True))

    def figures(self, run: RunDirectory) -> list[Figure]:
        """The main metrics of the objective on the held-out rows, and those of the base."""
        finished = open_run(run.path)
        found = []
        for metric in finished.objective.metrics:
            key = f"eval_{metric.key}"
            value, base = (finite(each.get(key)) for each in (finished.result.metrics, finished.result.base_metrics))
            base = base if metric.is_measured_at_base else None
            if metric.is_shown_live and value is not None:
                base_text = "" if base is None else metric.format(base)
                found.append(Figure(metric.key, metric.label, value, metric.format(value), base, base_text))
        return found

    def plan(self, step: Step, options: PlanOptions) -> StepPlan:
        """The plan of the recipe on the base with which its chain of models begins."""
        recipes = reward_recipes(step)
        own = replace(options, read_data=_may_read(step, options), reward_recipes=recipes)
        planned = plan_run(stand_in(step), own)
        job, base = planned.job, step.need_at(_BASE)
        written = [job.disk[name] for name in ("checkpoints", "model")]
        return StepPlan(
            fits=job.fits,
            peak_bytes=job.memory.peak_bytes,
            device_bytes=job.target.usable_bytes,
            time_s=job.duration.total_s,
            is_upper_bound=not job.workload.is_read,
            disk_bytes=sum(size or 0 for size in written),
            bases={} if base is not None else {job.recipe.model.path: job.disk["base"]},
            details={**job.to_json(), **planned.launch.to_json()},
            findings=planned.findings,
        )

    def execute(self, checked: CheckedStep, run: RunDirectory, on_event: EventHandler, options: RunOptions) -> None:
        """Run the recipe."""
        run_recipe(_validated(checked), on_event, options, directory=run)

    def describe(self, settings: Recipe) -> str:
        """The objective with its variant."""
        return objective_of(settings).title(settings.objective)


def _is_reward(at: DataPath) -> bool:
    """Whether a path is that of the model of a source of rewards."""
    return at[:2] == ("objective", "rewards") and at[-1] == "model"


def _validated(checked: CheckedStep) -> Validated:
    return Validated(checked.settings, checked.composed, checked.warnings)


def _may_read(step: Step, options: PlanOptions) -> bool | None:
    """Whether the data are read: not what another step has yet to make."""
    return False if any(need.at[0] == "data" for need in step.needs) else options.read_data


def reward_recipes(step: Step) -> dict[str, Recipe]:
    """The recipes of the reward models that other steps will train for a step, by the references to them."""
    trained = [need for need in step.needs if need.step.product.kind == "reward model" and "rewards" in need.at]
    return {step.reference_at(need.at): stand_in(need.step) for need in trained}


def stand_in(step: Step) -> Recipe:
    """The recipe of a step with what its base and its adapter will be made from in their places."""
    recipe: Recipe = step.checked.settings
    model, base, adapter = recipe.model, step.need_at(_BASE), step.need_at(_ADAPTER)
    if base is not None:
        below = stand_in(base).model
        changes: dict[str, Any] = {"path": below.path, "revision": below.revision, "sha256": below.sha256}
        if saves_adapter(recipe) and model.adapter is not None:  # the stand-in may be a file that is saved merged
            changes["adapter"] = model.adapter.model_copy(update={"save_as": "adapter"})
        model = model.model_copy(update=changes)
    if adapter is not None:
        model = model.model_copy(update={"adapter": stand_in(adapter).model.adapter})
    data = recipe.data
    rows = {need.at[2]: need.step.product.num_rows for need in step.needs if need.at[:2] == ("data", "train")}
    if rows:
        sources = [
            source.model_copy(update={"limit": source.limit or rows.get(index)})
            for index, source in enumerate(data.train)
        ]
        data = data.model_copy(update={"train": sources})
    return recipe.model_copy(update={"model": model, "data": data})


def _check_same_base(step: Step, adapter: Step) -> Iterator[Finding]:
    """R374: an adapter is continued on another base than its own."""
    here, there = step.checked.settings.model.path, adapter.product.adapter_of
    if here != there:
        yield Finding(
            "R374",
            f"the adapter of step `{adapter.title}` belongs to another base",
            step.checked.composed.where(_BASE),
            f"it is trained on {there}, and the base of this step is {here}",
            f"write `model.path: {there}` in this step",
        )


def _check_template(step: Step, at: DataPath, earlier: Step) -> Iterator[Finding]:
    """R399: a model is trained with another chat template than the one that it was trained with before.

    A saved model brings the template of its training, so that `tokenizer` stands for it; an adapter brings none.
    """
    wanted = step.checked.settings.chat_template
    if at == _ADAPTER and wanted == _OF_THE_TOKENIZER:
        wanted = template_of(step)
    elif wanted == _OF_THE_TOKENIZER:
        return
    before = template_of(earlier)
    if wanted != before:
        yield Finding(
            "R399",
            f"step `{step.title}` renders messages with {_shown(wanted)}, and step `{earlier.title}` with "
            f"{_shown(before)}",
            step.checked.composed.where(("chat_template",), key=True)
            if ("chat_template",) in step.checked.composed.origins
            else step.checked.composed.where(at),
            "the model has learned to answer prompts of the other form",
            f"write `chat_template: {before:.40}` here"
            if at == _ADAPTER
            else "remove `chat_template`: the model of a step brings its template",
            "warning",
        )


def template_of(step: Step) -> str:
    """The chat template with which a step renders messages: its own, or that of the step whose model it begins with."""
    own = step.checked.settings.chat_template
    base = step.need_at(_BASE)
    if own != _OF_THE_TOKENIZER or base is None or not isinstance(base.kind, Train):
        return own
    return template_of(base)


def _shown(template: str) -> str:
    """A template in a message."""
    if template == _OF_THE_TOKENIZER:
        return "the template of its tokenizer"
    return f"`{template}`" if "\n" not in template and len(template) <= 60 else "a template of its own"


KIND = Train()
