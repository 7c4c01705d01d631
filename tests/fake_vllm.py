"""Stand-ins for vLLM, which needs CUDA: an engine and a server that answer with transformers, as far as TRL uses them.

They sample token by token, with a generator of each answer, and return processed log-probabilities. What vLLM refuses
they refuse: unknown or misshapen weights, other settings, and work while asleep.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

UNSEEDED = itertools.count(10**6)
"""Random states for requests without a seed: never the same twice."""


@dataclass
class SamplingParams:
    """The fields of vLLM's class that TRL sets."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 16
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False


def sample(model: Any, prompt: list[int], params: SamplingParams) -> list[tuple[list[int], list[float]]]:
    """`n` answers with the log-probabilities of their tokens. An answer includes the token that ends it."""
    assert (params.top_k, params.min_p, params.repetition_penalty) == (0, 0.0, 1.0), "not implemented here"
    answers = []
    for number in range(params.n):
        seed = next(UNSEEDED) if params.seed is None else params.seed + number
        generator = torch.Generator().manual_seed(seed)
        ids, logps = [], []
        while len(ids) < params.max_tokens:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float() / params.temperature
            order = logits.argsort(descending=True)
            probabilities = logits[order].softmax(0)
            logits[order[probabilities.cumsum(0) - probabilities >= params.top_p]] = -torch.inf
            token = int(logits.softmax(0).multinomial(1, generator=generator))
            ids.append(token)
            logps.append(float(logits.log_softmax(0)[token]))
            if token in params.stop_token_ids or (token == model.config.eos_token_id and not params.ignore_eos):
                break
        answers.append((ids, logps))
    return answers


