"""The interface of an objective: its parameters, the rows that it learns from, its metrics, and its loss.

An objective is one file in this package and one line in `registry.OBJECTIVES`. The other rooms ask it for everything
that differs between objectives and never test for a `kind`. Nothing heavy is imported here or at the top of an
objective's module, because every check of a recipe loads it: a loss imports torch when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

from dpo_recipes.errors import Finding, Where
from dpo_recipes.formats import format_number, format_percent
from dpo_recipes.reward_settings import RewardSettings
from dpo_recipes.section import Section

if TYPE_CHECKING:
    from torch import Tensor

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
class Metric:
    """One metric of an objective, as evaluation, progress line, report and model card show it."""

    key: str
    """The name in metrics.jsonl; evaluations add the prefix `eval_` or `test_`."""
    label: str
    decimals: int = 3
    is_share: bool = False
    """Whether it is a share between 0 and 1, which is shown in percent."""
    is_signed: bool = False
    higher_is_better: bool | None = None
    """None for a metric without a direction, such as a log-probability."""
    is_shown_live: bool = False
    """Whether the progress line shows it. Reports also give it a chart and a place among the key numbers."""
    base_value: float | None = None
    """The value of the untouched base by definition, for example 0 for a margin over itself. None if it is measured."""
    is_tied_at_base: bool = False
    """Whether the base can only tie, because it is compared with itself, so that its value cannot be compared with
    that of a tuned model."""
    chance: float | None = None
    """The value that guessing gives: a chart marks it, and the verdict compares with it."""
    by_subset: bool = False
    """Whether evaluations also give the metric for each subset of the rows (`columns: {subset: ...}` of a source): a
    share of rows, with 0 or 1 for each of them."""
    short_label: str = ""
    """The name in the progress line. Empty: the label in lower case."""
    description: str = ""
    """What the value says, in sentences: the caption of its chart."""
    chart: str = ""
    """The title of a chart that several metrics share. Empty: a chart of its own if `is_shown_live` is set, or none."""

    @property
    def is_measured_at_base(self) -> bool:
        """Whether the value of the untouched base says something that can be compared with that of a tuned model."""
        return self.base_value is None and not self.is_tied_at_base

    @property
    def live_label(self) -> str:
        """The name in the progress line."""
        return self.short_label or self.label.lower()

    def format(self, value: Any) -> str:
        """A value as text, with this metric's decimals and sign or in percent; a dash for a missing value."""
        if self.is_share:
            return format_percent(value, self.decimals)
        return format_number(value, self.decimals, signed=self.is_signed)

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a value is better than another one. A missing or non-finite value is never better, and any other
        value is better than it. Only for a metric with a direction."""
        assert self.higher_is_better is not None, f"`{self.key}` has no direction"
        if value is None or not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value > than if self.higher_is_better else value < than


LOSS = Metric("loss", "Loss", higher_is_better=False, is_shown_live=True, description="Lower is better.")
"""The metric that every objective has."""


@dataclass(frozen=True)
class BatchShape:
    """What one row costs: the sequences that share its prompt, and the positions that meet the head."""

    num_answers: int
    """Sequences of a row, each with the whole prompt: 2 for a pair, 1 for a completion."""
    scores_prompt: bool = False
    """Whether the language model's head also scores the tokens of the prompt, once for all answers."""


@dataclass(frozen=True)
class RateRange:
    """The usual range of learning rates for one way of tuning, and a rate in it to start from."""

    low: float
    high: float
    start: float

    def scaled(self, low_factor: float, high_factor: float) -> RateRange:
        """The range for an optimizer that needs other rates. The start moves by the factors' geometric mean."""
        start = self.start * (low_factor * high_factor) ** 0.5
        return RateRange(self.low * low_factor, self.high * high_factor, float(f"{start:.0e}"))

    def factor_beyond(self, rate: float) -> float:
        """How many times a rate is above the range, or as a negative number below it; 0 inside."""
        if rate > self.high:
            return rate / self.high
        return -self.low / rate if rate < self.low else 0.0


