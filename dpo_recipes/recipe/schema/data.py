"""The `data` section: sources of rows, their formats, held-out rows and truncation."""

from typing import Literal

from pydantic import Field

from dpo_recipes import registry
from dpo_recipes.section import Section

Overlong = Literal["drop", "truncate_prompt_start", "truncate_completion_end", "error"]


class Select(Section):
    """The rows of a source with the highest or lowest values of a column. Needs exactly one of `top` and `bottom`."""

    top: int | None = Field(default=None, ge=1, description="Keep this number of rows, those with the highest values.")
    bottom: int | None = Field(
        default=None, ge=1, description="Keep this number of rows, those with the lowest values."
    )
    by: str = Field(min_length=1, description="A column of numbers. Rows without a number in it are left out.")


class Source(Section):
    """One source of rows: local files, a hub dataset, or files behind a URL."""

    path: str = Field(
        min_length=1,
        description="A local file or folder, relative to the recipe that names it; the id of a hub dataset; or the "
        "`https://`, `s3://` or `gs://` address of a file (the last two need the extra `remote`; credentials come "
        "from the environment). Files end in `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.arrow`; the first four "
        "may be compressed (`.gz`).",
    )
    data_files: str | list[str] | None = Field(
        default=None,
        description="Which files of the folder or hub dataset to read: names or patterns such as `train-*.parquet`. "
        "Absent: all data files of a folder, in the order of their names.",
    )
    name: str | None = Field(default=None, description="The configuration (subset) of a hub dataset.")
    split: str = Field(
        default="train",
        description="The split of a hub dataset, in the syntax of `datasets`: `test`, `train[:5%]`, `train+test`.",
    )
    revision: str | None = Field(default=None, description="The branch, tag or commit of a hub dataset.")
    streaming: bool = Field(
        default=False,
        description="Read a hub dataset row by row over the network instead of downloading it first: for data larger "
        "than the disk, or with a `limit` that needs only the first rows. `split` cannot have a slice then.",
    )
    format: str = Field(
        default="auto",
        description="How a row states its answers, and which one is better or good. `auto` decides from the columns "
        "and the first rows; if several formats fit, the run ends with an error that names them. docs/data.md shows "
        "every format by example.",
        json_schema_extra={"anyOf": [{"enum": ["auto", *sorted(registry.DATA_FORMATS)]}, {"type": "string"}]},
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Maps the columns of the format to the columns of this source, for example {prompt: question, "
        "chosen: better}. A dot reaches into an object, a list or the JSON text of one (`input.text`, `output.0`), and "
        'braces join several columns: {prompt: "{instruction}\\n\\n{input}"}. Every format also takes `weight`, '
        "`margin` and `subset`: a factor of the row's loss, how much better the chosen answer is, and a category by "
        "which evaluations also give the accuracy.",
    )
    filter: str | None = Field(
        default=None,
        description="Keep only the rows for which this condition is true, for example `score_chosen - score_rejected "
        ">= 1 and lang == 'en'`. Column names are those of the file. docs/data.md describes the grammar.",
    )
    select: Select | None = Field(
        default=None, description="Keep the top or bottom rows by a column. Applied after `filter`."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Keep at most this number of rows, the first ones. Applied after `select`."
    )
    weight: float | None = Field(
        default=None,
        gt=0.0,
        description="The share of this source in the mixture, relative to the weights of the other sources. The "
        "mixture is as large as possible without repeating a row. Either all sources have a weight or none has.",
    )

    @property
    def patterns(self) -> list[str]:
        """`data_files` as a list; empty if all files are read."""
        return [self.data_files] if isinstance(self.data_files, str) else list(self.data_files or ())


class HeldOut(Section):
    """Held-out rows from separate sources, from another split of the training datasets, or from the training rows."""

    sources: list[Source] = Field(default_factory=list, description="Sources of held-out rows.")
    split: str | None = Field(
        default=None, description="The split of the hub datasets in `data.train` to hold out, for example `test`."
    )
    fraction: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="The share of the training rows to hold out, drawn by prompt, so that no prompt is on both sides. "
        "0.05 holds out one row in twenty.",
    )
    count: int | None = Field(
        default=None, ge=1, description="The number of training rows to hold out, also drawn by prompt."
    )
    stable: bool = Field(
        default=False,
        description="With `fraction`: whether a prompt is held out depends only on its text and the seed, so adding "
        "rows never moves a prompt to the other side. The share is then approximate.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Keep at most this number of held-out rows, the first ones."
    )

    @property
    def is_set(self) -> bool:
        """Whether any rows are held out."""
        return bool(self.sources) or self.split is not None or self.is_carved

    @property
    def is_carved(self) -> bool:
        """Whether the rows are taken from the training data."""
        return self.fraction is not None or self.count is not None


class Data(Section):
    """Training, validation (`eval`) and test rows, and how unusable or overlong rows are handled."""

    train: list[Source] = Field(min_length=1, description="Sources of training rows, concatenated in this order.")
    eval: HeldOut = Field(
        default_factory=HeldOut,
        description="Held-out rows to evaluate on during and after training. Absent: nothing is evaluated, and the "
        "run warns about it.",
    )
    test: HeldOut = Field(
        default_factory=HeldOut,
        description="A second held-out set that is evaluated only before and after training: for an unbiased result "
        "if settings were chosen by their results on `eval`.",
    )
    dedup: Literal["none", "exact", "near"] = Field(
        default="none",
        description="Drop duplicates of earlier rows: `exact` drops rows with the same prompt and answers, `near` "
        "also rows with nearly the same words (MinHash over word 3-grams, needs the extra `dedup`). A held-out row "
        "that duplicates a training row is dropped too.",
    )
    near_threshold: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="With `dedup: near`: a row counts as a duplicate from this Jaccard similarity on.",
    )
    shuffle: bool = Field(
        default=False,
        description="Shuffle the training rows with the seed before `limit` is applied. Each epoch of training is "
        "shuffled in any case.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Use at most this number of training rows, for example for a short trial (`--set data.limit=8`).",
    )
    max_length: int = Field(default=1024, ge=8, description="The maximum length of prompt + answer in tokens.")
    overlong: Overlong = Field(
        default="truncate_prompt_start",
        description="How a row longer than `max_length` is handled. `truncate_prompt_start` removes the first tokens "
        "of the prompt, so that all answers stay whole (a row with an answer that is too long is dropped and "
        "counted); `truncate_completion_end` removes the end of the answers (at least one token of each stays); "
        "`drop` drops and counts the row; `error` ends the run with an error.",
    )
    train_on_turns: Literal["assistant", "last", "all"] = Field(
        default="assistant",
        description="Which turns are trained on if an answer has several, such as a whole dialogue: `assistant`, all "
        "of the assistant's own (turns of the user or a tool in between are context and not in the loss), `last`, only "
        "the assistant's last one (not for pairs), or `all`, as in TRL's `DPOTrainer`. Compare `roles_to_train` in "
        "Axolotl, `assistant_only_loss` in TRL and `mask_history` in LLaMA-Factory.",
    )
    on_bad_row: Literal["error", "drop"] = Field(
        default="error",
        description="How a row that the objective cannot use (no text, equal answers, roles out of order) is handled: "
        "`error` ends the run with an error that names the row, `drop` drops and counts it.",
    )
    max_bad_fraction: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="With `on_bad_row: error`: the share of rows that may be bad. Up to it, bad rows are dropped and "
        "counted without an error.",
    )
