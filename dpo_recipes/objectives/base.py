"""The interface of an objective: its parameters, the rows that it learns from, its metrics, and its loss.

An objective is one file in this package and one line in `registry.OBJECTIVES`. The other rooms ask it for everything
that differs between objectives and never test for a `kind`. Nothing heavy is imported here or at the top of an
objective's module, because every check of a recipe loads it: a loss imports torch when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

from dpo_recipes.errors import Finding, Where
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.objectives.rates import LearningRates
from dpo_recipes.objectives.scores import Loss, Scores
from dpo_recipes.reward_settings import RewardSettings
from dpo_recipes.section import Section

if TYPE_CHECKING:
    from dpo_recipes.error_codes import CodeEntry
    from dpo_recipes.recipe.schema import Recipe

RowShape = Literal["pair", "labelled", "completion", "prompt"]
"""`pair`: a prompt with a chosen and a rejected answer. `labelled`: a prompt and one answer that is good or bad.
`completion`: a prompt and one answer to imitate. `prompt`: a prompt alone, which the model answers in training."""
_ROW_NOUNS = {"pair": "pair", "labelled": "answer", "completion": "completion", "prompt": "prompt"}
Head = Literal["causal_lm", "score"]
"""`causal_lm`: the model predicts tokens. `score`: the model returns one number for a whole sequence."""
ReferenceKind = Literal["none", "frozen", "live", "each_step"]
"""`none`: the loss needs no reference. `frozen`: the untouched base, whose values are computed once. `live`: a model
that changes during training. `each_step`: the untouched base, which computes answers that the policy has just written.
The last two need a trainer of their own (`Objective.trainer`)."""


class Locate(Protocol):
    """Returns the location of a path such as ("objective", "beta") in the recipe's file."""

    def __call__(self, path: tuple[str | int, ...], *, key: bool = False) -> Where:
        """The location of the value, or with `key` of its key."""
        ...


class ObjectiveParams(Section):
    """The `objective` section of one kind. Subclasses add its parameters and document them."""

    kind: Any = Field(description="The objective.")  # a Literal in each subclass


@dataclass(frozen=True)
class BatchShape:
    """What one row costs: the sequences that share its prompt, and the positions that meet the head."""

    num_answers: int
    """Sequences of a row, each with the whole prompt: 2 for a pair, 1 for a completion."""
    scores_prompt: bool = False
    """Whether the language model's head also scores the tokens of the prompt, once for all answers."""


@dataclass(frozen=True)
class Advice:
    """A doubtful value: its path in the recipe, a description, the reason with a source, and a way out."""

    code: str
    at: tuple[str | int, ...]
    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class RowCounts:
    """The number of training rows of each class; None if the data have not been read."""

    rows: int | None = None
    desirable: int | None = None
    undesirable: int | None = None


