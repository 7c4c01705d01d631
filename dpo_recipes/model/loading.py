"""Turns what transformers raises while it loads a model or tokenizer into errors with a hint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dpo_recipes import hub
from dpo_recipes.errors import (
    DpoRecipeError,
    RunError,
    causes,
    in_one_line,
    is_lack_of_machine,
    is_no_space,
    is_out_of_memory,
)
from dpo_recipes.hardware.machine import free_memory_bytes
from dpo_recipes.model.sources import ModelLocation


def lacks_memory(num_bytes: float, device: str) -> str | None:
    """Why a model with weights of this size cannot be loaded beside a trained one, or None. Libraries load a model into
    CPU memory before they move it to a GPU."""
    needed = 1.2 * num_bytes
    free = min(free_memory_bytes(kind) for kind in {"cpu", device})
    if needed < free:
        return None
    return f"loading it takes {needed / 2**30:.1f} GiB beside the trained one, and {free / 2**30:.1f} GiB are free"


@contextmanager
def loading_errors(what: str, location: ModelLocation, *, allow_pickle: bool = True) -> Iterator[None]:
    """Turn what transformers and huggingface_hub raise while loading into `RunError`.

    The codes are M504, M509 for the hub, M513 if the weights are pickle files, and T602 and T603 if not the model is at
    fault, but the machine lacks disk space or memory.
    """
    is_offline = not Path(location.path).is_absolute() and hub.go_offline_if_unreachable()
    try:
        yield
    except DpoRecipeError:  # already one of our errors, or a requested stop
        raise
    except Exception as error:  # a broken folder raises anything from KeyError to SafetensorError
        raise _explain(what, location, error, allow_pickle=allow_pickle, is_offline=is_offline) from error


def _explain(what: str, location: ModelLocation, error: Exception, *, allow_pickle: bool, is_offline: bool) -> RunError:
    """The error that says what stopped the loading."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if is_lack_of_machine(error):
        return _lack_of_machine(what, location, list(causes(error)))
    chain = list(causes(error))
    why = in_one_line(error)
    code, fix = "M504", "check that the folder is complete and holds a causal language model"
    if not allow_pickle and _has_only_pickle(location):
        code, fix = "M513", "save it as safetensors; or, if you trust its author, set `model.allow_pickle: true`"
        why = "its weights are pickle files (.bin), and opening one can execute arbitrary code"
    elif "custom code which must be executed" in why:
        fix = "if you trust its author, set `model.trust_remote_code: true` and pass `--trust-remote-code`"
    elif "does not recognize this architecture" in why:
        fix = "update transformers (`pip install -U transformers`), or correct `model_type` in its config.json"
    elif any(isinstance(cause, RevisionNotFoundError) for cause in chain):
        code, fix = "M509", "correct `model.revision`: a branch, a tag or a commit of the repository"
    elif any(isinstance(cause, GatedRepoError) for cause in chain):
        code, fix = "M509", "accept the model's terms on its page, then log in with `hf auth login`"
    elif any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        code, fix = "M509", "check the id; a private model needs `hf auth login`"
    elif (
        any(
            isinstance(cause, LocalEntryNotFoundError | HfHubHTTPError | ConnectionError | TimeoutError)
            for cause in chain
        )
        or "connect" in why.lower()
        or "offline" in why.lower()
    ):
        code, fix = (
            "M509",
            (
                "the hub cannot be reached and the model is not in the cache: check the network "
                "(`dpo-recipe doctor`), or use a local folder as `model.path`"
            ),
        )
        why = f"{hub.endpoint()} does not answer" if is_offline else why
    return RunError.of(code, f"cannot load {what} {location.path}", why=why, fix=fix)


def _lack_of_machine(what: str, location: ModelLocation, chain: Sequence[BaseException]) -> RunError:
    """The error for a machine without enough disk space or memory."""
    full = next(filter(is_no_space, chain), None)
    if full is not None:
        return RunError.of(
            "T602",
            f"no space is left to load {what} {location.path}",
            why=in_one_line(full),
            fix="free some space where the hub's files are kept (`HF_HOME`), and run again",
        )
    return RunError.of(
        "T603",
        f"there is not enough memory to load {what} {location.path}",
        why=in_one_line(next(filter(is_out_of_memory, chain))),
        fix="end other processes that use the memory of this device, use a device with more, or load fewer bits of "
        "each weight: `model.dtype` and `model.quantization` of a recipe, `dtype` of a reward model",
    )


def _has_only_pickle(location: ModelLocation) -> bool:
    """Whether the model has weights, and none as safetensors."""
    folder = Path(location.path)
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
    else:
        from huggingface_hub import list_repo_files

        try:
            names = list_repo_files(location.path, revision=location.revision)
        except (OSError, ValueError):  # the hub cannot be reached: the first error says why
            return False
    return any(name.endswith(".bin") for name in names) and not any(name.endswith(".safetensors") for name in names)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Suppress transformers' own loading report and progress bars; their content is reported as findings."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
