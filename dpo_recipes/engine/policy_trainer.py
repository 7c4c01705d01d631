"""The trainer of objectives whose policy writes answers that are rewarded.

TRL's RLOOTrainer and GRPOTrainer are not used; docs/adr/0024 says why. The losses are compared with theirs by a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from trl.trainer.utils import add_fused_lm_head

from dpo_recipes.data.rows import Row
from dpo_recipes.data.tokenize import ANSWERS, PROMPT, ROW
from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.collators import (
    ADVANTAGES,
    OLD_LOGPS,
    OLD_TOKEN_LOGPS,
    PROMPT_MASK,
    REFERENCE_TOKEN_LOGPS,
    PromptCollator,
)
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.generation import Sampling, seed_of
from dpo_recipes.engine.loss_trainer import LossTrainer
from dpo_recipes.engine.metric_counts import RowMetricCounts
from dpo_recipes.engine.micro_batch import MICRO_BATCH
from dpo_recipes.engine.policy_sampler import StepsSampler
from dpo_recipes.engine.rollouts import Rollout, RolloutWriter
from dpo_recipes.errors import DataError
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.objectives.base import Scores
from dpo_recipes.objectives.policy import PolicyObjective, PolicyParams
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.rewards.base import RewardContext, RewardSources

Batch = dict[str, Any]
_FILE = "rollouts.safetensors"


class PolicyTrainer(LossTrainer):
    """Writes and scores the answers of a whole optimizer step, and then computes its micro-batches as those of any
    other objective: a row with its K answers is one group.

    `get_batch_samples` is transformers' (5.24), which asks it for the micro-batches of a step.
    """

    objective: PolicyObjective
    params: PolicyParams

    def __init__(
        self, bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[TrainerCallback]
    ) -> None:
        self.bundle = bundle
        self.reference_policy: Any = None
        """The untouched base of a full fine-tuning; with an adapter it is the policy without it."""
        self._step_batches: list[Batch] = []
        """The micro-batches of the last answers that were written."""
        self._num_uses = 0
        """How many optimizer steps have used them."""
        super().__init__(bundle, context, datasets, callbacks)

    def _prepare(self, datasets: dict[str, Any]) -> None:
        params, chat, tokenizer = self.params, self.bundle.chat, self.bundle.tokenizer
        pad = self.data_collator.pad_token_id
        self.answer_collator, self.data_collator = self.data_collator, PromptCollator(pad)
        self._check_prompts()
        context = RewardContext(
            self.context.device, self.context.reward_functions, trust_remote_code=self.bundle.trust_remote_code
        )
        sampling = Sampling(
            params.max_new_tokens,
            params.temperature,
            params.top_p,
            params.generation_batch_size,
            pad,
            tuple(sorted({*chat.end_ids, tokenizer.eos_token_id})),
        )
        sources = RewardSources(params.rewards, context)
        self.writer = RolloutWriter(tokenizer, sampling, sources, params.num_generations)
        super()._prepare(datasets)
        if self.has_reference and not isinstance(self.model, PeftModel):
            self.reference_policy = reload_base(self.context.recipe, self.bundle, self.bundle.device)
            self.reference_policy.eval().requires_grad_(False)
            add_fused_lm_head(self.reference_policy, temperature=params.temperature, outputs=("log_probs", "entropy"))

    def _check_prompts(self) -> None:
        """Raise `DataError` D418 if a reward model would read prompts in the template of the policy."""
        first = self._row("train", self.train_dataset[0][ROW])
        if first.rendered and any(isinstance(source, ModelReward) for source in self.params.rewards):
            raise DataError.of(
                "D418",
                f"{first.where} has a prompt that a template has already rendered",
                why="a reward model reads prompts in its own template, and needs the messages",
                fix="use a `format` with messages or plain texts, such as `prompt` or `preference`",
            )

    @property
    def has_reference(self) -> bool:
        """Whether the KL divergence from the untouched base has a weight."""
        return self.objective.reference(self.params) != "none"

    def _row(self, split: str, place: int) -> Row:
        assert self.context.row_of is not None, "a trainer that is only measured writes no answers"
        return self.context.row_of(split, place)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [PROMPT, ROW]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return StepsSampler(len(rows), per_step, self.params.num_iterations, args.seed)

    def collate_trial(self, rows: list[Any]) -> Batch:
        """The rows with answers of the greatest length, of which no two begin alike."""
        count, length = self.params.num_generations, self.params.max_new_tokens
        pad = self.answer_collator.pad_token_id
        answers = [[place, *[pad] * (length - 1)] for place in range(count)]
        batch = self.answer_collator([{PROMPT: row[PROMPT], ANSWERS: answers} for row in rows])
        return {**batch, ADVANTAGES: torch.zeros(len(rows), count)}

    # A step

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any) -> tuple[Any, Any]:
        """The micro-batches of the next step, with answers that the policy has just written, or with those of the step
        before if they serve several."""
        prompts = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not prompts:
            return prompts, None
        if not self._step_batches or self._num_uses == self.params.num_iterations:
            self._step_batches, self._num_uses = self._write_step(prompts), 0
        self._num_uses += 1
        batches = [dict(batch) for batch in self._step_batches]  # a step takes its micro-batch out of each
        return batches, self._get_num_items_in_batch(batches, device)

    def _write_step(self, prompts: list[Batch]) -> list[Batch]:
        seed = seed_of(self.args.seed, "train", self.state.global_step, self.distributed.rank)
        rollouts = self._roll_out(prompts, "train", seed)
        batches = [
            self._scored(rollout, batch, is_evaluation=False) for rollout, batch in zip(rollouts, prompts, strict=True)
        ]
        if self.objective.normalizes_step(self.params):
            self._normalize(batches)
        return batches

    def _roll_out(self, prompts: list[Batch], split: str, seed: int) -> list[Rollout]:
        batches = []
        for batch in prompts:
            ids = [row[mask.bool()].tolist() for row, mask in zip(batch[PROMPT], batch[PROMPT_MASK], strict=True)]
            batches.append((ids, [self._row(split, place) for place in batch[ROW].tolist()]))
        with self.accelerator.autocast():
            return self.writer.write(self.model, batches, seed)

    def _scored(self, rollout: Rollout, prompts: Batch, *, is_evaluation: bool) -> Batch:
        """The micro-batch of a rollout with its advantages and, as far as the loss needs them, the log-probabilities of
        the policy now and of the reference; for an evaluation, only the rewards less the KL penalty. Counts the metrics
        of the rollout."""
        device, params, objective = self.accelerator.device, self.params, self.objective
        rows = [{PROMPT: ids, ANSWERS: group} for ids, group in zip(rollout.prompts, rollout.answers, strict=True)]
        batch = {name: tensor.to(device) for name, tensor in self.answer_collator(rows).items()}
        in_reward = objective.puts_kl_into_reward(params)
        keeps = params.num_iterations > 1
        old = self._policy_scores(batch) if in_reward or keeps or (is_evaluation and self.has_reference) else None
        reference = self._reference_scores(batch) if self.has_reference else None
        kl = None
        if old is not None and reference is not None:
            assert old.logps is not None
            assert reference.logps is not None
            kl = old.logps - reference.logps
        mode = "eval" if is_evaluation else "train"
        counts = self.metric_counts
        assert isinstance(counts, RowMetricCounts), "as the trainer of all objectives with a loss has them"
        counts.add(mode, self._values(rollout, prompts, kl, old), 0)
        if is_evaluation:
            penalty = 0.0 if kl is None else params.beta * kl.cpu()
            batch[_GAIN] = rollout.rewards - penalty
            return batch
        rewards = objective.clipped(params, rollout.rewards, rollout.is_cut).to(device)
        batch[ADVANTAGES] = objective.advantages(params, rewards, kl if in_reward else None)
        if keeps and old is not None:
            assert old.logps is not None
            batch[OLD_LOGPS] = old.logps
            if old.of_tokens is not None:
                batch[OLD_TOKEN_LOGPS] = old.of_tokens.logps
        if reference is not None and reference.of_tokens is not None:
            batch[REFERENCE_TOKEN_LOGPS] = reference.of_tokens.logps
        if MICRO_BATCH in prompts:
            batch[MICRO_BATCH] = prompts[MICRO_BATCH]
        return batch

    @torch.no_grad()
    def _policy_scores(self, batch: Batch) -> Scores:
        with in_evaluation_mode(self.model), self.accelerator.autocast():
            return self.scores(self.model, batch)[0]

    def _reference_scores(self, batch: Batch) -> Scores:
        if self.reference_policy is None:
            return self.reference_scores(self.model, batch)
        with torch.no_grad(), self.accelerator.autocast():
            return self.scores(self.reference_policy, batch)[0]

    def _values(
        self, rollout: Rollout, prompts: Batch, kl: torch.Tensor | None, old: Scores | None
    ) -> dict[str, tuple[Any, Any]]:
        """The metrics of a rollout as sums and numbers; none for a micro-batch that does not count."""
        if not self._counts(prompts):
            return {}
        values: dict[str, tuple[Any, Any]] = dict(rollout.metrics())
        if kl is not None and old is not None:
            assert old.num_tokens is not None
            values["kl"] = kl.sum(), old.num_tokens.sum()
        return values

    def _normalize(self, batches: list[Batch]) -> None:
        """Bring the advantages of the step, over all processes, to a mean of 0 and a deviation of 1."""
        own = [batch[ADVANTAGES] for batch in batches if self._counts(batch)]
        values = torch.cat(own) if own else batches[0][ADVANTAGES][:0]
        of_step = torch.stack([values.sum(), values.square().sum(), torch.ones_like(values).sum()]).double()
        total, squares, count = self.accelerator.reduce(of_step, reduction="sum").tolist()
        mean = total / count
        deviation = max(0.0, (squares - count * mean**2) / (count - 1)) ** 0.5
        for batch in batches:
            batch[ADVANTAGES] = (batch[ADVANTAGES] - mean) / (deviation + 1e-4)

    def _counts(self, batch: Batch) -> bool:
        return MICRO_BATCH not in batch or batch[MICRO_BATCH].has_rows(self.distributed.rank)

    def scores(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Scores, torch.Tensor | None]:
        """What the model computes of a micro-batch, with what is known of its answers."""
        scores, router_loss = super().scores(model, inputs)
        scores.advantages = inputs.get(ADVANTAGES)
        assert scores.logps is not None
        # Answers of this step were written by the policy as it is.
        scores.old_logps = inputs.get(OLD_LOGPS, scores.logps.detach())
        if scores.of_tokens is not None:
            scores.of_tokens.old_logps = inputs.get(OLD_TOKEN_LOGPS)
            scores.of_tokens.reference_logps = inputs.get(REFERENCE_TOKEN_LOGPS)
        return scores, router_loss

    # An evaluation

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """Minus the reward of answers to a batch of held-out prompts, plus the KL penalty. The same random numbers are
        used in each evaluation."""
        self.micro_batch = inputs.get(MICRO_BATCH)
        split = "test" if self.eval_dataset is self.test_dataset else "eval"
        seed = seed_of(self.args.seed, split, inputs[ROW].tolist())
        (rollout,) = self._roll_out([inputs], split, seed)
        gain = self._scored(rollout, inputs, is_evaluation=True)[_GAIN]
        return -gain.mean().to(self.accelerator.device), None, None

    # A checkpoint

    def save_more(self, folder: Path) -> None:
        """Write the answers that further steps will use."""
        if self._num_uses == self.params.num_iterations or not self._step_batches:
            return
        tensors = {
            f"{place}/{name}": tensor.contiguous()
            for place, batch in enumerate(self._step_batches)
            for name, tensor in batch.items()
        }
        save_file(tensors, folder / _FILE, {"uses": str(self._num_uses)})

    def load_more(self, folder: Path) -> None:
        """Restore them."""
        from safetensors import safe_open

        self._step_batches, self._num_uses = [], 0
        path = folder / _FILE
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            self._num_uses = int(file.metadata()["uses"])
        batches: dict[int, Batch] = {}
        for key, tensor in load_file(path, self.accelerator.device.type).items():
            place, _, name = key.partition("/")
            batches.setdefault(int(place), {})[name] = tensor
        self._step_batches = [batches[place] for place in sorted(batches)]


_GAIN = "gain"
"""The key of the rewards less the KL penalty, [B, K], of a batch of an evaluation."""
