"""Sections for sources of rewards: a reward model, a rule, or a function of the user.

RL, sampling and evaluation have a list of them, `rewards:`. This module is light and below the objectives, whose
parameters contain it; what computes the rewards is in `rewards`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from dpo_recipes.run_dir import step_of
from dpo_recipes.section import ChosenSection, Section, section_error, unknown_choice

FUNCTION = r"^.+\.py:[A-Za-z_]\w*$"
"""A pattern of functions: `FILE.py:NAME`."""


class RewardSettings(Section):
    """One source of rewards, which gives each answer one number."""

    weight: float = Field(
        default=1.0,
        description="The factor of this source's rewards in the sum over all sources. A negative one makes a penalty "
        "of a reward.",
    )
    name: str = Field(
        default="",
        pattern=r"^[\w.-]*$",
        description="The name in logs and reports. Empty: the name of the model's folder, of the rule or of the "
        "function.",
    )

    @property
    def kind(self) -> str:
        """The name in `registry.REWARDS`."""
        raise NotImplementedError

    @property
    def default_name(self) -> str:
        """The name of a source without a `name`."""
        return self.kind

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows that the source reads beside the prompt."""
        return ()


class ModelReward(RewardSettings):
    """A reward model, which returns one number for a prompt with an answer: a decoder or an encoder such as BERT, with
    its own tokenizer, chat template, special tokens and length."""

    selector: ClassVar[str] = "model"
    model: str = Field(
        min_length=1,
        description="The directory of a finished run with `kind: reward`, a folder that `save_pretrained` wrote, or a "
        "hub id. Instead of `model`, a source has `rule` or `function`.",
    )
    revision: str | None = Field(default=None, description="The branch, tag or commit of a hub model.")
    chat_template: str = Field(
        default="tokenizer",
        min_length=1,
        description="For a folder or hub id, the chat template that the model was trained with, as in the recipe's "
        "`chat_template`. A finished run has its own.",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="The maximum length of prompt + answer in tokens of the reward model. Longer texts lose the start "
        "of the prompt, and the end of an answer that is too long by itself; the tokens around the texts stay. "
        "Absent: `data.max_length` of a finished run; otherwise as many as the model has positions.",
    )
    batch_size: int = Field(default=8, ge=1, description="The number of answers that are scored at once.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="The device of the reward model. `auto` is the device of the run."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="The number format of the reward model. `auto` is that of a finished run's recipe, otherwise the "
        "fastest that the device supports. The head always computes in 32 bits, because 16 bits would round rewards "
        "to three digits.",
    )

    @property
    def kind(self) -> str:
        """The name in `registry.REWARDS`."""
        return "model"

    @property
    def default_name(self) -> str:
        """The name of the step of a chain that made the model, or the last part of the path."""
        return step_of(Path(self.model)) or self.model.rstrip("/").rpartition("/")[2]


