"""The interface of a kind of step: what it needs from other steps, what it makes, and how it is checked and executed.

A kind is one file in this package and one line in `registry.STEP_KINDS`. Nothing heavy is imported here or at the top
of a kind's module, because checking a chain loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import parent_of
from dpo_recipes.recipe.schema.chain import NOT_IN_A_STEP
from dpo_recipes.report.table import Table
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.section import Section

if TYPE_CHECKING:  # checking a recipe needs none of these
    from dpo_recipes.jobs.devices import DeviceWish
    from dpo_recipes.jobs.plan import PlanOptions
    from dpo_recipes.report.table import Table
    from dpo_recipes.supervise import EventHandler
    from dpo_recipes.workflow import RunOptions

ProductKind = Literal["model", "reward model", "data", "scores"]
"""`model`: a language model. `reward model`: a model that gives a sequence a number. `data`: a file of rows. `scores`:
measurements of other products, which no step can use yet."""
WITH_ARTICLE: dict[ProductKind, str] = {
    "model": "a model",
    "reward model": "a reward model",
    "data": "data",
    "scores": "scores",
}


@dataclass(frozen=True)
class Product:
    """What a step makes, as far as its settings tell."""

    kind: ProductKind
    adapter_of: str | None = None
    """The base of a model that is only an adapter; None for a whole model."""
    num_rows: int | None = None
    """The number of rows of data, if it is known."""


@dataclass(frozen=True)
class Figure:
    """A number with which a step has ended."""

    key: str
    label: str
    value: float | None
    text: str
    """The value as a person reads it."""
    base_value: float | None = None
    """That of the untouched base, if it was measured."""
    base_text: str = ""

    @property
    def phrase(self) -> str:
        """The number in the middle of a sentence: "loss 0.500", "KL to the base +0.01"."""
        is_acronym = self.label[1:2].isupper()
        label = self.label if is_acronym else self.label[:1].lower() + self.label[1:]
        return f"{label} {self.text}"


@dataclass(frozen=True)
class CheckedStep:
    """The settings of a step that has no errors, with the data that they were built from and its warnings."""

    settings: Any
    """An instance of the section of the step's kind."""
    composed: Composed
    warnings: tuple[Finding, ...]


@dataclass(frozen=True)
class Need:
    """A place in a step that refers to another step."""

    at: DataPath
    step: Step
    text: str
    """The reference as it stands in the file: `step:sft` or `previous:dpo`."""


@dataclass(frozen=True)
class Step:
    """A step of a chain, whose references lead to other steps."""

    name: str
    kind: StepKind
    checked: CheckedStep
    """Its references are still texts such as `step:sft`."""
    needs: tuple[Need, ...]
    title: str
    """Its name in the file, which has no number of a round."""
    round: int | None = None
    """The number of its round; None if it is done once."""

    @property
    def product(self) -> Product:
        """What it makes."""
        return self.kind.makes(self.checked.settings)

    def text_at(self, at: DataPath) -> str:
        """The reference at a place as it stands in the file."""
        return next(need.text for need in self.needs if need.at == at)

    def reference_at(self, at: DataPath) -> str:
        """The text that stands at a place for what another step makes: `step:reward`."""
        return str(parent_of(self.checked.composed.data, at)[at[-1]])

    def need_at(self, at: DataPath) -> Step | None:
        """The step that is referred to at a place, if there is one."""
        return next((need.step for need in self.needs if need.at == at), None)


@dataclass(frozen=True)
class StepPlan:
    """What a step will need, as far as it is known before."""

    fits: bool
    peak_bytes: int | None
    """Of the process that needs most."""
    device_bytes: int | None
    """The memory of its device."""
    time_s: float | None
    is_upper_bound: bool
    """Whether time and peak are those of the longest rows that there can be, because the data were not read."""
    disk_bytes: int | None
    """What it writes: checkpoints and product."""
    bases: dict[str, int | None]
    """The sizes of the models that it reads from elsewhere, by their names; None if unknown."""
    details: dict[str, Any]
    """The whole plan as plain data."""
    findings: tuple[Finding, ...] = ()

    @classmethod
    def unknown(cls) -> StepPlan:
        """The plan of a step of which nothing is known before."""
        return cls(True, None, None, None, False, None, {}, {})


