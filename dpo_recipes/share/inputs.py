"""The inputs of a job: the models, adapters, data, templates and functions that its settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo_recipes.errors import path_text
from dpo_recipes.jobs.steps.base import StepKind
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import is_hub_id, is_inline_template
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source
from dpo_recipes.reward_settings import FunctionReward, ModelReward, RewardSettings
from dpo_recipes.shipped import recipe_paths, template_paths

Role = Literal["model", "adapter", "data", "template", "function"]
_OF_THE_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Job:
    """A single run, or a step of a chain, whose inputs are locked."""

    name: str
    """The name of the step; empty for a single run."""
    kind: StepKind
    settings: Any
    composed: Composed


@dataclass(frozen=True)
class Input:
    """A value of the settings that names files."""

    at: DataPath
    role: Role
    path: str
    revision: str | None = None
    pin: DataPath | None = None
    """The place in the settings for the commit; None if there is no such field."""
    source: Source | None = None
    """The source of rows, for data."""
    allow_pickle: bool = False
    remote_code: bool = False

    @property
    def key(self) -> str:
        """Its name in a lock."""
        return path_text(self.at)

    @property
    def is_local(self) -> bool:
        """Whether it is a file or folder of this machine."""
        return Path(self.path).is_absolute()


def inputs_of(job: Job) -> list[Input]:
    """The inputs of a job, without those that another step makes."""
    found = _of_recipe(job.settings) if isinstance(job.settings, Recipe) else _of_section(job.settings)
    return [each for each in found if not is_reference(each.path)]


def takes_rows_of_a_step(job: Job) -> bool:
    """Whether another step makes rows of a job, so that they cannot be known before."""
    return isinstance(job.settings, Recipe) and any(
        is_reference(source.path) for _, source in _sources(job.settings.data)
    )


def _of_recipe(recipe: Recipe) -> Iterator[Input]:
    model = recipe.model
    yield Input(
        ("model", "path"), "model", model.path, model.revision, ("model", "revision"),
        allow_pickle=model.allow_pickle, remote_code=model.trust_remote_code,
    )  # fmt: skip
    if model.adapter is not None and model.adapter.path is not None:
        yield Input(("model", "adapter", "path"), "adapter", model.adapter.path)
    for at, source in _sources(recipe.data):
        yield Input((*at, "path"), "data", source.path, source.revision, (*at, "revision"), source)
    yield from _other_splits(recipe.data)
    yield from _template(recipe.chat_template, ("chat_template",))
    rewards: Sequence[RewardSettings] = getattr(recipe.objective, "rewards", None) or ()
    yield from _of_rewards(rewards, ("objective", "rewards"))


def _sources(data: Data) -> Iterator[tuple[DataPath, Source]]:
    """The sources of all splits with their places. Another split of the training sources is read from these."""
    for place, source in enumerate(data.train):
        yield ("data", "train", place), source
    for name in ("eval", "test"):
        held_out: HeldOut = getattr(data, name)
        for place, source in enumerate(held_out.sources):
            yield ("data", name, "sources", place), source


def _other_splits(data: Data) -> Iterator[Input]:
    """Another split of the training sources, which `data.eval.split` or `data.test.split` holds out."""
    for name in ("eval", "test"):
        split = getattr(data, name).split
        for place, source in enumerate(data.train if split is not None else ()):
            if not Path(source.path).is_absolute() or (Path(source.path) / "dataset_dict.json").is_file():
                pin: DataPath = ("data", "train", place, "revision")
                other = source.model_copy(update={"split": split})
                yield Input(("data", name, "split", place), "data", source.path, source.revision, pin, other)


def _of_section(settings: Any) -> Iterator[Input]:
    """The inputs of a step that lets models answer, by the fields that its section has."""
    for place, name in enumerate(getattr(settings, "models", ())):
        yield from _model(name, ("models", place))
    against = getattr(settings, "against", None)
    if against is not None:
        yield from _model(against, ("against",))
    data = getattr(settings, "data", None)
    if isinstance(data, str) and data not in recipe_paths() and (Path(data).is_absolute() or is_hub_id(data)):
        yield Input(("data",), "data", data, source=Source(path=data))
    template = getattr(settings, "chat_template", None)
    if template is not None:
        yield from _template(template, ("chat_template",))
    yield from _of_rewards(getattr(settings, "rewards", ()), ("rewards",))


def _model(name: str, at: DataPath) -> Iterator[Input]:
    if name != "base":
        yield Input(at, "model", name)


def _template(name: str, at: DataPath) -> Iterator[Input]:
    if name != _OF_THE_TOKENIZER and (is_inline_template(name) or Path(name).is_absolute() or name in template_paths()):
        yield Input(at, "template", name)


def _of_rewards(rewards: Sequence[RewardSettings], at: DataPath) -> Iterator[Input]:
    for place, reward in enumerate(rewards):
        if isinstance(reward, ModelReward):
            model = (*at, place, "model")
            yield Input(model, "model", reward.model, reward.revision, (*at, place, "revision"))
            yield from _template(reward.chat_template, (*at, place, "chat_template"))
        elif isinstance(reward, FunctionReward):
            yield Input((*at, place, "function"), "function", reward.file)
