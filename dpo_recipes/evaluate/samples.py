"""Answers to a few prompts, decoded greedily."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dpo_recipes.data.render import render_prompt
from dpo_recipes.data.rows import Message, Row, answer_names
from dpo_recipes.data.tokenize import TokenizedSplits
from dpo_recipes.recipe.schema.evaluation import Evaluation
from dpo_recipes.run_result import AnswerWords, Sample

_BATCH = 8


class ChatModel(Protocol):
    """What generating answers needs beside the model: a `ModelBundle` in training, a `LoadedModel` afterwards."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with a padding token."""
        ...

    @property
    def chat(self) -> Any:
        """The chat template with the tokens that end an answer (`data.chat_template.Chat`)."""
        ...


@dataclass
class Samples:
    """A few prompts and the answers that each version of the model gave to them."""

    rows: list[Row]
    max_new_tokens: int
    answers: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def choose(cls, tokenized: TokenizedSplits, evaluation: Evaluation, *, generates: bool = True) -> Samples:
        """`num_samples` rows spread evenly over the held-out ones (else the training ones): always the same ones.
        No rows if the model does not generate, as a reward model."""
        split = next(name for name in ("eval", "test", "train") if name in tokenized.datasets)
        num_rows = len(tokenized.datasets[split])
        count = min(evaluation.num_samples, num_rows) if generates else 0
        rows = [tokenized.row(split, index * num_rows // count) for index in range(count)]
        return cls(rows, evaluation.max_new_tokens)

    def ask(self, version: str, model: Any, bundle: ChatModel) -> None:
        """Let a version of the model (`base` or `tuned`) answer all prompts."""
        self.answers[version] = self.answer(model, bundle, len(self.rows))

    def answer(self, model: Any, bundle: ChatModel, count: int) -> list[str]:
        """The model's answers to the first `count` prompts."""
        return generate_answers(model, bundle, self.prompts(bundle)[:count], self.max_new_tokens)

    def prompts(self, bundle: ChatModel) -> list[str]:
        """The rendered prompts."""
        return [render_prompt(row, bundle.chat.renderer) for row in self.rows]

    def side_by_side(self) -> list[Sample]:
        """One sample for each prompt, with the answers of each version and those in the data by their names."""
        return [
            Sample(
                prompt=_as_text(row.prompt),
                **{version: answers[index] for version, answers in self.answers.items()},
                **dict(zip(answer_names(len(row.answers)), map(_as_text, row.answers), strict=True)),
            )
            for index, row in enumerate(self.rows)
        ]

    def answer_words(self) -> AnswerWords | None:
        """Mean number of words of each version's answers, and over how many prompts."""
        if not self.rows:
            return None
        means = {
            version: round(statistics.fmean(len(answer.split()) for answer in answers), 1)
            for version, answers in self.answers.items()
        }
        return AnswerWords(**means, prompts=len(self.rows))


def _as_text(messages: Sequence[Message]) -> str:
    """The content of one message, or several messages with the role of each."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def generate_answers(model: Any, bundle: ChatModel, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """The model's greedy answer to each rendered prompt, without special tokens."""
    ids = [answer for _, answer in generate_ids(model, bundle, prompts, max_new_tokens, do_sample=False)]
    return [answer.strip() for answer in bundle.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@torch.no_grad()  # FSDP would keep tensors of an inference mode for the training that follows
def generate_ids(
    model: Any, bundle: ChatModel, prompts: Sequence[str], max_new_tokens: int, **sampling: Any
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each rendered prompt and of the model's answer to it, up to the token that ends the answer.
    `sampling` are arguments of transformers' `generate`."""
    model.eval()
    tokenizer, ends = bundle.tokenizer, sorted(bundle.chat.end_ids)
    found: list[tuple[list[int], list[int]]] = []
    for start in range(0, len(prompts), _BATCH):
        texts = list(prompts[start : start + _BATCH])
        batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(
            model.device
        )
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
            **sampling,
        )
        width = batch["input_ids"].shape[1]
        for row, mask in zip(output.tolist(), batch["attention_mask"].tolist(), strict=True):
            answer = row[width:]
            end = next((place for place, token in enumerate(answer, 1) if token in ends), len(answer))
            found.append((row[width - sum(mask) : width], answer[:end]))
    return found
