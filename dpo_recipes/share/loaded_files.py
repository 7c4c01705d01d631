"""Which files of a model, an adapter or a folder are loaded, by their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import PurePosixPath

from dpo_recipes.errors import SharingError

_SETTINGS = ("config.json", "generation_config.json")
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece*.model", "*.tiktoken", "tekken.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
_ADAPTER = ("adapter_config.json",)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def files_of_model(
    names: Collection[str],
    read: Callable[[str], bytes],
    what: str,
    *,
    allow_pickle: bool = False,
    remote_code: bool = False,
) -> list[str]:
    """The files of a model that transformers loads: settings, tokenizer, chat templates and weights, with the shards
    that an index names. `read` gives the content of a file of `what`.

    Raises `SharingError` S109 if there are no weights, or a shard is missing.
    """
    found = [name for name in names if any(fnmatch(name, pattern) for pattern in (*_SETTINGS, *_TOKENIZER))]
    if remote_code:
        found += [name for name in names if PurePosixPath(name).suffix == ".py"]
    weights = _weights(names, (*_WEIGHTS, *(_PICKLES if allow_pickle else ())))
    if weights is None:
        why, fix = f"it has none of {', '.join(_WEIGHTS)}", "check that the folder is complete"
        if any(name in names for name in _PICKLES):
            why = "its weights are pickle files (.bin), and opening one can execute arbitrary code"
            fix = "save it as safetensors; or, if you trust its author, set `model.allow_pickle: true`"
        raise _missing(what, "weights", why, fix)
    found.append(weights)
    if weights.endswith(".index.json"):
        found += _shards(weights, names, read, what)
    return sorted(set(found))


def files_of_adapter(names: Collection[str], what: str) -> list[str]:
    """The files of an adapter that peft loads. Raises `SharingError` S109 if they are incomplete."""
    weights = _weights(names, _ADAPTER_WEIGHTS)
    if weights is None or _ADAPTER[0] not in names:
        raise _missing(what, "its adapter", f"it lacks {_ADAPTER[0]} or weights", "check that the folder is complete")
    return sorted({weights, *_ADAPTER})


def _weights(names: Collection[str], wanted: Collection[str]) -> str | None:
    """The first of the names that there is, in the order in which libraries look for them."""
    return next((name for name in wanted if name in names), None)


def _shards(index: str, names: Collection[str], read: Callable[[str], bytes], what: str) -> list[str]:
    try:
        shards = sorted(set(json.loads(read(index))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _missing(what, "a readable index", f"{index}: {error}", "copy or download the file again") from error
    absent = [shard for shard in shards if shard not in names]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        why = f"{index} names {len(shards)} files, of which {len(absent)} {'is' if len(absent) == 1 else 'are'} missing"
        fix = "copy or download the missing files; an interrupted download is the usual cause"
        raise _missing(what, f"{absent[0]}{more}", why, fix)
    return shards


def _missing(what: str, lacks: str, why: str, fix: str) -> SharingError:
    return SharingError.of("S109", f"{what} lacks {lacks}", why=why, fix=fix)
