"""What can be known to be wrong with vLLM before weights are loaded: the device, and the server with its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dpo_recipes.errors import RunError
from dpo_recipes.model.precision import choose_device
from dpo_recipes.objectives.generation import Generation
from dpo_recipes.objectives.policy import PolicyParams
from dpo_recipes.recipe.schema import Recipe

_PROBE = "The 12 quick brown foxes jumped over 3,456 lazy dogs.\n  naïve café — 東京 ∑x² != f(x); return 0x1F\t😀"
"""A text that tokenizers of different models divide in different ways."""
_AT = ("objective", "generation")


def generation_of(recipe: Recipe) -> Generation | None:
    """The section of an objective that generates with vLLM; None for all others."""
    params = recipe.objective
    return params.generation if isinstance(params, PolicyParams) and params.generation.uses_vllm else None


def check_vllm(recipe: Recipe) -> None:
    """Check the device and the server, before data are read. Raises `RunError` T673 and T674."""
    generation = generation_of(recipe)
    if generation is None:
        return
    device = choose_device(recipe.hardware.device)
    if not has_cuda(device):
        raise RunError.of(
            "T673",
            f"vLLM needs a CUDA GPU, and this run is on {device}",
            at=(*_AT, "backend"),
            why="the weights of the policy are sent to vLLM from a CUDA device before each step",
            fix="write `backend: transformers`, or run it on a machine with an NVIDIA GPU",
        )
    if generation.server is not None:
        _connect(generation)


def check_vocabulary(recipe: Recipe, tokenizer: Any, added_ids: list[int]) -> None:
    """Check that vLLM reads and writes the tokens of the run, before weights are loaded. `added_ids` are tokens that
    the base does not have. Raises `RunError` T674 and T677."""
    generation = generation_of(recipe)
    if generation is None:
        return
    if added_ids:
        raise RunError.of(
            "T677",
            f"the chat template adds {len(added_ids)} tokens that vLLM does not know",
            at=("chat_template",),
            why="vLLM loads the base as it is, whose embeddings have no rows for them",
            fix="choose a template whose tokens the base has, such as its own (`chat_template: tokenizer`), or write "
            "`backend: transformers`",
        )
    if generation.server is None:
        return
    client = _connect(generation)
    with _answering(generation):
        listed = client.session.get(f"{client.base_url}/v1/models").json()["data"][0]
        options: dict[str, Any] = {"add_special_tokens": False}
        echoed = client.generate([_PROBE], max_tokens=1, logprobs=None, generation_kwargs=options)["prompt_ids"][0]
    expected = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if list(echoed) != expected:
        raise RunError.of(
            "T677",
            f"the model of the server, {client.model}, has another vocabulary than {recipe.model.path}",
            at=(*_AT, "server"),
            why=f"it divides a text into {len(echoed)} tokens, whose ids differ from the {len(expected)} of the "
            "recipe's tokenizer",
            fix=f"start the server with the base of the recipe: `vllm serve {recipe.model.path} ...` (docs/rl.md)",
        )
    longest = listed.get("max_model_len")
    if longest is not None and longest < recipe.data.max_length:
        raise RunError.of(
            "T677",
            f"the server reads at most {longest} tokens, and `data.max_length` is {recipe.data.max_length}",
            at=(*_AT, "server"),
            why="it would refuse long prompts in the middle of the run",
            fix=f"start it with `--max-model-len {recipe.data.max_length}`, or lower `data.max_length`",
        )


def has_cuda(device: str) -> bool:
    """Whether the run is on a CUDA device."""
    return device == "cuda" and torch.cuda.is_available()


def _connect(generation: Generation) -> Any:
    """TRL's client of the server. Raises `RunError` T674 if it does not answer, or has no engine for weights."""
    from trl.generation.vllm_client import VLLMClient

    with _answering(generation):
        client = VLLMClient(generation.address, connection_timeout=generation.server_timeout_s)
        config = client.get_server_info()
    if config.get("weight_transfer_config") is None:
        raise _no_server(generation, "it was started without an engine that takes weights")
    mode = (config.get("model_config") or {}).get("logprobs_mode")
    if generation.is_corrected and mode not in (None, "processed_logprobs"):
        raise _no_server(generation, f"it returns log-probabilities before the temperature (`--logprobs-mode {mode}`)")
    return client


@contextmanager
def _answering(generation: Generation) -> Iterator[None]:
    """Raise `RunError` T674 for an error of the server. TRL's client raises bare `Exception` for an HTTP status, and
    the errors of requests and of JSON."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _no_server(generation, reason[:400]) from error


def _no_server(generation: Generation, why: str) -> RunError:
    return RunError.of(
        "T674",
        f"the vLLM server at {generation.server} cannot be used",
        at=(*_AT, "server"),
        why=why,
        fix="start it before the run, with VLLM_SERVER_DEV_MODE=1 and the options in docs/rl.md, and check the "
        "address; `server_timeout_s` is how long the run waits for it",
    )
