"""The `data` section: which preference pairs, in which form, cut how."""

from typing import Literal

from pydantic import Field

from dpo_recipes import registry
from dpo_recipes.recipe.schema.section import Section

Overlong = Literal["drop", "truncate_prompt_start", "truncate_completion_end", "error"]


class Select(Section):
    """The best or worst rows of a source by the value of a column. Exactly one of `top` and `bottom`."""

    top: int | None = Field(default=None, ge=1, description="Keep so many rows with the highest values.")
    bottom: int | None = Field(default=None, ge=1, description="Keep so many rows with the lowest values.")
    by: str = Field(min_length=1, description="The column; its values are numbers. Rows without one are left out.")


class Source(Section):
    """One source of preference pairs: local files, a hub dataset, or files behind a URL."""

    path: str = Field(
        min_length=1,
        description="A local file or folder, relative to the recipe that names it; the id of a hub dataset; or an "
        "`https://`, `s3://` or `gs://` address of a file (the last two need the extra `remote`; credentials come "
        "from the environment). Files are `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.arrow`; the text kinds "
        "also with `.gz`.",
    )
    data_files: str | list[str] | None = Field(
        default=None,
        description="Which files of the folder or hub dataset: names or patterns such as `train-*.parquet`. "
        "Absent: all of a folder that can be read, in the order of their names.",
    )
    name: str | None = Field(default=None, description="Configuration (subset) of a hub dataset.")
    split: str = Field(
        default="train",
        description="Split of a hub dataset, with slices as `datasets` writes them: `train[:5%]`, `train+test`.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub dataset.")
    streaming: bool = Field(
        default=False,
        description="Read a hub dataset row by row over the network instead of downloading it whole first: for data "
        "larger than the disk, or a `limit` that needs only its beginning. No slices in `split` then.",
    )
    format: str = Field(
        default="auto",
        description="How a row says which answer is better. `auto` decides from the columns and the first rows, and "
        "asks where several formats fit; docs/data.md shows every format by example.",
        json_schema_extra={"anyOf": [{"enum": ["auto", *sorted(registry.DATA_FORMATS)]}, {"type": "string"}]},
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The format's columns under the names they have here, for example {prompt: question, "
        "chosen: better}; a dot goes into an object, a list or the JSON text of one (`input.text`, `output.0`), and a "
        "text with braces joins several: "
        '{prompt: "{instruction}\\n\\n{input}"}.',
    )
    filter: str | None = Field(
        default=None,
        description="Keep the rows for which this holds, for example `score_chosen - score_rejected >= 1 and "
        "lang == 'en'`. Column names are those of the file. docs/data.md has the grammar.",
    )
    select: Select | None = Field(default=None, description="Keep the top or bottom rows by a column; after `filter`.")
    limit: int | None = Field(default=None, ge=1, description="Keep the first so many rows; after `select`.")
    weight: float | None = Field(
        default=None,
        gt=0.0,
        description="This source's part of the mixture, relative to the other sources' weights. The mixture is as "
        "large as it can be without repeating a row. All sources have one, or none has.",
    )

    @property
    def patterns(self) -> list[str]:
        """`data_files` as a list; empty where all files are meant."""
        return [self.data_files] if isinstance(self.data_files, str) else list(self.data_files or ())


class HeldOut(Section):
    """Held-out pairs: sources of their own, another split of the training datasets, or a part of the training pairs."""

    sources: list[Source] = Field(default_factory=list, description="Sources of held-out pairs.")
    split: str | None = Field(
        default=None, description="This split of the hub datasets in `data.train`, for example `test`."
    )
    fraction: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Part of the training pairs to hold out, drawn by prompt so that no prompt is on both sides; "
        "0.05 holds out one in twenty.",
    )
    count: int | None = Field(
        default=None, ge=1, description="So many of the training pairs to hold out, drawn by prompt as well."
    )
    stable: bool = Field(
        default=False,
        description="With `fraction`: each prompt's side follows from its text and the seed alone, so that it never "
        "changes when rows are added. The share is then approximate.",
    )
    limit: int | None = Field(default=None, ge=1, description="Keep the first so many held-out pairs.")

    @property
    def is_set(self) -> bool:
        """Whether anything is held out."""
        return bool(self.sources) or self.split is not None or self.is_carved

    @property
    def is_carved(self) -> bool:
        """Whether the pairs are taken from the training data."""
        return self.fraction is not None or self.count is not None


class Data(Section):
    """Training, validation (`eval`) and test pairs, and what becomes of rows that cannot be used."""

    train: list[Source] = Field(min_length=1, description="Sources of training pairs, one after the other.")
    eval: HeldOut = Field(
        default_factory=HeldOut,
        description="Held-out pairs to evaluate on during and after training. Absent: nothing is evaluated, and the "
        "run says so.",
    )
    test: HeldOut = Field(
        default_factory=HeldOut,
        description="A second held-out set, evaluated once, before and after training: for settings that were chosen "
        "by looking at `eval`.",
    )
    dedup: Literal["none", "exact", "near"] = Field(
        default="none",
        description="Drop pairs that are there before: `exact` with the same prompt and answers, `near` also with "
        "nearly the same words (MinHash over word 3-grams, extra `dedup`). Held-out pairs are compared with the "
        "training pairs too, and give way.",
    )
    near_threshold: float = Field(
        default=0.8, gt=0.0, le=1.0, description="With `dedup: near`: the Jaccard similarity from which a pair goes."
    )
    shuffle: bool = Field(
        default=False,
        description="Shuffle the training pairs by the seed before `limit`. Training shuffles each epoch in any case.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Use only so many training pairs: for a try with a handful of rows (`--set data.limit=8`).",
    )
    max_length: int = Field(
        default=1024, ge=8, description="Longest prompt + answer, in tokens, that the model is trained on."
    )
    overlong: Overlong = Field(
        default="truncate_prompt_start",
        description="What happens to a pair longer than `max_length`: the oldest prompt tokens are cut, so that both "
        "answers stay whole (dropped and counted when an answer alone is too long); the end of the answers is cut (at "
        "least one token of each stays); the pair is dropped and counted; or the run ends with an error.",
    )
    train_on_turns: Literal["assistant", "all"] = Field(
        default="assistant",
        description="Which turns of an answer are trained on, where it has several: the assistant's own (what the user "
        "or a tool says in between is read, but is not in the loss), or all of them, as TRL's `DPOTrainer` does it. "
        "Compare `roles_to_train` in Axolotl and `assistant_only_loss` in TRL.",
    )
    on_bad_row: Literal["error", "drop"] = Field(
        default="error",
        description="What happens to a row that is no preference (no text, equal answers, roles out of order): the "
        "run ends with an error that names it, or it is dropped and counted.",
    )
    max_bad_fraction: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="With `on_bad_row: error`: the share of bad rows that is dropped and counted without an error.",
    )