class StepKind:
    """One kind of step. Subclasses set the class variables and override what differs.

    A step is executed in a directory of its own and writes `result.json` there last, atomically: it has finished if
    that file exists. What it makes is below that directory too.
    """

    kind: ClassVar[str]
    section: ClassVar[type[Section]]
    """Its settings: the keys of a step beside `kind`, `recipe` and `set`. If it has `schema` and `name`, they are those
    of the chain and `CHAIN-STEP`."""

    def check(self, composed: Composed) -> CheckedStep:
        """The settings of a step, whose references are texts such as `step:sft` or paths. Raises `RecipeError` with all
        findings."""
        raise NotImplementedError

    def takes(self, settings: Any, at: DataPath) -> tuple[ProductKind, ...]:
        """What a reference at a path of the settings may lead to; nothing if no step can be referred to there."""
        return ()

    def makes(self, settings: Any) -> Product:
        """What the step makes."""
        raise NotImplementedError

    def check_needs(self, step: Step) -> Iterator[Finding]:
        """Yield findings about a step and those that it refers to, whose products are of the right kind."""
        yield from ()

    def check_permitted(self, checked: CheckedStep, options: RunOptions) -> None:
        """Raise `RecipeError` for what a step may ask for, but not every machine and person allows."""

    def devices(self, settings: Any) -> DeviceWish:
        """The devices on which the step computes."""
        raise NotImplementedError

    def product_path(self, run: RunDirectory, settings: Any) -> Path:
        """The file or folder that a reference to the step stands for."""
        raise NotImplementedError

    def path_at(self, at: DataPath, run: RunDirectory, product: Path) -> Path:
        """The path that a reference at a place of the settings stands for: what another step has made in its run."""
        return product

    def identity(self, settings: Any) -> dict[str, Any]:
        """The part of the settings that determines what the step makes, as plain data."""
        raise NotImplementedError

    def inputs(self, settings: Any) -> Iterator[DataPath]:
        """The places in `identity` with the path of a local file or folder, whose content determines what the step
        makes."""
        yield from ()

    def figures(self, run: RunDirectory) -> list[Figure]:
        """The numbers with which the step has ended, for the table of the chain. Raises `RunError` T642."""
        return []

    def shown_at_end(self, run: RunDirectory) -> tuple[list[str], list[Table]]:
        """What the step has shown, for the end of the command: sentences, which also head the report of the chain, and
        tables. Raises `RunError` T642."""
        return [], []

    def tables(self, run: RunDirectory) -> list[Table]:
        """What the step has measured, for the report of the chain. Without tables, it shows the figures. Raises
        `RunError` T642."""
        return []

    def plan(self, step: Step, options: PlanOptions) -> StepPlan:
        """What the step will need. What other steps will make does not exist yet. Raises every error that a stage
        before the weights raises."""
        raise NotImplementedError

    def execute(self, checked: CheckedStep, run: RunDirectory, on_event: EventHandler, options: RunOptions) -> None:
        """Execute the step in its directory, or resume it there. The references in the settings are paths now.

        Raises every `DpoRecipeError`, `Interrupted` after Ctrl-C or if `on_event` asks for it, and `WorkerBug`.
        """
        raise NotImplementedError

    def describe(self, settings: Any) -> str:
        """What the step does, in a few words."""
        raise NotImplementedError

    def plain(self, settings: Any) -> dict[str, Any]:
        """All values of the settings as plain data, as they could stand in the step."""
        return {key: value for key, value in settings.model_dump(by_alias=True).items() if key not in NOT_IN_A_STEP}
