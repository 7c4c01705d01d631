"""The `data` section: which preference pairs, cut how."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section

Overlong = Literal["drop", "truncate_prompt_start", "truncate_completion_end", "error"]


class Source(Section):
    """One source of preference pairs: a local file or a hub dataset."""

    path: str = Field(
        min_length=1,
        description="A local `.jsonl`, `.json`, `.csv` or `.parquet` file (also `.jsonl.gz`, `.json.gz`, `.csv.gz`), "
        "relative to the recipe that names it; or the id of a hub dataset.",
    )
    name: str | None = Field(default=None, description="Configuration (subset) of a hub dataset.")
    split: str = Field(
        default="train", description="Split of a hub dataset, with slices as `datasets` writes them: `train[:5%]`."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub dataset.")
    format: Literal["auto", "preference", "hh_rlhf"] = Field(
        default="auto",
        description="`preference`: columns prompt, chosen, rejected, as texts or lists of messages; the prompt may "
        "be left out when chosen and rejected are message lists that begin alike. `hh_rlhf`: chosen and rejected "
        "are whole Human/Assistant dialogues. `auto` decides from the columns and the first rows.",
    )
    columns: dict[Literal["prompt", "chosen", "rejected"], str] = Field(
        default_factory=dict,
        description="Names of the columns where they differ, for example {prompt: question, chosen: better}.",
    )
    limit: int | None = Field(default=None, ge=1, description="Use only the first so many rows.")


class EvalData(Section):
    """Held-out pairs: sources of their own, or a part of the training data."""

    sources: list[Source] = Field(default_factory=list, description="Sources of held-out pairs.")
    fraction: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Part of the training pairs to hold out instead, drawn by prompt so that no prompt is on both "
        "sides; 0.05 holds out one in twenty.",
    )


class Data(Section):
    """Training and held-out preference pairs."""

    train: list[Source] = Field(min_length=1, description="Sources of training pairs, one after the other.")
    eval: EvalData = Field(
        default_factory=EvalData, description="Held-out pairs. Absent: nothing is evaluated, and the run says so."
    )
    max_length: int = Field(
        default=1024, ge=8, description="Longest prompt + answer, in tokens, that the model is trained on."
    )
    overlong: Overlong = Field(
        default="drop",
        description="What happens to a pair longer than `max_length`: dropped and counted; the oldest prompt tokens "
        "cut; the end of the answer cut (at least one answer token stays); or the run ends with an error.",
    )
    on_bad_row: Literal["error", "drop"] = Field(
        default="error",
        description="What happens to a row without text, or whose two answers are equal: the run ends with an error "
        "that names it, or it is dropped and counted.",
    )