@dataclass(frozen=True)
class LearningRates:
    """The usual learning rates of an objective with Adam. The comment beside each value names its sources."""

    full: RateRange
    """For full fine-tuning."""
    lora: RateRange


PREFERENCE_RATES = LearningRates(
    # 7e-8 (Olmo 3, 32B), 2e-7 and 5e-7 (Tulu 3, 70B and 8B), 5e-7 (Zephyr), 7e-7 (Qwen2.5, 0.5B to 72B), 1e-6 (DPO's
    # paper, TRL's default), 1e-5 (Llama 3).
    full=RateRange(1e-7, 5e-6, 1e-6),
    # LoRA takes some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/): 5e-6 (Alignment
    # Handbook's QLoRA), 1e-5 (TRL's advice), 1e-4 (TRL's advice of earlier releases).
    lora=RateRange(5e-6, 2e-4, 1e-5),
)
"""The learning rates that preference optimization was seen to work with. Adam divides a gradient by its own size, so
that `beta`, a factor of the loss, changes none of these."""


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


@dataclass
class TokenScores:
    """Log-probabilities of the single tokens of a micro-batch. All tensors are [B, K, T] and float32; only positions
    with a `mask` of 1 are trained tokens of an answer."""

    logps: Tensor
    """Of the policy, with gradients."""
    mask: Tensor
    old_logps: Tensor | None = None
    """When the policy wrote the answers."""
    reference_logps: Tensor | None = None
    """None without a reference."""


@dataclass
class Scores:
    """What the engine computed for a micro-batch of B rows with K answers each. All tensors are float32.

    Log-probabilities are sums over the trained tokens of an answer, in nats.
    """

    logps: Tensor | None = None
    """[B, K] of the policy, with gradients; None for a model that returns scores."""
    num_tokens: Tensor | None = None
    """[B, K]: the trained tokens of each answer."""
    entropies: Tensor | None = None
    """[B, K]: sums of the policy's entropy over the trained tokens, in nats; None if the head does not return them."""
    num_correct: Tensor | None = None
    """[B, K]: the trained tokens that the policy ranks first; None if the head does not return them."""
    reference_logps: Tensor | None = None
    """[B, K]; None without a reference."""
    prompt_logps: Tensor | None = None
    """[B]: the policy's sums over the prompt's tokens, if `BatchShape.scores_prompt` is set."""
    num_prompt_tokens: Tensor | None = None
    """[B]: the tokens that `prompt_logps` sums over: all but the first one, which nothing predicts."""
    values: Tensor | None = None
    """[B, K]: the numbers of a model that returns scores, with gradients."""
    labels: Tensor | None = None
    """[B] of bool for labelled rows."""
    margins: Tensor | None = None
    """[B]: the margin column of reward modelling; None if the data have none."""
    advantages: Tensor | None = None
    """[B, K]: how much better each answer is than the others to its prompt, for answers that the policy has written."""
    old_logps: Tensor | None = None
    """[B, K]: the log-probabilities when the policy wrote the answers."""
    sampling_weights: Tensor | None = None
    """[B, K, T] or [B, K, 1]: the factors that correct the probabilities of another sampler; None if the policy has
    sampled itself."""
    of_tokens: TokenScores | None = None
    """The values of single tokens, if `Objective.uses_tokens` is set."""
    weights: Tensor | None = None
    """[B]: the weight of each row, which `weighted` applies; None if all rows count alike."""

    def weighted(self, per_row: Tensor) -> Tensor:
        """The losses of the rows, multiplied by their weights."""
        return per_row if self.weights is None else per_row * self.weights


@dataclass
class Loss:
    """The loss of a micro-batch and its metrics."""

    per_row: Tensor
    """[B]; the engine takes the mean over the rows of an optimizer step, or with `Objective.loss_mean` `tokens` their
    sum divided by the number of trained tokens of the step."""
    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By `Metric.key`: values that the engine averages over rows, [B] or fewer if a row has no value. Two tensors are
    sums over tokens and the numbers of tokens, for a mean over tokens."""


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