class Objective:
    """One objective. Subclasses set the class variables and override what differs from the defaults."""

    kind: ClassVar[str]
    params: ClassVar[type[ObjectiveParams]]
    rows: ClassVar[RowShape]
    row_numbers: ClassVar[tuple[str, ...]] = ("weight",)
    """The numbers of a row that the loss uses, of `weight` and `margin`; see `Scores`."""
    head: ClassVar[Head] = "causal_lm"
    metrics: ClassVar[tuple[Metric, ...]]
    """The metrics in the order of the report; the first one is `LOSS`."""
    best_metric: ClassVar[str] = "loss"
    """The key of the metric by which `keep_best`, sweeps and the verdict judge."""
    metrics_note: ClassVar[str] = ""
    """What readers of a report or a model card must know about the metrics, in sentences."""
    starting_params: ClassVar[Mapping[str, Any]] = {}
    """Examples of required parameters, with which a new recipe begins."""
    loss_mean: ClassVar[Literal["rows", "tokens"]] = "rows"
    """What the loss of an optimizer step is a mean over. With `tokens`, `Loss.per_row` holds sums over tokens."""
    trainer: ClassVar[str] = "dpo_recipes.engine.loss_trainer:LossTrainer"
    """The trainer's class as "module:attribute". The default computes `Scores` and calls `loss`."""
    codes: ClassVar[Mapping[str, CodeEntry]] = {}
    """For `dpo-recipe explain`: the error codes of an objective of another package. The first letter determines the
    exit code (`errors.EXIT_CODE_BY_LETTER`). Ours are in `error_codes`."""

    def title(self, params: Any) -> str:
        """The objective with its variant, for the model card and the report: "DPO (sigmoid)"."""
        return self.kind.upper()

    def describe_metrics(self, params: Any) -> str:
        """What readers must know about the metrics of these parameters: `metrics_note`, and whatever differs."""
        return self.metrics_note

    @property
    def row_noun(self) -> str:
        """The name of a row, whose plural ends with an s: "pair"."""
        return _ROW_NOUNS[self.rows]

    def metric(self, key: str) -> Metric:
        """The metric of a key. Raises `KeyError` if the objective has none of this key."""
        return {metric.key: metric for metric in self.metrics}[key]

    @property
    def subset_metric(self) -> Metric | None:
        """The metric that evaluations also give for each subset of the rows; None if the objective has none."""
        return next((metric for metric in self.metrics if metric.by_subset), None)

    def reference(self, params: Any) -> ReferenceKind:
        """Whether the loss compares the policy with a reference."""
        return "none"

    def rewards(self, params: Any) -> Sequence[RewardSettings]:
        """The sources of rewards of an objective whose policy writes answers in training."""
        return ()

    def new_tokens(self, params: Any) -> int:
        """The most tokens of an answer that the policy writes in training; 0 if it writes none. Prompts leave this room
        below `data.max_length`."""
        return 0

    def steps_on_answers(self, params: Any) -> int:
        """The optimizer steps on answers that the policy has written, before it writes others."""
        return 1

    def uses_tokens(self, params: Any) -> bool:
        """Whether the loss needs the values of single tokens, `Scores.of_tokens`."""
        return False

    def further_metrics(self, params: Any) -> Sequence[str]:
        """Keys of metrics that are logged beside `metrics`, because they depend on the parameters."""
        return ()

    def temperature(self, params: Any) -> float:
        """The number that logits are divided by before log-probabilities are computed."""
        return 1.0

    def mean_over(self, params: Any) -> Literal["rows", "tokens"]:
        """`loss_mean`, or another one for these parameters."""
        return self.loss_mean

    def couples_batch(self, params: Any) -> bool:
        """Whether the loss of a row depends on the other rows of its micro-batch, which must then never change."""
        return False

    def averages_tokens(self, params: Any) -> bool:
        """Whether the loss contains a mean over the tokens of a micro-batch, which must then never change. A loss with
        the `loss_mean` `tokens` is a mean over the tokens of an optimizer step and does not need this."""
        return False

    def logps_are_token_means(self, params: Any) -> bool:
        """Whether the metrics `logps/chosen` and `logps/rejected` are means over an answer's tokens and not sums."""
        return False

    def saturates(self, params: Any) -> bool:
        """Whether the loss is the logistic one of a pair's reward margin, whose gradient falls to 2 % at a margin of
        4."""
        return False

    def adds_mismatched_answer(self, params: Any) -> bool:
        """Whether each labelled row also gets the answer of another row (`data.mismatched`): `Scores` then has K = 2
        answers, the row's own one and the mismatched one, with the same prompt."""
        return False

    def batch_shape(self, params: Any) -> BatchShape:
        """What one row costs, for the prediction of memory and time."""
        return BatchShape(2 if self.rows == "pair" else 1)

    def head_outputs(self, params: Any) -> tuple[str, ...]:
        """The fields of TRL's FusedCausalLMOutput that the head computes for each scored token. `entropy` and `is_top1`
        are for `Scores.entropies` and `Scores.num_correct`."""
        return ("log_probs",)

    def learning_rates(self, params: Any) -> LearningRates | None:
        """The usual learning rates, or None if they are unknown."""
        return None

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """Yield findings about the parameters and about sections that do not fit the objective."""
        yield from ()

    def advise(self, recipe: Recipe, counts: RowCounts) -> Iterator[Advice]:
        """Yield advice about values that are valid but unlikely to give a good result."""
        yield from ()

    def loss(self, params: Any, scores: Scores) -> Loss:
        """The loss of a micro-batch. Only called by the default trainer."""
        raise NotImplementedError(f"the objective `{self.kind}` brings a trainer of its own")
