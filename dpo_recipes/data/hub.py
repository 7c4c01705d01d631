"""Reads datasets of the hub with the library `datasets`: downloaded and cached, or streamed row by row."""

from __future__ import annotations

from typing import Any

from dpo_recipes import hub
from dpo_recipes.data.rows import RowIterator, SourceRow
from dpo_recipes.errors import DataError, DpoRecipeError, in_one_line
from dpo_recipes.recipe.schema.data import Source


def read_dataset(source: Source) -> RowIterator:
    """The rows of a split of a hub dataset. Raises `DataError` D410 if it cannot be loaded."""
    dataset = load_split(source)
    for index, row in enumerate(_errors_of(dataset, source)):
        yield SourceRow(dict(row), f"{source.path}[{source.split}][{index}]", has_filled_nulls=True)


def load_split(source: Source) -> Any:
    """The split as a `datasets.Dataset`, or as an `IterableDataset` if `streaming`. Raises `DataError` D410."""
    from datasets import load_dataset

    hub.go_offline_if_unreachable()
    try:
        return load_dataset(
            source.path,
            source.name,
            split=source.split,
            revision=source.revision,
            data_files=source.patterns or None,
            streaming=source.streaming,
        )
    except DpoRecipeError:  # a stop was requested during the download
        raise
    except Exception as error:  # datasets, huggingface_hub and HTTP libraries have no common exception class
        raise _hub_error(source, error) from error


def load_builder(source: Source) -> Any:
    """The `datasets.DatasetBuilder` of a source. It knows the commit of the dataset (`hash`) and the files of each
    split (`config.data_files`; None without a network), and reads none of them. Raises `DataError` D410."""
    from datasets import load_dataset_builder

    hub.go_offline_if_unreachable()
    try:
        return load_dataset_builder(
            source.path, source.name, revision=source.revision, data_files=source.patterns or None
        )
    except DpoRecipeError:
        raise
    except Exception as error:  # as in `load_split`
        raise _hub_error(source, error) from error


def split_names(split: str) -> set[str]:
    """The names of the splits in an expression such as `train[:5%]+test`."""
    return {part.partition("[")[0].strip() for part in split.split("+")}


def fingerprint(source: Source) -> str | None:
    """A text that changes when the rows of a hub dataset change: the split's fingerprint, or the commit of a stream.

    None if the commit is unknown. `datasets` 5.2 derives its fingerprint from the commit and the files it has read. The
    attribute is private; tests/integration/test_upstream.py fails if it is renamed.
    """
    if source.streaming:
        return _commit(source)
    dataset = load_split(source)
    return dataset._fingerprint


def _commit(source: Source) -> str | None:
    from huggingface_hub import HfApi

    if hub.go_offline_if_unreachable():
        return None
    try:
        return HfApi().dataset_info(source.path, revision=source.revision).sha
    except Exception:  # without a commit nothing is cached, and reading the rows raises any error of the hub
        return None


def _errors_of(dataset: Any, source: Source) -> Any:
    """The rows of a dataset. Raises `DataError` D410, since reading from a stream may fail at any row."""
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except DpoRecipeError:
            raise
        except Exception as error:
            raise _hub_error(source, error) from error
        yield row


def _hub_error(source: Source, error: Exception) -> DataError:
    return DataError.of(
        "D410",
        f"cannot load the dataset {source.path}",
        why=in_one_line(error),
        fix="check the id, `name`, `split` and the network (`dpo-recipe doctor`), or download it and set `path` to "
        "the file",
    )