class Weights:
    """A model whose weights are replaced by name."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.num_loaded = 0

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            assert own[name].shape == tensor.shape, name
            with torch.no_grad():
                own[name].copy_(tensor)
            self.num_loaded += 1


class LLM:
    """An engine in this process."""

    made: list[LLM] = []  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.weights = Weights(settings["model"])
        self.llm_engine = SimpleNamespace(
            model_executor=SimpleNamespace(
                driver_worker=SimpleNamespace(model_runner=SimpleNamespace(model=self.weights))
            )
        )
        self.awake = {"weights", "kv_cache"}
        self.calls: list[tuple[list[list[int]], SamplingParams]] = []
        self.num_resets = 0
        self.made.append(self)

    def generate(self, prompts: list[dict[str, Any]], sampling_params: SamplingParams, use_tqdm: bool) -> list[Any]:
        assert self.awake == {"weights", "kv_cache"}, "vLLM is asleep"
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.calls.append((ids, sampling_params))
        return [self._answer(prompt, sampling_params) for prompt in ids]

    def _answer(self, prompt: list[int], params: SamplingParams) -> Any:
        outputs = []
        for ids, logps in sample(self.weights.model, prompt, params):
            places = [{token: SimpleNamespace(rank=1, logprob=value)} for token, value in zip(ids, logps, strict=True)]
            outputs.append(
                SimpleNamespace(token_ids=tuple(ids), logprobs=places if params.logprobs is not None else None)
            )
        return SimpleNamespace(prompt_token_ids=prompt, outputs=outputs)

    def reset_prefix_cache(self) -> None:
        self.num_resets += 1

    def sleep(self, level: int) -> None:
        assert level == 2
        self.awake.clear()
        with torch.no_grad():
            for parameter in self.weights.model.parameters():
                parameter.fill_(torch.nan)  # they are discarded

    def wake_up(self, tags: list[str]) -> None:
        self.awake |= set(tags)


class Server:
    """A server of the endpoints that TRL's client calls, with the tokenizer and weights of a folder."""

    def __init__(self, folder: Path, **config: Any) -> None:
        from transformers import AutoTokenizer

        self.weights = Weights(str(folder))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_model_len: int = config.pop("max_model_len", 4096)
        defaults = {
            "weight_transfer_config": {"backend": "nccl"},
            "model_config": {"logprobs_mode": "processed_logprobs"},
        }
        self.config = {**defaults, **config}
        self.sent: queue.Queue[tuple[str, torch.Tensor]] = queue.Queue()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refuse_generation = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.reply(self, self.path.partition("?")[0], {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.reply(self, self.path, json.loads(body) if body else {})

            def log_message(self, format: str, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def reply(self, handler: BaseHTTPRequestHandler, path: str, body: dict[str, Any]) -> None:
        self.requests.append((path, body))
        status, answer = 200, self.answer(path, body)
        if answer is None:
            status, answer = 400, {"error": "refused"}
        data = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "served", "max_model_len": self.max_model_len}]}
        if path == "/server_info":
            return {"vllm_config": self.config}
        if path == "/get_world_size":
            return {"world_size": 1}
        if path == "/update_weights":
            for name, dtype, shape in zip(
                *(body["update_info"][key] for key in ("names", "dtype_names", "shapes")), strict=True
            ):
                sent, tensor = self.sent.get(timeout=20)
                assert (sent, str(tensor.dtype), list(tensor.shape)) == (name, f"torch.{dtype}", shape)
                self.weights.load_weights([(name, tensor)])
        if path == "/v1/completions":
            return self.complete(body)
        return {}

    def complete(self, body: dict[str, Any]) -> Any:
        if self.refuse_generation:
            return None
        special = body.pop("add_special_tokens", True)
        prompts = body.pop("prompt")
        if isinstance(prompts[0], str):
            assert special is False
            prompts = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
        for key in ("model", "return_token_ids", "return_tokens_as_token_ids"):
            body.pop(key)
        params = SamplingParams(**body)
        choices = []
        for prompt in prompts:
            for ids, logps in sample(self.weights.model, prompt, params):
                tokens = [f"token_id:{token}" for token in ids]
                tops = [{token: value} for token, value in zip(tokens, logps, strict=True)]
                known = {"tokens": tokens, "token_logprobs": logps, "top_logprobs": tops}
                logprobs = None if params.logprobs is None else known
                choices.append({"prompt_token_ids": prompt, "token_ids": ids, "logprobs": logprobs})
        return {"choices": choices}

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def pretend(patch: pytest.MonkeyPatch) -> None:
    """Have TRL and our checks find vLLM, and CUDA."""
    from trl.generation import vllm_client, vllm_generation

    from dpo_recipes.engine import vllm_checks
    from dpo_recipes.objectives import generation

    LLM.made = []
    patch.setattr(generation, "has_vllm", lambda: True)
    patch.setattr(vllm_checks, "has_cuda", lambda device: True)
    for module in (vllm_client, vllm_generation):
        patch.setattr(module, "is_vllm_available", lambda min_version=None: True)
    patch.setattr(vllm_generation, "empty_cache", lambda: None)
    patch.setattr(vllm_generation, "LLM", LLM, raising=False)
    patch.setattr(vllm_generation, "SamplingParams", SamplingParams, raising=False)


def connect(patch: pytest.MonkeyPatch, server: Server) -> None:
    """Have TRL's client send weights to the server through a queue, in place of NCCL."""
    from trl.generation import vllm_client

    class Engine:
        @staticmethod
        def trainer_send_weights(iterator: Iterator[tuple[str, torch.Tensor]], trainer_args: Any) -> None:
            # As packed tensors: nothing is read before all have been named.
            for name, tensor in list(iterator):
                server.sent.put((name, tensor.clone()))

    def init_communicator(self: Any, device: Any) -> None:
        self._post(f"{self.base_url}/init_weight_transfer_engine", json={"init_info": {}})
        self.communicator = SimpleNamespace(group=SimpleNamespace(store=None, socket=None))

    patch.setattr(vllm_client, "NCCLWeightTransferEngine", Engine, raising=False)
    patch.setattr(vllm_client, "NCCLTrainerSendWeightsArgs", SimpleNamespace, raising=False)
    patch.setattr(vllm_client.VLLMClient, "init_communicator", init_communicator)


def is_plain(text: str) -> bool:
    """Whether a text has no word of a traceback."""
    return "Traceback" not in text
