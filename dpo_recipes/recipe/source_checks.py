"""Checks of the `data` section: whether sources exist and can be read, whether filters, formats and columns are valid,
and whether held-out rows are separate from the training rows."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import Finding, Where
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.row_shapes import ROW_NUMBERS, SUBSET, why_not
from dpo_recipes.recipe.column_map import ColumnMapError, parse_column
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import (
    DATA_SUFFIXES,
    exists,
    is_hub_id,
    is_url,
    looks_local,
    near_file,
    relative_note,
    url_file_name,
)
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.recipe.rule_findings import does_nothing
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.data import HeldOut, Source
from dpo_recipes.reward_settings import needed_columns

_REMOTE_LIBRARIES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
_FILES_END_IN = f"data files end in {', '.join(DATA_SUFFIXES)}"


def check_sources(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R303 to R306, R326: a source does not exist, cannot be read, or has a field without effect."""
    for at, source in _sources(recipe):
        where = composed.where((*at, "path"))
        if is_url(source.path):
            yield from _check_url(source, where)
            yield from _fields_without_meaning(at, source, composed, "the URL of a file", data_files=True)
        elif Path(source.path).is_absolute() or looks_local(source.path):
            yield from _check_local(at, source, composed)
        elif is_reference(source.path):
            yield from _fields_without_meaning(at, source, composed, "what a step makes", data_files=True)
        elif not is_hub_id(source.path):
            yield Finding(
                "R303", f"`{source.path}` is neither a data file nor a hub id", where, _FILES_END_IN, "correct the path"
            )
        elif source.streaming and "[" in source.split:
            yield Finding(
                "R326",
                "`streaming` cannot take a slice of a split",
                composed.where((*at, "split")),
                "a stream is read from its start, and its length is unknown",
                "write the split alone and use `limit`, or remove `streaming`",
            )


def _check_url(source: Source, where: Where) -> Iterator[Finding]:
    library = _REMOTE_LIBRARIES[source.path.partition("://")[0]]
    if not url_file_name(source.path).endswith(DATA_SUFFIXES):
        yield Finding("R305", f"cannot tell how to read {source.path}", where, _FILES_END_IN, "name one data file")
    if importlib.util.find_spec(library) is None:
        yield Finding(
            "R316",
            f"{library} is not installed",
            where,
            "fsspec needs it for such URLs",
            "pip install 'dpo-recipe[remote]', or download the file",
        )


def _check_local(at: DataPath, source: Source, composed: Composed) -> Iterator[Finding]:
    path, where = Path(source.path), composed.where((*at, "path"))
    if not exists(path):
        note = relative_note(composed, (*at, "path"))
        yield Finding("R304", f"the data file {path} does not exist", where, note, near_file(path))
    elif not path.is_dir() and not path.name.endswith(DATA_SUFFIXES):
        yield Finding(
            "R305", f"cannot tell how to read {path}", where, _FILES_END_IN, "name one data file, or rename it"
        )
    elif not os.access(path, os.R_OK):
        yield Finding("R304", f"{path} cannot be read", where, "permission denied", "change its permissions")
    else:
        kind = "a local folder" if path.is_dir() else "a local file"
        yield from _fields_without_meaning(at, source, composed, kind, data_files=not path.is_dir())


def _fields_without_meaning(
    at: DataPath, source: Source, composed: Composed, kind: str, *, data_files: bool
) -> Iterator[Finding]:
    has_splits = exists(Path(source.path) / "dataset_dict.json")
    fields = [
        "name",
        "revision",
        "streaming",
        *(["data_files"] if data_files else []),
        *([] if has_splits else ["split"]),
    ]
    for field in fields:
        # The default is allowed, because the resolved recipe of a run has all fields.
        if getattr(source, field) != Source.model_fields[field].default:
            yield Finding(
                "R306",
                f"`{field}` has no effect for {kind}",
                composed.where((*at, field), key=True),
                "it selects a part of a hub dataset" if field != "data_files" else "it selects files of a folder",
                "remove it; use `limit` to take fewer rows",
            )


