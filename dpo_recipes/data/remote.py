"""Downloads data files from `https://`, `s3://` and `gs://` addresses with fsspec and caches them.

Credentials come from the environment, as each fsspec implementation documents; recipes contain none.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dpo_recipes.cache import cache_folder, entry_lock
from dpo_recipes.errors import DataError, DpoRecipeError, in_one_line
from dpo_recipes.recipe.paths import url_file_name
from dpo_recipes.run_dir import write_json

_VERSION_FIELDS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "generation")


def fetch(url: str) -> Path:
    """The local copy of a remote file, which is downloaded if there is none or the remote file has changed.

    A file whose server reports neither a version nor a date is downloaded each time. Raises `DataError` D410 if the
    file cannot be fetched, and D411 if the library for this kind of address is missing.
    """
    key = hashlib.sha256(url.encode()).hexdigest()
    folder = cache_folder() / "downloads" / key
    target, known = folder / url_file_name(url), folder / "version.json"
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        version = _version(system.info(path))
        with entry_lock("downloads", key):  # another process may be downloading it
            if version and target.exists() and known.exists() and json.loads(known.read_text("utf-8")) == version:
                return target
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{os.getpid()}.partial"
            known.unlink(missing_ok=True)
            system.get_file(path, str(partial))
            partial.replace(target)
            write_json(known, version)
    except DpoRecipeError:  # a stop was requested during the download
        raise
    except ImportError as error:
        raise DataError.of(
            "D411",
            f"a library is missing for {url.partition('://')[0]}:// addresses",
            why=str(error),
            fix="pip install 'dpo-recipe[remote]'",
        ) from error
    except Exception as error:  # botocore, aiohttp and google-auth have no common exception class
        raise DataError.of(
            "D410",
            f"cannot fetch {url}",
            why=in_one_line(error),
            fix="check the address, the network and the credentials in the environment",
        ) from error
    return target


def _version(info: dict[str, Any]) -> dict[str, str]:
    """The version, date and size that the server reports for a file; empty without a version or date."""
    known = {name: str(info[name]) for name in _VERSION_FIELDS if info.get(name)}
    return {**known, "size": str(info.get("size"))} if known else {}
