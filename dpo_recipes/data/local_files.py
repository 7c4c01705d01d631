"""Finds local data files and reads their rows one by one.

Memory is constant, except for a JSON list, whose text is read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from gzip import BadGzipFile
from pathlib import Path

from dpo_recipes.data.readers.columnar import read_arrow, read_parquet
from dpo_recipes.data.readers.delimited import read_delimited
from dpo_recipes.data.readers.json_text import read_json
from dpo_recipes.data.readers.text_file import not_utf8, signature_error
from dpo_recipes.data.rows import RowIterator, SourceRow
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.paths import DATA_SUFFIXES

_READERS: dict[str, Callable[[Path], RowIterator]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}


_ABOUT_DATA = ("dataset_info.json", "state.json", "dataset_infos.json")
"""What `save_to_disk` and older repositories of the hub write about the data."""


def find_files(path: Path, patterns: list[str], split: str) -> list[Path]:
    """The data files at a path: the file itself, or those of a folder, pattern by pattern and sorted by name.

    A folder that `DatasetDict.save_to_disk` wrote has one folder for each split. Raises `DataError` D401 if there is no
    data file.
    """
    if path.is_file():
        return [path]
    folder = path / split if (path / "dataset_dict.json").is_file() else path
    found = [file for pattern in patterns or ["*"] for file in sorted(folder.glob(pattern)) if file.is_file()]
    files = list(dict.fromkeys(file for file in found if file.name.endswith(DATA_SUFFIXES)))
    if not patterns:  # hidden files, such as macOS's `._a.jsonl`, are no data
        files = [file for file in files if file.name not in _ABOUT_DATA and not file.name.startswith(".")]
    if not files:
        raise DataError.of(
            "D401",
            f"there is no data file in {folder}",
            why=f"no data file matches {', '.join(patterns)}"
            if patterns
            else f"data files end in {', '.join(DATA_SUFFIXES)}",
            fix=_deeper(folder) or "correct the path, or `data_files`",
        )
    return files


def _deeper(folder: Path) -> str | None:
    """A hint if a folder one level below has data files, as in a copy of a repository of the hub."""
    file = next((file for file in sorted(folder.glob("*/*")) if file.name.endswith(DATA_SUFFIXES)), None)
    return file and f"its folder `{file.parent.name}` has data files: `data_files: ['{file.relative_to(folder)}']`"


def read_file(path: Path) -> RowIterator:
    """The rows of one file, read as its suffix says. Raises `DataError` D401 if it is damaged or of another kind."""
    try:
        yield from _READERS[Path(path.name.removesuffix(".gz")).suffix](path)
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, BadGzipFile):
        return DataError.of(
            "D401", f"{path} is not compressed with gzip", why=str(error), fix="rename it without `.gz`"
        )
    if path.suffix in (".parquet", ".arrow") and path.is_file() and (other_kind := signature_error(path)):
        return other_kind
    return DataError.of(
        "D401",
        f"cannot read {path}",
        why=f"{type(error).__name__}: {error}",
        fix="check that the file is complete and of the kind that its suffix says",
    )


def file_rows(files: list[Path]) -> Iterator[SourceRow]:
    """The rows of several files, one after the other."""
    for file in files:
        yield from read_file(file)