def check_rows(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R319, R322 to R324, R357, R392: the filter, columns, format or selection of a source is invalid."""
    for at, source in _sources(recipe):
        if source.filter is not None:
            yield from _check_filter((*at, "filter"), source.filter, composed)
        select = source.select
        if select is not None and (select.top is None) == (select.bottom is None):
            yield Finding(
                "R324",
                "`select` needs either `top` or `bottom`",
                composed.where((*at, "select"), key=True),
                "it keeps the rows with either the highest or the lowest values of a column",
                "for example select: {top: 2000, by: delta_score}",
            )
        yield from _check_format(at, source, recipe, composed)


def _check_filter(at: DataPath, text: str, composed: Composed) -> Iterator[Finding]:
    from dpo_recipes.recipe.row_filter import FilterSyntaxError, parse  # takes 10 ms, and only filters need it

    try:
        parse(text)
    except FilterSyntaxError as error:
        where = composed.where(at)
        column = (where.text or "").find(text)
        if column >= 0:  # the filter is on one line and has no escapes, so that the place in it can be shown
            where = replace(where, column=column + 1 + error.position, length=max(1, error.length))
        yield Finding(
            "R319",
            f"the filter has a syntax error: {error.message}",
            where,
            f"at character {error.position + 1}",
            "correct it",
        )


def _check_format(at: DataPath, source: Source, recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    if source.format == "auto" and not source.columns:
        return
    known = registry.names("data_formats")
    if source.format not in ("auto", *known):
        near = difflib.get_close_matches(source.format, known, n=1, cutoff=0.5)
        yield Finding(
            "R323",
            f"unknown data format `{source.format}`",
            composed.where((*at, "format")),
            "docs/data.md has an example of each format",
            f"did you mean `{near[0]}`?" if near else "remove it, so that the format follows from the columns",
        )
        return
    formats = known if source.format == "auto" else [source.format]
    if source.columns:
        loaded = [registry.load("data_formats", name) for name in formats]
        columns = {
            column
            for data_format in loaded
            if data_format.detect or source.format != "auto"
            for column in (*data_format.columns, *data_format.optional_columns)
        }
        kept = needed_columns(objective_of(recipe).rewards(recipe.objective))
        known_here = {*columns, *ROW_NUMBERS, SUBSET, *kept}
        yield from _check_columns((*at, "columns"), source.columns, known_here, composed)
    if source.format != "auto":
        data_format = registry.load("data_formats", source.format)
        refusal = why_not(data_format.kind, objective_of(recipe).rows)
        if refusal is not None:
            what = f"the format `{source.format}` has rows that the objective cannot learn from"
            yield Finding("R357", what, composed.where((*at, "format")), *refusal)
        promised = data_format.chat_template
        if promised and recipe.chat_template != promised:
            yield Finding(
                "R392",
                f"the format `{source.format}` is meant for the template `{promised}`, but the recipe has another",
                composed.where((*at, "format")),
                f"a format only defines the meaning of columns; `chat_template` is `{recipe.chat_template:.40}`",
                f"write `chat_template: {promised}` if the texts are to be rendered with it",
                "warning",
            )


def _check_columns(at: DataPath, mapped: dict[str, str], known: set[str], composed: Composed) -> Iterator[Finding]:
    for ours, theirs in mapped.items():
        if ours not in known:
            near = difflib.get_close_matches(ours, sorted(known), n=1, cutoff=0.5)
            yield Finding(
                "R322",
                f"no format reads a column `{ours}`",
                composed.where((*at, ours), key=True),
                f"columns are {', '.join(sorted(known))}",
                f"did you mean `{near[0]}`?" if near else "the left side is the format's name, the right side yours",
            )
        try:
            parse_column(theirs)
        except ColumnMapError as error:
            yield Finding(
                "R322",
                f"`{theirs}` is not a valid column",
                composed.where((*at, ours)),
                str(error),
                "for example {prompt: question}",
            )


def check_mixture(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R325: only some sources have a weight; R327: a setting has no effect; R316: a library is not installed."""
    data = recipe.data
    weighted = [index for index, source in enumerate(data.train) if source.weight is not None]
    if weighted and len(weighted) < len(data.train):
        without = next(index for index in range(len(data.train)) if index not in weighted)
        yield Finding(
            "R325",
            "some training sources have a `weight` and some have none",
            composed.where(("data", "train", without), key=True),
            "a mixture needs the share of every source",
            "give a weight to every source, or to none",
        )
    for section, held_out in _held_out(recipe):
        for index, source in enumerate(held_out.sources):
            if source.weight is not None:
                why = f"held-out {objective_of(recipe).row_noun}s are not mixed"
                yield does_nothing(("data", section, "sources", index, "weight"), why, composed)
    if data.max_bad_fraction and data.on_bad_row == "drop":
        yield does_nothing(("data", "max_bad_fraction"), "with `on_bad_row: drop` any number may be dropped", composed)
    if data.dedup != "near" and data.near_threshold != type(data).model_fields["near_threshold"].default:
        yield does_nothing(("data", "near_threshold"), "only `dedup: near` uses it", composed)
    if data.dedup == "near" and importlib.util.find_spec("datasketch") is None:
        yield Finding(
            "R316",
            "datasketch is not installed",
            composed.where(("data", "dedup")),
            "it detects near duplicates",
            "pip install 'dpo-recipe[dedup]', or write `dedup: exact`",
        )


def check_held_out(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R307, R308, R321, R327, R328: held-out rows have several origins, are also training rows, or have an invalid
    setting; R309, R390: nothing is held out."""
    noun = objective_of(recipe).row_noun
    for section, held_out in _held_out(recipe):
        yield from _check_one_origin(section, held_out, recipe, composed)
    carved = [held_out for _, held_out in _held_out(recipe) if held_out.is_carved]
    if sum(held_out.fraction or 0.0 for held_out in carved) >= 1.0:
        why = "the fractions of `data.eval` and `data.test` add up to 1 or more"
        fix = "hold out less"
        yield Finding("R307", f"no training {noun}s remain", composed.where(("data", "test", "fraction")), why, fix)
    if len({held_out.stable for held_out in carved}) > 1:
        why = "`data.eval` and `data.test` are drawn together"
        fix = "set `stable` for both, each with a `fraction`, or for neither"
        yield Finding(
            "R321",
            "`stable` is set for only one of `data.eval` and `data.test`",
            composed.where(("data", "test"), key=True),
            why,
            fix,
        )
    if not recipe.data.eval.is_set:
        if not recipe.data.test.is_set:
            yield Finding(
                "R390",
                "nothing is held out",
                composed.where(("data",), key=True),
                f"without held-out {noun}s, learning cannot be distinguished from memorizing",
                "add `eval: {fraction: 0.05}` under `data`",
                "warning",
            )
        for at in _wishes_for_evaluations(recipe):
            yield _nothing_compared(at, composed, f"there are no held-out {noun}s to evaluate on", "add `data.eval`")
        if recipe.training.eval_steps is not None:
            yield Finding(
                "R309",
                f"`training.eval_steps` is set, but there are no held-out {noun}s",
                composed.where(("training", "eval_steps"), key=True),
                "there is nothing to evaluate on",
                "add `data.eval`, or remove `eval_steps`",
            )
    elif recipe.training.eval_steps is None:
        whys = {
            "keep_best": "the model is evaluated only at the end of training, so there is only one to choose from",
            "early_stopping": "the model is evaluated only at the end of training",
        }
        for at in _wishes_for_evaluations(recipe):
            yield _nothing_compared(at, composed, whys[at[-1]], "add `training.eval_steps`")


def _wishes_for_evaluations(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The paths of the settings that compare evaluations during training."""
    if recipe.checkpoints.keep_best:
        yield "checkpoints", "keep_best"
    if recipe.training.early_stopping is not None:
        yield "training", "early_stopping"


def _nothing_compared(at: tuple[str, str], composed: Composed, why: str, fix: str) -> Finding:
    what = f"`{at[-1]}` has no effect here"
    return Finding("R327", what, composed.where(at, key=True), why, f"{fix}, or remove `{at[-1]}`")


def _check_one_origin(section: str, held_out: HeldOut, recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    at: DataPath = ("data", section)
    noun = objective_of(recipe).row_noun
    origins = [name for name in ("sources", "split", "fraction", "count") if getattr(held_out, name)]
    if len(origins) > 1:
        yield Finding(
            "R307",
            f"`data.{section}` has both `{origins[0]}` and `{origins[1]}`",
            composed.where(at, key=True),
            f"held-out {noun}s are either read from separate data or split from the training data",
            "remove one of them",
        )
    if held_out.stable and held_out.fraction is None:
        why = "whether a prompt is held out is decided with a share, so `stable` works with `fraction` only"
        yield Finding("R321", "`stable` needs `fraction`", composed.where((*at, "stable"), key=True), why, "remove it")
    training: set[tuple[Any, ...]] = {_identity(source) for source in recipe.data.train}
    for index, source in enumerate(held_out.sources):
        if _identity(source) in training:
            yield Finding(
                "R308",
                f"{source.path} is both training and held-out data",
                composed.where((*at, "sources", index, "path")),
                f"results on {noun}s that the model was trained on are too good",
                "use another file, or `eval: {fraction: 0.05}`",
            )
    for source in recipe.data.train if held_out.split is not None else []:
        is_local = Path(source.path).is_absolute() and not exists(Path(source.path) / "dataset_dict.json")
        if is_local or is_url(source.path) or source.split == held_out.split:
            yield Finding(
                "R328",
                f"{source.path} has no other split `{held_out.split}`",
                composed.where((*at, "split")),
                "the training data is that split"
                if source.split == held_out.split
                else "only hub datasets have named splits",
                "name another split, or give `sources`, `fraction` or `count`",
            )


def _identity(source: Source) -> tuple[Any, ...]:
    files = source.data_files
    return (source.path, source.name, source.split, tuple(files) if isinstance(files, list) else files)


def check_row_columns(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R327: a weight, margin or subset that the objective does not use."""
    objective = objective_of(recipe)
    for at, source in _sources(recipe):
        for name in ROW_NUMBERS:
            if name in source.columns and name not in objective.row_numbers:
                why = f"the objective `{objective.kind}` does not use a {name} of each row"
                yield does_nothing((*at, "columns", name), why, composed)
        if SUBSET in source.columns and objective.subset_metric is None:
            why = f"the objective `{objective.kind}` has no accuracy that is measured for each subset of the rows"
            yield does_nothing((*at, "columns", SUBSET), why, composed)


def check_turns(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R327: the last turn of pairs, whose answers begin where they differ."""
    if recipe.data.train_on_turns == "last" and objective_of(recipe).rows == "pair":
        why = "the answers of a pair begin where they differ; `last` is for objectives that learn from single answers"
        yield does_nothing(("data", "train_on_turns"), why, composed)


RULES = (check_sources, check_rows, check_mixture, check_held_out, check_row_columns, check_turns)


def _held_out(recipe: Recipe) -> list[tuple[str, HeldOut]]:
    return [("eval", recipe.data.eval), ("test", recipe.data.test)]


def _sources(recipe: Recipe) -> Iterable[tuple[DataPath, Source]]:
    for index, source in enumerate(recipe.data.train):
        yield ("data", "train", index), source
    for section, held_out in _held_out(recipe):
        for index, source in enumerate(held_out.sources):
            yield ("data", section, "sources", index), source
