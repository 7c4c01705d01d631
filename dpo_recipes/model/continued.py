"""Checks that the weights of an adapter that is continued fit the modules of a base.

peft only warns about weights that are missing, and initializes them again.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.errors import Finding, RunError
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.missing_weights import name_some
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.model.stored import read_header

AT = ("model", "adapter", "path")
_SIZES = re.compile(r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) .*?\[(.*?)\]\)")


def does_not_fit(
    path: str, why: str, fix: str = "use the base that the adapter was trained on, or another adapter"
) -> RunError:
    """The error M512 for an adapter, with its reason."""
    return RunError(Finding("M512", f"the adapter {path} does not fit the base", None, why, fix, at=AT))


def check_continued(path: str, config: Any, base: Any, *, is_resized: bool) -> None:
    """Compare the names and shapes in an adapter's file with the modules of a base on the `meta` device.

    `is_resized` says whether `base` already has embeddings for all tokens; otherwise their sizes are not compared.
    Raises `RunError` M512, which names the first weights that have no module, are missing or have another shape, and
    M504 or M509 if the file cannot be read.
    """
    from peft import get_peft_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    stored = _stored(path, may_download=is_resized)
    wrapped: Any = None
    try:
        with warnings.catch_warnings():
            # peft warns about a base in another folder, and torch about copies between tensors without data.
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(base, config)
        if isinstance(wrapped.get_output_embeddings(), BaseTunerLayer):
            raise does_not_fit(
                path, "it also covers the LM head, where TRL 1.16 cannot train an adapter; merge it first"
            )
        if stored is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = set_peft_model_state_dict(wrapped, stored)
    except KeyError as error:
        raise does_not_fit(path, f"its file lacks {error.args[0]}") from error
    except (RuntimeError, ValueError, TypeError) as error:
        why = _describe_sizes(str(error), wrapped.get_base_model(), is_resized) if "size mismatch" in str(error) else ""
        if why is not None:
            raise does_not_fit(path, why or str(error).strip().splitlines()[0]) from error
        return
    _judge(path, [key for key in found.missing_keys if "default" in key.split(".")], found.unexpected_keys, len(stored))


def _judge(path: str, missing: list[str], unexpected: list[str], num_stored: int) -> None:
    if unexpected:
        also = (
            f"; {len(missing)} weights of the model are not in the file, such as {_plain(missing[0])}"
            if missing
            else ""
        )
        names = name_some(map(_plain, unexpected), 2)
        raise does_not_fit(path, f"{len(unexpected)} of its {num_stored} weights match no module: {names}{also}")
    if missing:
        raise does_not_fit(
            path, f"{len(missing)} of its weights are not in its file: {name_some(map(_plain, missing), 2)}"
        )


def _describe_sizes(text: str, base: Any, is_resized: bool) -> str | None:
    """A description of the weights of another shape; None if only embeddings differ that are not resized yet."""
    sizes = _SIZES.findall(text)
    if not is_resized:
        embeddings = (base.get_input_embeddings(), base.get_output_embeddings())
        names = [name for name, module in base.named_modules() if any(module is layer for layer in embeddings)]
        sizes = [size for size in sizes if not any(f".{name}." in f".{_plain(size[0])}" for name in names)]
        if not sizes:
            return None
    named = [
        f"{_plain(name)} is {_shape(stored)}, and the base needs {_shape(wanted)}" for name, stored, wanted in sizes
    ]
    return name_some(named, 2)


def _stored(path: str, *, may_download: bool) -> dict[str, torch.Tensor] | None:
    """The adapter's weights on the `meta` device; None if they would have to be read or downloaded."""
    file = Path(path) / "adapter_model.safetensors"
    if file.is_file():
        return read_header(file)
    if not may_download:
        return None
    from peft import load_peft_weights

    with loading_errors("the adapter", ModelLocation(path)):
        return {name: weight.to("meta") for name, weight in load_peft_weights(path, device="cpu").items()}


def _plain(key: str) -> str:
    return key.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")


def _shape(size: str) -> str:
    return size.replace(", ", "×")