class FunctionReward(RewardSettings):
    """A Python function. A recipe cannot run code by itself: the person who starts the run must allow the function with
    `--reward-function FILE.py:NAME`."""

    selector: ClassVar[str] = "function"
    function: str = Field(
        pattern=FUNCTION,
        description="The file, relative to the recipe, and the name of the function in it: `scores.py:politeness`. It "
        "is called as `politeness(prompts=..., answers=..., COLUMN=...)` with lists of equal length, and returns a "
        "list of numbers. A prompt is a list of messages with `role` and `content`, an answer is a text.",
    )
    takes: list[str] = Field(
        default_factory=list,
        description="Columns of the rows that the function also gets, each as a list under the column's name.",
    )

    @property
    def kind(self) -> str:
        """The name in `registry.REWARDS`."""
        return "function"

    @property
    def file(self) -> str:
        """The path of the file."""
        return self.function.rpartition(":")[0]

    @property
    def function_name(self) -> str:
        """The name of the function in the file."""
        return self.function.rpartition(":")[2]

    @property
    def default_name(self) -> str:
        """The name of the function."""
        return self.function_name

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that the function takes."""
        return tuple(self.takes)


class RuleReward(RewardSettings):
    """One of the built-in rules."""

    selector: ClassVar[str] = "rule"
    rule: Any = Field(description="The rule.")  # a Literal in each subclass

    @property
    def kind(self) -> str:
        """The name in `registry.REWARDS`."""
        return self.rule


class LengthReward(RuleReward):
    """1 for an answer of at least `min` and at most `max` words or characters. A shorter answer gets its share of
    `min`; a longer one loses 1 for each further `max`, down to 0."""

    rule: Literal["length"] = Field(description="The rule.")
    unit: Literal["words", "characters"] = Field(default="words", description="What is counted.")
    min: int = Field(default=0, ge=0, description="The length from which an answer is long enough.")
    max: int | None = Field(default=None, ge=1, description="The length up to which an answer is short enough.")


class RegexReward(RuleReward):
    """The number of matches of a regular expression in the answer, up to `count`, divided by `count`: 1 or 0 for a
    `count` of 1."""

    rule: Literal["regex"] = Field(description="The rule.")
    pattern: str = Field(
        min_length=1, description="A regular expression in the syntax of Python's `re`, for example `(?i)\\bthanks\\b`."
    )
    whole: bool = Field(default=False, description="The pattern must match the whole answer.")
    count: int = Field(default=1, ge=1, description="The number of matches that give the full reward.")


class JsonReward(RuleReward):
    """1 for an answer that is valid JSON, otherwise 0."""

    rule: Literal["json"] = Field(description="The rule.")
    keys: list[str] = Field(
        default_factory=list, description="Keys that the answer, a JSON object, must have. Empty: any JSON value."
    )
    allow_fence: bool = Field(default=True, description="Whether the JSON may be inside a Markdown code block.")


class ExactReward(RuleReward):
    """1 for an answer that equals the text of a column, otherwise 0. Space around both texts is ignored."""

    rule: Literal["exact"] = Field(description="The rule.")
    column: str = Field(min_length=1, description="The column of the rows with the right answer.")
    extract: str | None = Field(
        default=None,
        min_length=1,
        description="A regular expression that finds the answer in a longer text, for example `answer is (\\S+)`: the "
        "first group of its last match, or the whole match if it has no group. Without a match, the reward is 0.",
    )
    ignore_case: bool = Field(default=False, description="Whether upper and lower case are equal.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the right answer."""
        return (self.column,)


class RepetitionReward(RuleReward):
    """Minus the share of an answer's n-grams of words that repeat earlier ones: 0 without a repetition, near -1 for
    one word written again and again."""

    rule: Literal["repetition"] = Field(description="The rule.")
    ngram: int = Field(default=3, ge=1, description="The number of words of an n-gram.")


_RULES: tuple[type[RuleReward], ...] = (LengthReward, RegexReward, JsonReward, ExactReward, RepetitionReward)
REWARD_SECTIONS: tuple[type[RewardSettings], ...] = (ModelReward, FunctionReward, *_RULES)
"""The classes of the section, of which `model`, `function`, or the value of `rule` chooses one."""


def _of_key(value: Mapping[str, Any]) -> type[RewardSettings]:
    for section in (ModelReward, FunctionReward):
        if section.selector in value:
            return section
    if "rule" not in value:
        raise section_error("missing", ("model",), value)
    rules = {get_args(section.model_fields["rule"].annotation)[0]: section for section in _RULES}
    rule = value["rule"]
    if not isinstance(rule, str) or rule not in rules:
        raise unknown_choice("rule", rule, sorted(rules))
    return rules[rule]


Reward = Annotated[RewardSettings, ChosenSection(RewardSettings, _of_key, lambda: REWARD_SECTIONS)]
"""The type of a field with one source of rewards."""


def source_names(sources: Sequence[RewardSettings]) -> list[str]:
    """The name of each source in logs. A second source of the same name gets the suffix `-2`."""
    names: list[str] = []
    for source in sources:
        plain = name = source.name or source.default_name
        number = 2
        while name in names:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names


def needed_columns(sources: Sequence[RewardSettings]) -> tuple[str, ...]:
    """The columns of the rows that any of the sources reads, in alphabetical order."""
    return tuple(sorted({column for source in sources for column in source.columns}))
