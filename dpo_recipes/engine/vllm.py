"""Answers that vLLM writes, in the process of the policy or on a server, with the weights that the policy has now.

TRL 1.16's `VLLMGeneration` and `VLLMClient` start vLLM, send the weights and ask for answers; docs/adr/0028 says what
is done differently here. `VLLMGeneration._iter_named_params` is private; tests/integration/test_upstream.py fails when
it moves.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.generation import Sampling, WrittenAnswers, seed_of
from dpo_recipes.engine.merged_weights import merged_parameters
from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.model.sequences import until_end
from dpo_recipes.model.sources import local_folder
from dpo_recipes.objectives.policy import PolicyParams


class _WeightSender(VLLMGeneration):
    """TRL's class, which leaves the base as it is when it adds the adapter to the weights that it sends."""

    def _iter_named_params(self) -> Generator[tuple[str, torch.Tensor]]:
        own = merged_parameters(self.model) if isinstance(self.model, PeftModel) else super()._iter_named_params()
        yield from own


class VllmWriter:
    """Lets vLLM write answers. All processes make it, and refresh it, at the same time."""

    def __init__(
        self, model: Any, accelerator: Any, bundle: ModelBundle, context: TrainingContext, sampling: Sampling
    ) -> None:
        """Starts vLLM, or connects to the server. Raises `RunError` T675."""
        params = context.recipe.objective
        assert isinstance(params, PolicyParams), "only a policy generates"
        generation = params.generation
        self._sampling, self._distributed = sampling, context.distributed
        self._vocabulary = len(bundle.tokenizer)
        self._is_current = False
        """Whether vLLM has the weights of the policy, unless a step has changed them."""
        settings = {
            "mode": "colocate" if generation.is_colocated else "server",
            "server_base_url": generation.address,
            "server_timeout": generation.server_timeout_s,
            "group_port": generation.group_port,
            "gpu_memory_utilization": generation.gpu_memory_utilization,
            "max_model_length": context.recipe.data.max_length,
            "max_num_seqs": sampling.batch_size,
            "enable_sleep_mode": generation.sleep,
            "trust_remote_code": bundle.trust_remote_code,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_completion_length": sampling.max_new_tokens,
            "logprobs": 0 if generation.is_corrected else None,  # 0: of the sampled token alone
        }
        with _explained("start vLLM"), _named_by_folder(model, bundle):
            self._vllm = _WeightSender(model, accelerator, bundle.tokenizer, **settings)
            self._client: Any = None
            if not generation.is_colocated:
                own = self._vllm.vllm_client if self._distributed.is_main else VLLMClient(generation.address)
                self._client = own

    def refresh(self) -> None:
        """Send the weights before the next answers."""
        self._is_current = False

    def write(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int], *, repeats: bool) -> WrittenAnswers:
        """`count` answers to each prompt, in the order of prompts. With `repeats`, equal seeds give equal random
        numbers; otherwise vLLM's own generator goes on, because one seed would be used for all prompts.

        Raises `RunError` T675 and T676.
        """
        with torch.no_grad():
            self._send_weights()
        # Answers end at our tokens alone: not at those that the base's generation configuration adds.
        more = {"stop_token_ids": list(self._sampling.end_ids), "ignore_eos": True}
        if repeats:
            more["seed"] = seed_of(*seeds) % 2**31
        with _explained("generate answers"):
            ids, logps = self._generate(list(prompts), count, more)
        answers = [list(map(int, answer)) for answer in ids]
        self._check(answers, len(prompts) * count)
        ended = [until_end(answer, self._sampling.end_ids)[0] for answer in answers]
        if logps is None:
            return WrittenAnswers(ended)
        # The sampled token is the only one of each position. None: vLLM could not compute it.
        first = [[float("nan") if place[0] is None else place[0] for place in answer] for answer in logps]
        if [len(answer) for answer in first] != [len(answer) for answer in answers]:
            raise _unusable("an answer has another number of log-probabilities than tokens")
        return WrittenAnswers(ended, [own[: len(answer)] for own, answer in zip(first, ended, strict=True)])

    def _send_weights(self) -> None:
        if self._is_current:
            return
        with _explained("take the weights of the policy"):
            if self._client is not None:  # another process may still be generating with the former weights
                self._distributed.wait()
            self._vllm.sync_weights()
            if self._client is not None:
                self._distributed.wait()
        self._is_current = True

    def _generate(self, prompts: list[list[int]], count: int, more: dict[str, Any]) -> tuple[Any, Any]:
        """The ids and log-probabilities of all answers to the first prompt, then to the second one, and so on."""
        vllm = self._vllm
        if self._client is None:
            # In one request for each prompt, whose answers differ also with a seed, and which is computed once.
            vllm.generation_kwargs = {**more, "n": count}
            _, ids, logps, _ = vllm.generate(prompts, None, count)
            return ids, logps
        # Each process asks by itself: TRL's `generate` needs the same number of prompts in all.
        output = self._client.generate(
            prompts,
            n=count,
            temperature=vllm.temperature,
            top_p=vllm.top_p,
            max_tokens=vllm.max_completion_length,
            logprobs=vllm.logprobs,
            generation_kwargs=more,
        )
        return output["completion_ids"], output["logprobs"]

    def _check(self, answers: list[list[int]], expected: int) -> None:
        if len(answers) != expected:
            raise _unusable(f"{expected} answers were requested, and {len(answers)} came")
        if any(not 1 <= len(answer) <= self._sampling.max_new_tokens for answer in answers):
            raise _unusable(f"an answer has no token, or more than {self._sampling.max_new_tokens}")
        highest = max(max(answer) for answer in answers)
        if highest >= self._vocabulary:
            raise _unusable(f"an answer has the token {highest}, and the tokenizer has {self._vocabulary}")


@contextmanager
def _named_by_folder(model: Any, bundle: ModelBundle) -> Iterator[None]:
    """The base with the folder of its files as its name, by which TRL has vLLM load it: a hub id alone would be loaded
    in its newest revision."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    own, base.name_or_path = base.name_or_path, str(local_folder(bundle.location) or bundle.location.path)
    try:
        yield
    finally:
        base.name_or_path = own


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise `RunError` T675 for the many kinds of errors of vLLM, its server, and the connection to it."""
    try:
        yield
    except (DpoRecipeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError.of(
            "T675",
            f"vLLM could not {what}",
            at=("objective", "generation"),
            why=f"{type(error).__name__}: {reason}"[:400],
            fix="read run.log, and the log of the server if there is one; the last checkpoint is kept, and the same "
            "command resumes from it. `backend: transformers` needs no vLLM",
        ) from error


def _unusable(why: str) -> RunError:
    return RunError.of(
        "T676",
        "vLLM returned answers that cannot be used",
        at=("objective", "generation"),
        why=why,
        fix="compare the installed versions with those that TRL supports (`pip show trl vllm`), or write "
        "`backend: transformers`",
    )
