"""Rewards from a reward model, with its own tokenizer, template, special tokens and length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from dpo_recipes.data.chat_template import Chat, apply_template, missing_tokens
from dpo_recipes.data.encode import Encoder
from dpo_recipes.data.fit_length import first_ids
from dpo_recipes.data.render import render_row
from dpo_recipes.data.rows import Row
from dpo_recipes.errors import RunError
from dpo_recipes.finished_run import open_run
from dpo_recipes.hardware.rules import best_dtype
from dpo_recipes.model.build import load_config
from dpo_recipes.model.heads import auto_class, head_modules, is_classifier, is_encoder, reads_token_types
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.missing_weights import judge_weights
from dpo_recipes.model.positions import num_positions
from dpo_recipes.model.precision import choose_attention, choose_device, describe_device
from dpo_recipes.model.sources import ModelLocation, resolve_model
from dpo_recipes.model.tokenizer import load_tokenizer
from dpo_recipes.recipe.schema.model import Model
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.rewards.base import Columns, Prompt, RewardContext
from dpo_recipes.run_dir import RunDirectory

Ids = tuple[list[int], list[int]]
"""The token ids of a prompt and of an answer to it."""


class RewardModel:
    """A loaded reward model. Its numbers equal those of the model itself for the text of a prompt with an answer."""

    def __init__(self, model: Any, tokenizer: Any, chat: Chat, max_length: int | None, batch_size: int) -> None:
        self._model, self._chat = model.eval().requires_grad_(False), chat
        config = model.config.get_text_config()
        config.pad_token_id = tokenizer.pad_token_id  # decoders find the last token of a text by it
        self._pad = tokenizer.pad_token_id
        self._has_token_types = reads_token_types(model.config, tokenizer)
        self._encoder = Encoder(tokenizer, chat.template.text)
        self._max_length, self._batch_size = max_length, batch_size
        score_in_32_bits(model)

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """The model's number for each answer. Texts of similar length share a batch."""
        encoded = list(self.encode(prompts, answers))
        order = sorted(range(len(encoded)), key=lambda place: -sum(map(len, encoded[place])))
        values = [0.0] * len(encoded)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            found = self._model(**self._collate([encoded[place] for place in places])).logits
            for place, value in zip(places, found.float()[:, 0].tolist(), strict=True):
                values[place] = value
        return values

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Iterator[Ids]:
        """The ids of each prompt and answer, shortened to the model's length."""
        texts = [
            render_row(
                Row(list(prompt), ([{"role": "assistant", "content": answer}],), "a prompt"), self._chat.renderer
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        for ids in self._encoder.encode(texts):
            yield self._shortened(ids.prompt_ids, ids.answer_ids[0])

    def _shortened(self, prompt: list[int], answer: list[int]) -> Ids:
        """Cut the start of the prompt, and before that the end of an answer that would leave no token of it. The tokens
        in which the text is framed stay."""
        if self._max_length is None or len(prompt) + len(answer) <= self._max_length:
            return prompt, answer
        start = prompt[:1] if prompt[:1] == [self._encoder.first_token_id] else []
        answer = first_ids(answer, self._max_length - len(start) - 1, self._encoder.last_token_id)
        excess = len(prompt) + len(answer) - self._max_length
        return ([*start, *prompt[excess + len(start) :]] if excess > 0 else prompt), answer

    def _collate(self, rows: Sequence[Ids]) -> dict[str, torch.Tensor]:
        """A batch [B, L], padded on the right."""
        sequences = [torch.tensor([*prompt, *answer]) for prompt, answer in rows]
        masks = [torch.ones_like(sequence) for sequence in sequences]
        batch = {
            "input_ids": pad_sequence(sequences, batch_first=True, padding_value=self._pad),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }
        if self._has_token_types:
            types = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in rows]
            batch["token_type_ids"] = pad_sequence(types, batch_first=True)
        return {name: tensor.to(self._model.device) for name, tensor in batch.items()}


def load_reward_model(settings: ModelReward, context: RewardContext) -> RewardModel:
    """Load a finished run, a local folder or a hub model.

    Raises `RunError` M528 (no score head), M529 (the tokenizer lacks tokens of the template), M526 (`max_length` beyond
    the positions), T640 to T642 (a run), and those of loading a model.
    """
    device = context.device if settings.device == "auto" else choose_device(settings.device)
    path = Path(settings.model)
    if RunDirectory(path).resolved_recipe.is_file():
        return _of_run(path, settings, device, context)
    return _of_folder(settings, device, context)


def _of_run(path: Path, settings: ModelReward, device: str, context: RewardContext) -> RewardModel:
    run = open_run(path)
    if run.objective.head != "score":
        raise _no_score_head(
            settings.model, f"the run trained `kind: {run.objective.kind}`, whose model predicts tokens"
        )
    dtype = None if settings.dtype == "auto" else settings.dtype
    loaded = run.load(device=device, dtype=dtype, trust_remote_code=context.trust_remote_code)
    trained = run.recipe.data.max_length
    length = _max_length(loaded.policy, settings, trained)
    return RewardModel(loaded.policy, loaded.tokenizer, loaded.chat, length, settings.batch_size)


def _of_folder(settings: ModelReward, device: str, context: RewardContext) -> RewardModel:
    location = resolve_model(Model(path=settings.model, revision=settings.revision))
    config = load_config(location, trust_remote_code=context.trust_remote_code)
    if not is_classifier(config):
        kind = ", ".join(config.architectures or ["no architecture"])
        raise _no_score_head(settings.model, f"its config.json names {kind}")
    if config.num_labels != 1:
        raise _no_score_head(settings.model, f"it returns {config.num_labels} numbers for a text, as a classifier does")
    encodes = is_encoder(config)
    tokenizer = load_tokenizer(location, trust_remote_code=context.trust_remote_code, is_encoder=encodes)
    chat = apply_template(tokenizer, settings.chat_template, False, is_encoder=encodes)
    if lacking := missing_tokens(tokenizer, chat.template):
        raise _missing_tokens(lacking, chat)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = best_dtype(describe_device(device), model_type=config.model_type)
    model = _load(location, config, dtype, device, trust_remote_code=context.trust_remote_code)
    return RewardModel(model, tokenizer, chat, _max_length(model, settings, None), settings.batch_size)


def _load(location: ModelLocation, config: Any, dtype: str, device: str, *, trust_remote_code: bool) -> Any:
    attention = choose_attention("auto", device, dtype)
    chosen = {} if attention is None else {"attn_implementation": attention}
    with loading_errors("the model", location, allow_pickle=False):
        loaded: Any = auto_class("score").from_pretrained(
            location.path,
            config=config,
            revision=location.revision or "main",
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **chosen,
        )
    model, info = loaded
    judge_weights(info, model, location.path)  # also the head must be there: it is not to be trained
    return model.to(device)


def _max_length(model: Any, settings: ModelReward, trained: int | None) -> int | None:
    """The longest text in tokens; None without a limit. Raises `RunError` M526."""
    positions = num_positions(model)
    if settings.max_length is not None and positions is not None and settings.max_length > positions:
        raise RunError.of(
            "M526",
            f"{settings.model} reads at most {positions} tokens, and `max_length` is {settings.max_length}",
            why="its table of positions has no more rows",
            fix=f"write `max_length: {positions}`, or remove it",
        )
    lengths = [length for length in (settings.max_length or trained, positions) if length is not None]
    return min(lengths, default=getattr(model.config.get_text_config(), "max_position_embeddings", None))


def score_in_32_bits(model: Any) -> None:
    """Let the head compute in 32 bits: in bfloat16, rewards between 4 and 8 would be multiples of 1/32."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name in head_modules(base):
        module = base.get_submodule(name)
        module.float()
        module.register_forward_pre_hook(_to_32_bits)


def _to_32_bits(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() if torch.is_tensor(value) else value for value in arguments)


def _no_score_head(path: str, why: str) -> RunError:
    """The error M528."""
    return RunError.of(
        "M528",
        f"{path} has no score head",
        why=f"a reward model returns one number for a text; {why}",
        fix="train one with `objective: {kind: reward}` and give its run directory",
    )


def _missing_tokens(lacking: Sequence[str], chat: Chat) -> RunError:
    return RunError.of(
        "M529",
        f"the tokenizer lacks {', '.join(lacking)}, which the chat template `{chat.template.name}` writes",
        why="each would be several tokens of ordinary text, which the model was not trained on",
        fix="set `chat_template` of this source to the template that the model was trained with",
    )
